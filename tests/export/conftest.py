"""One real export of the `tiny` backbone, shared; and small third-party graphs made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from export.backbones import find_backbone
from export.graph import FeatureGraph, VitTokens, build_graph
from export.repository import PublishedVersion
from export.to_onnx import export_backbone
from export.weights import load_features

GraphWriter = Callable[..., Path]


def vit_of(features: object) -> Any:
    """The timm model inside a backbone's features."""
    assert isinstance(features, VitTokens)
    return features.vit


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with `tiny` version 1. Read-only by agreement: a test that writes copies it."""
    repository = tmp_path_factory.mktemp("repository")
    export_backbone("tiny", weights="random", seed=0, repository=repository, reason="for the tests")
    return repository


@pytest.fixture(scope="session")
def tiny_directory(tiny_repository: Path) -> Path:
    return tiny_repository / "tiny" / "1"


@pytest.fixture(scope="session")
def tiny_model(tiny_directory: Path) -> onnx.ModelProto:
    return onnx.load(tiny_directory / "model.onnx")


@pytest.fixture
def tiny_graph() -> FeatureGraph:
    """The torch side of the tiny export, built anew for every test: some take it apart."""
    backbone = find_backbone("tiny")
    features, _ = load_features(backbone, "random", seed=0)
    return build_graph(backbone, features)


@pytest.fixture(scope="session")
def untrained_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny weights as timm starts them: LayerScale at 1e-5."""
    features, _ = load_features(find_backbone("tiny"), "random", seed=0)
    state = {
        name: torch.full_like(value, 1e-5) if name.endswith(".gamma") else value.clone()
        for name, value in vit_of(features).state_dict().items()
    }
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="session")
def untrained(untrained_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> PublishedVersion:
    """An export of those weights, read from their file."""
    return export_backbone(
        "tiny", weights=str(untrained_checkpoint), repository=tmp_path_factory.mktemp("untrained")
    )


@pytest.fixture
def write_graph(tmp_path: Path) -> GraphWriter:
    """A writer of third-party graphs: one strided convolution, as a map or as tokens."""

    def write(
        *,
        channels_first: bool = True,
        dtype: int = TensorProto.FLOAT,
        size: tuple[int | str, int | str] = (32, 32),
        batch: int | str = "n",
        tokens: bool = False,
        prefix_tokens: int = 0,
        stride: tuple[int, int] = (8, 8),
        opset: int = 17,
        domain: str = "",
        second_output: bool = False,
        baked_batch: bool = False,
    ) -> Path:
        rng = np.random.default_rng(0)
        dim = 5
        constants = [
            numpy_helper.from_array(rng.standard_normal((dim, 3, *stride)).astype(np.float32), "weight"),
            numpy_helper.from_array(np.array([0, dim, -1], np.int64), "flat"),
        ]
        nodes, value = [], "pixels"
        if dtype != TensorProto.FLOAT:
            nodes.append(helper.make_node("Cast", [value], ["float"], to=TensorProto.FLOAT))
            value = "float"
        if not channels_first:
            nodes.append(helper.make_node("Transpose", [value], ["planes"], perm=[0, 3, 1, 2]))
            value = "planes"
        nodes.append(
            helper.make_node("Conv", [value, "weight"], ["map"], strides=list(stride), domain=domain)
        )
        output, shape = "map", ["n", dim, "r", "c"]
        if baked_batch:
            constants.append(numpy_helper.from_array(np.array([1, dim, 4, 4], np.int64), "baked"))
            nodes.append(helper.make_node("Reshape", ["map", "baked"], ["baked_map"]))
            output = "baked_map"
        if tokens:
            nodes.append(helper.make_node("Reshape", ["map", "flat"], ["flat_map"]))
            nodes.append(helper.make_node("Transpose", ["flat_map"], ["patches"], perm=[0, 2, 1]))
            output, shape = "patches", ["n", "t", dim]
        if prefix_tokens:
            constants.append(numpy_helper.from_array(np.arange(prefix_tokens, dtype=np.int64), "first"))
            nodes.append(helper.make_node("Gather", ["patches", "first"], ["prefix"], axis=1))
            nodes.append(helper.make_node("Concat", ["prefix", "patches"], ["all"], axis=1))
            output = "all"
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)]
        if second_output:
            nodes.append(helper.make_node("Relu", ["map"], ["rectified"]))
            outputs.append(
                helper.make_tensor_value_info("rectified", TensorProto.FLOAT, ["n", dim, "r", "c"])
            )
        axes = [batch, 3, *size] if channels_first else [batch, *size, 3]
        graph = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("pixels", dtype, axes)], outputs, constants
        )
        imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
        path = tmp_path / "foreign.onnx"
        onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
        return path

    return write
