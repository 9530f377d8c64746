"""Brings a third-party ONNX feature graph into the repository under our contract.

The graph's own arithmetic is never touched: ours goes in front of it and behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
from onnx import TensorProto

from export.backbones import BACKBONES, IMAGENET_MEAN, IMAGENET_STD, ResizeRule, Triple
from export.errors import BadInput
from export.foreign_graph import RUNTIME_ERRORS, ForeignGraph, read_graph
from export.manifest import FeatureSpec, draft_manifest
from export.parity import measure_parity
from export.provenance import WeightsProvenance, file_sha256
from export.repository import DEFAULT_REPOSITORY, PublishedVersion, publish, require_name
from export.serialization import serialize, strip_traces
from export.triton_config import Device
from export.wrapping import wrap_graph

STAGES = ("reading the graph", "wrapping it", "checking parity", "publishing")
_NEUTRAL_MEAN: Triple = (0.0, 0.0, 0.0)
_NEUTRAL_STD: Triple = (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What a graph does not say of itself.

    input_side: px, where the graph's size is free. mean, std: for RGB / scale; None for ImageNet's.
    """

    input_side: int | None = None
    mean: Triple | None = None
    std: Triple | None = None
    scale: float = 255.0
    output: str | None = None
    padding: Literal["black", "edge", "reflect"] = "black"


def parse_triple(option: str, text: str | None) -> Triple | None:
    """Read `a,b,c`.

    Raises BadInput.
    """
    if text is None:
        return None
    try:
        first, second, third = (float(part) for part in text.split(","))
    except ValueError as error:
        raise BadInput(
            f"--{option} {text!r} must be three numbers with commas, such as 0.5,0.5,0.5."
        ) from error
    if not all(math.isfinite(value) for value in (first, second, third)):
        raise BadInput(f"--{option} {text!r} must be finite.")
    return first, second, third


def import_graph(
    path: Path,
    name: str,
    options: ImportOptions,
    *,
    repository: Path = DEFAULT_REPOSITORY,
    device: Device = "cpu",
    reason: str | None = None,
    force_new: bool = False,
    on_stage: Callable[[str], None] = lambda _: None,
) -> PublishedVersion:
    """Wrap a graph and publish it under a name of its own.

    Raises BadInput where the graph or an option cannot be used, ParityRefused.
    """
    require_name(name)
    if name in BACKBONES:
        raise BadInput(
            f"--name {name} is a backbone of the table; an imported graph needs a name of its own."
        )
    on_stage(STAGES[0])
    graph = read_graph(path, input_side=options.input_side, output=options.output)
    mean, std, scale = _pixel_rule(graph, options)
    on_stage(STAGES[1])
    wrapped = wrap_graph(
        graph.model,
        input_name=graph.input_name,
        output_name=graph.output_name,
        channels_first=graph.channels_first,
        input_size=graph.input_size,
        token_shape=(graph.grid[0] * graph.grid[1], graph.dim),
        feature_map=graph.feature_map,
        mean=mean,
        std=std,
        scale=scale,
    )
    model = strip_traces(wrapped)
    onnx.checker.check_model(model)
    on_stage(STAGES[2])
    try:
        source = graph.source(mean=mean, std=std, scale=scale)
        parity = measure_parity(source, model, graph.input_size, reference="the source graph")
    except RUNTIME_ERRORS as error:
        raise BadInput(f"{path} does not run on a batch of images: {error}") from error
    parity.require()
    on_stage(STAGES[3])
    spec = FeatureSpec(
        kind="imported",
        input_size=graph.input_size,
        grid=graph.grid,
        dim=graph.dim,
        resize=ResizeRule(padding=options.padding),
        mean=mean,
        std=std,
        scale=scale,
        details={"source_output": graph.output_name},
    )
    provenance = WeightsProvenance("file", file=str(path.resolve()), sha256=file_sha256(path))
    serialized = serialize(model)
    draft = draft_manifest(spec, serialized, weights=provenance, parity=parity, reason=reason)
    return publish(repository, name, serialized, draft, device=device, force_new=force_new)


def _pixel_rule(graph: ForeignGraph, options: ImportOptions) -> tuple[Triple, Triple, float]:
    """Give mean, std and scale; a graph that takes uint8 gets its pixels as they are."""
    if options.scale not in (1.0, 255.0):
        raise BadInput(f"--scale {options.scale:g} must be 255 or 1.")
    if graph.input_type == TensorProto.UINT8:
        if options.mean is not None or options.std is not None:
            raise BadInput(
                "The graph takes uint8 pixels and normalises them itself; leave --mean and --std out."
            )
        return _NEUTRAL_MEAN, _NEUTRAL_STD, 1.0
    if options.scale == 1.0 and (options.mean is None or options.std is None):
        raise BadInput("With --scale 1 the pixels stay 0..255; give --mean and --std in those units.")
    std = options.std or IMAGENET_STD
    if min(std) <= 0:
        raise BadInput("--std must be positive.")
    return options.mean or IMAGENET_MEAN, std, options.scale
