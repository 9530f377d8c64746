from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.backbones import Backbone, find_backbone
from export.graph import FeatureGraph, VitTokens, build_features, build_graph
from export.parity import structured_images
from export.weights import load_features
from tests.export.conftest import vit_of


def _images(count: int = 2) -> Tensor:
    return torch.from_numpy(structured_images(count, (112, 112), seed=3))


def _normalised(images: Tensor) -> Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def _opened(backbone: Backbone) -> VitTokens:
    features, _ = load_features(backbone, "random", seed=1)
    assert isinstance(features, VitTokens)
    # Norm weights start at 1 and 0; drawn, they show where a norm is left out or doubled.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in features.vit.named_parameters():
            if "norm" in name:
                value.add_(0.5 * torch.randn(value.shape, generator=generator))
    return features


@torch.inference_mode()
def test_tokens_are_timms_normed_patch_tokens() -> None:
    backbone = find_backbone("tiny")
    features = _opened(backbone)
    normed = features.vit.forward_features(_normalised(_images()))[:, 1:]
    torch.testing.assert_close(features(_normalised(_images())), normed, rtol=1e-5, atol=1e-5)
    unnormed = features.vit.forward_intermediates(
        _normalised(_images()), indices=[2], norm=False, output_fmt="NLC", intermediates_only=True
    )[0]
    assert (unnormed - normed).abs().max() > 0.1


@torch.inference_mode()
def test_served_tokens_are_the_normed_ones_at_length_one(tiny_graph: FeatureGraph) -> None:
    vit = vit_of(tiny_graph.features)
    expected = nn.functional.normalize(vit.forward_features(_normalised(_images()))[:, 1:], dim=-1)
    torch.testing.assert_close(tiny_graph.float_tokens(_images()), expected, rtol=1e-4, atol=1e-5)
    assert tiny_graph(_images()).dtype == torch.float16


@torch.inference_mode()
def test_register_tokens_are_dropped_with_the_class_token() -> None:
    backbone = replace(find_backbone("tiny"), timm_id=find_backbone("dinov2_vits14_reg").timm_id)
    features = _opened(backbone)
    assert features.vit.num_prefix_tokens == 5
    tokens = features(_normalised(_images()))
    every = features.vit.forward_features(_normalised(_images()))
    assert every.shape[1] == 64 + 5
    torch.testing.assert_close(tokens, every[:, 5:], rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_several_layers_are_normed_each_and_concatenated_in_order() -> None:
    features = _opened(replace(find_backbone("tiny"), layers=(0, 2)))
    assert features.dim == 128
    vit = features.vit
    hidden = vit._pos_embed(vit.patch_embed(_normalised(_images())))
    layers = []
    for block in vit.blocks:
        hidden = block(hidden)
        layers.append(vit.norm(hidden)[:, 1:])
    expected = torch.cat([layers[0], layers[2]], dim=-1)
    torch.testing.assert_close(features(_normalised(_images())), expected, rtol=1e-5, atol=1e-5)


def test_the_position_embedding_is_baked_for_the_input_size() -> None:
    features = build_features(replace(find_backbone("tiny"), input_size=(56, 84)))
    assert isinstance(features, VitTokens)
    assert features.vit.pos_embed.shape == (1, 1 + 4 * 6, 64)
    with torch.inference_mode(), pytest.raises(AssertionError):
        features(torch.zeros(1, 3, 84, 56))


def test_a_zero_token_stays_zero() -> None:
    class Zero(nn.Module):
        dim = 4

        def forward(self, rgb: Tensor) -> Tensor:
            return torch.zeros(rgb.shape[0], 9, 4)

    graph = FeatureGraph(Zero(), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert torch.equal(graph(_images()), torch.zeros(2, 9, 4, dtype=torch.float16))


def test_pixels_reach_the_features_as_rgb_planes_in_unit_range() -> None:
    class Echo(nn.Module):
        dim = 3

        def forward(self, rgb: Tensor) -> Tensor:
            return rgb.flatten(2).transpose(1, 2)

    image = np.zeros((1, 2, 2, 3), np.uint8)
    image[0, 0, 1] = (255, 0, 0)
    graph = FeatureGraph(Echo(), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    rgb = (torch.from_numpy(image).float() - graph.mean) * graph.inverse_std
    torch.testing.assert_close(rgb[0, 0, 1], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(
        graph.float_tokens(torch.from_numpy(image))[0],
        torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]),
    )


def test_a_graph_takes_its_normalisation_from_the_table() -> None:
    backbone = replace(find_backbone("tiny"), mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    graph = build_graph(backbone, nn.Identity())
    torch.testing.assert_close(graph.mean, torch.full((3,), 127.5))
    torch.testing.assert_close(graph.inverse_std, torch.tensor([4.0, 2.0, 1.0]) / 255)
