import numpy as np
import onnx
import pytest
from torch import nn

from export.backbones import find_backbone
from export.errors import ParityRefused
from export.graph import FeatureGraph, build_graph
from export.parity import (
    MAX_ABS_FP32,
    MIN_TOKEN_COSINE,
    Parity,
    measure_parity,
    structured_images,
    token_cosine,
    without_last_cast,
)
from export.repository import PublishedVersion
from export.to_onnx import torch_source
from export.weights import load_features
from tests.export.conftest import vit_of


class _Through(nn.Module):
    """In a removed block's place."""

    def forward(self, tokens: object) -> object:
        return tokens


def _measure(graph: FeatureGraph, model: onnx.ModelProto) -> Parity:
    return measure_parity(torch_source(graph), model, (112, 112), reference="torch")


def test_the_export_is_in_tolerance(tiny_graph: FeatureGraph, tiny_model: onnx.ModelProto) -> None:
    parity = _measure(tiny_graph, tiny_model)
    parity.require()
    assert parity.max_abs_fp32 < 1e-5
    assert parity.images == 4
    assert max(parity.batches) > 1


@pytest.mark.parametrize("block", [0, 1, 2])
def test_parity_falls_when_any_one_block_is_removed(
    tiny_graph: FeatureGraph, tiny_model: onnx.ModelProto, block: int
) -> None:
    vit_of(tiny_graph.features).blocks[block] = _Through()
    parity = _measure(tiny_graph, tiny_model)
    assert 1 - parity.min_token_cosine > 10 * (1 - MIN_TOKEN_COSINE)
    with pytest.raises(ParityRefused):
        parity.require()


@pytest.mark.parametrize("block", [0, 1, 2])
def test_with_timms_initial_layer_scale_a_removed_block_would_go_unseen(
    untrained: PublishedVersion, block: int
) -> None:
    # Why random weights open LayerScale: at 1e-5 the served tokens hardly know that the block is gone.
    backbone = find_backbone("tiny")
    features, _ = load_features(backbone, untrained.manifest["weights"]["file"], seed=0)
    vit_of(features).blocks[block] = _Through()
    model = onnx.load(untrained.directory / "model.onnx")
    _measure(build_graph(backbone, features), model).require()


def test_the_figure_before_the_cast_is_free_of_float16(tiny_model: onnx.ModelProto) -> None:
    exact = without_last_cast(tiny_model)
    assert exact.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert tiny_model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    assert len(exact.graph.node) == len(tiny_model.graph.node) - 1


@pytest.mark.parametrize(
    ("max_abs", "cosine"),
    [(MAX_ABS_FP32 * 1.01, 1.0), (0.0, MIN_TOKEN_COSINE - 1e-6), (float("nan"), 1.0), (0.0, float("nan"))],
)
def test_figures_out_of_tolerance_are_refused(max_abs: float, cosine: float) -> None:
    with pytest.raises(ParityRefused, match="Parity refused"):
        Parity(max_abs, cosine, 1, (1,), "torch").require()


def test_figures_at_the_tolerance_pass() -> None:
    Parity(MAX_ABS_FP32, MIN_TOKEN_COSINE, 1, (1,), "torch").require()


def test_a_source_that_gives_nan_is_refused(tiny_graph: FeatureGraph, tiny_model: onnx.ModelProto) -> None:
    source = torch_source(tiny_graph)
    parity = measure_parity(lambda images: source(images) * np.nan, tiny_model, (112, 112), reference="torch")
    with pytest.raises(ParityRefused):
        parity.require()


def test_cosine_of_zero_tokens() -> None:
    zero, one = np.zeros((1, 3)), np.array([[1.0, 0.0, 0.0]])
    assert token_cosine(zero, zero) == 1.0
    assert token_cosine(zero, one) == 0.0
    assert token_cosine(one, -one) == -1.0


def test_probe_images_are_structured_and_seeded() -> None:
    images = structured_images(2, (112, 140), seed=5)
    assert images.shape == (2, 112, 140, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images, structured_images(2, (112, 140), seed=5))
    assert not np.array_equal(images[0], images[1])
    # Neighbouring pixels are alike, distant ones are not; white noise has 0 in both.
    grey = images[0].astype(float).mean(-1)
    assert np.corrcoef(grey[:, 1:].ravel(), grey[:, :-1].ravel())[0, 1] > 0.6
    assert grey.std() > 20
