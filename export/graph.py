"""The served graph in torch: a uint8 image becomes L2-normalised patch tokens.

Owns the colour normalisation, the choice of layers, the final LayerNorm and the L2 normalisation, so that
none of them can drift between the exporter and a server. Knows no weights and no files.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from export.backbones import Backbone, Triple
from export.torchvision_ops import declare_torchvision_ops

# The square of the smallest length that is still divided by; a zero token stays zero.
_MIN_SQUARED_NORM = 1e-24


class VitTokens(nn.Module):
    """A timm ViT's patch tokens of chosen blocks, concatenated; prefix tokens (CLS, registers) are dropped.

    vit: a timm VisionTransformer. layers: block indices. final_norm: apply the ViT's last LayerNorm to each
    of them; timm leaves it out of intermediates unless asked.
    """

    def __init__(self, vit: Any, layers: tuple[int, ...], *, final_norm: bool) -> None:
        super().__init__()
        self.vit = vit
        self.layers = layers
        self.final_norm = final_norm
        self.dim = len(layers) * int(vit.embed_dim)
        # Written out, attention exports as MatMul, Softmax, MatMul without shape arithmetic between them.
        for module in vit.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False

    def forward(self, rgb: Tensor) -> Tensor:
        """Map (B, 3, H, W) float32, normalised, to (B, N, D) float32."""
        tokens = self.vit.forward_intermediates(
            rgb,
            indices=list(self.layers),
            norm=self.final_norm,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        fused: Tensor = torch.cat(tokens, dim=-1) if len(tokens) > 1 else tokens[0]
        return fused


class FeatureGraph(nn.Module):
    """Pre-processing, features and L2 normalisation in one graph.

    features: maps (B, 3, H, W) float32 to (B, N, D) float32. mean, std: for RGB in [0, 1].
    """

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, features: nn.Module, *, mean: Triple, std: Triple) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64).mul(255).float())
        self.register_buffer(
            "inverse_std", torch.tensor(std, dtype=torch.float64).mul(255).reciprocal().float()
        )

    @property
    def dim(self) -> int:
        """D of a token."""
        return int(self.features.dim)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, H, W, 3) uint8 RGB to (B, N, D) float16, each token of length 1 (or 0)."""
        return self.float_tokens(image).to(torch.float16)

    def float_tokens(self, image: Tensor) -> Tensor:
        """Give the tokens before their last cast: (B, N, D) float32."""
        rgb = (image.to(torch.float32) - self.mean) * self.inverse_std
        tokens: Tensor = self.features(rgb.permute(0, 3, 1, 2))
        squared_norm = (tokens * tokens).sum(dim=-1, keepdim=True)
        return tokens / squared_norm.clamp_min(_MIN_SQUARED_NORM).sqrt()


def build_features(backbone: Backbone) -> nn.Module:
    """Build a backbone's feature module; a ViT gets timm's initial values from torch's generator."""
    if backbone.kind == "scattering":
        from export.scattering import ScatteringFeatures

        scattering: nn.Module = ScatteringFeatures(input_size=backbone.input_size[0], grid=backbone.grid[0])
        return scattering.eval()
    declare_torchvision_ops()
    import timm

    vit = timm.create_model(
        backbone.timm_id,
        pretrained=False,
        num_classes=0,
        img_size=backbone.input_size,
        dynamic_img_size=False,
        **backbone.architecture,
    )
    return VitTokens(vit, backbone.layers, final_norm=backbone.final_norm).eval()


def build_graph(backbone: Backbone, features: nn.Module) -> FeatureGraph:
    """Put a backbone's pre-processing and normalisation around its features."""
    return FeatureGraph(features, mean=backbone.mean, std=backbone.std).eval()
