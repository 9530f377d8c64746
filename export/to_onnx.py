"""Exports a backbone of the table: weights, graph, ONNX, parity, repository, in that order.

Nothing is written before the parity is within tolerance.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch

from export.backbones import find_backbone
from export.graph import FeatureGraph, build_graph
from export.manifest import INPUT_NAME, OUTPUT_NAME, FeatureSpec, draft_manifest
from export.parity import FloatArray, ImageArray, TokenSource, measure_parity
from export.repository import DEFAULT_REPOSITORY, PublishedVersion, publish
from export.serialization import serialize, strip_traces
from export.triton_config import Device
from export.weights import load_features

# The last one with IR version 10, and the first with a native Gelu; LayerNormalization came with 17.
OPSET = 20
STAGES = ("loading weights", "converting to ONNX", "checking parity", "publishing")


def export_backbone(
    name: str,
    *,
    weights: str = "pretrained",
    seed: int = 0,
    repository: Path = DEFAULT_REPOSITORY,
    device: Device = "cpu",
    reason: str | None = None,
    force_new: bool = False,
    on_stage: Callable[[str], None] = lambda _: None,
) -> PublishedVersion:
    """Export a backbone and publish it.

    weights: "pretrained", "random" or a checkpoint's path. reason: why this backbone, kept verbatim.
    on_stage is called with each of STAGES as it begins.

    Raises BadInput, HubUnreachable, ParityRefused.
    """
    backbone = find_backbone(name)
    on_stage(STAGES[0])
    features, provenance = load_features(backbone, weights, seed=seed)
    graph = build_graph(backbone, features)
    on_stage(STAGES[1])
    model = convert(graph, backbone.input_size)
    on_stage(STAGES[2])
    parity = measure_parity(torch_source(graph), model, backbone.input_size, reference="torch")
    parity.require()
    on_stage(STAGES[3])
    serialized = serialize(model)
    draft = draft_manifest(
        FeatureSpec.of(backbone, graph.dim), serialized, weights=provenance, parity=parity, reason=reason
    )
    return publish(repository, name, serialized, draft, device=device, force_new=force_new)


def convert(graph: FeatureGraph, input_size: tuple[int, int]) -> onnx.ModelProto:
    """Convert the served graph; the batch is its only dynamic axis."""
    # Two images: torch takes a batch of one for a constant.
    example = torch.zeros((2, *input_size, 3), dtype=torch.uint8)
    with warnings.catch_warnings():
        # torch 2.13's own pytree does this on every export.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        program = torch.onnx.export(
            graph,
            (example,),
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    model = strip_traces(program.model_proto)
    onnx.checker.check_model(model, full_check=True)
    return model


def torch_source(graph: FeatureGraph) -> TokenSource:
    """Give the graph as the reference of a parity measurement."""

    def tokens(images: ImageArray) -> FloatArray:
        with torch.inference_mode():
            result: FloatArray = graph.float_tokens(torch.from_numpy(images)).numpy().astype(np.float32)
        return result

    return tokens
