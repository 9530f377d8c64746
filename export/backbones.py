"""The table of backbones: what each one's features are made of.

Knows names and numbers only; no torch, no files. Layers are block indices from 0, as timm counts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from export.errors import BadInput

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class ResizeRule:
    """How a crop is brought to the input size; the orchestrator carries it out.

    interpolation "area_cubic": area where the crop shrinks, bicubic where it grows.
    padding: how the letterbox around a crop of another aspect is filled.
    """

    padding: Literal["black", "edge", "reflect"]
    rule: Literal["letterbox"] = "letterbox"
    interpolation: Literal["area_cubic"] = "area_cubic"


@dataclass(frozen=True, slots=True)
class Backbone:
    """One row of the table.

    input_size: (H, W) px, a multiple of patch_size. layers: the blocks whose tokens are concatenated.
    final_norm: the ViT's last LayerNorm is applied to every one of them. mean, std: for RGB in [0, 1].
    architecture: arguments that override timm's for `timm_id`. hub_id: where timm keeps weights for it.
    """

    name: str
    kind: Literal["vit", "scattering"]
    input_size: tuple[int, int]
    patch_size: int
    resize: ResizeRule
    timm_id: str | None = None
    layers: tuple[int, ...] = ()
    final_norm: bool = False
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    architecture: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    hub_id: str | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """Token grid (R, C)."""
        return self.input_size[0] // self.patch_size, self.input_size[1] // self.patch_size


_VITS14 = "vit_small_patch14_dinov2.lvd142m"
_VITS14_REG = "vit_small_patch14_reg4_dinov2.lvd142m"
_VITB14 = "vit_base_patch14_dinov2.lvd142m"


def _vit(
    name: str,
    timm_id: str,
    side: int,
    layers: tuple[int, ...] = (11,),
    *,
    architecture: Mapping[str, int] | None = None,
) -> Backbone:
    return Backbone(
        name=name,
        kind="vit",
        input_size=(side, side),
        patch_size=14,
        resize=ResizeRule(padding="black"),
        timm_id=timm_id,
        layers=layers,
        final_norm=True,
        architecture=MappingProxyType(dict(architecture or {})),
        hub_id=None if architecture else f"timm/{timm_id}",
    )


BACKBONES: Mapping[str, Backbone] = MappingProxyType(
    {
        backbone.name: backbone
        for backbone in (
            _vit("dinov2_vits14", _VITS14, 448),
            _vit("dinov2_vits14_reg", _VITS14_REG, 448),
            _vit("dinov2_vitb14", _VITB14, 448),
            _vit("dinov2_vits14_518", _VITS14, 518),
            _vit("dinov2_vits14_672", _VITS14, 672),
            _vit("dinov2_vits14_l9_11", _VITS14, 448, (9, 10, 11)),
            # DINOv2's own architecture, small enough that a test exports it in seconds.
            _vit("tiny", _VITS14, 112, (2,), architecture={"embed_dim": 64, "depth": 3, "num_heads": 4}),
            Backbone(
                name="scattering",
                kind="scattering",
                input_size=(448, 448),
                patch_size=14,
                # A wavelet answers to the step at a black border; a mirrored one has none.
                resize=ResizeRule(padding="reflect"),
                mean=(0.0, 0.0, 0.0),
                std=(1.0, 1.0, 1.0),
            ),
        )
    }
)


def find_backbone(name: str) -> Backbone:
    """Give the table's row.

    Raises BadInput where there is none.
    """
    try:
        return BACKBONES[name]
    except KeyError:
        raise BadInput(f"There is no backbone {name!r}; choose one of {', '.join(BACKBONES)}.") from None
