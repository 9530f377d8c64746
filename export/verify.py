"""Compares a published version with its source again, from nothing but what its manifest says.

The files must be the published ones; the weights are loaded anew from where they came from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from export.backbones import BACKBONES, Backbone
from export.errors import BadInput, ParityRefused, VersionCorrupt
from export.foreign_graph import RUNTIME_ERRORS, read_graph
from export.graph import build_graph
from export.manifest import MODEL_FILE, FeatureSpec, features_of, read_manifest
from export.parity import Parity, TokenSource, measure_parity
from export.provenance import file_sha256
from export.repository import list_versions
from export.to_onnx import torch_source
from export.weights import load_features

STAGES = ("reading the version", "loading its source", "comparing")


def verify_version(
    repository: Path,
    name: str,
    *,
    version: int | None = None,
    weights: Path | None = None,
    source: Path | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
) -> Parity:
    """Measure a version's parity and require it.

    version: the newest by default. weights: where the checkpoint lies now, if no longer where it was.
    source: the same for an imported graph's source.

    Raises BadInput where something to compare with is missing, VersionCorrupt, ParityRefused, HubUnreachable.
    """
    on_stage(STAGES[0])
    versions = list_versions(repository, name)
    if not versions or (version is not None and version not in versions):
        wanted = name if version is None else f"{name} version {version}"
        raise BadInput(f"There is no {wanted} in {repository}.")
    directory = repository / name / str(version or versions[-1])
    manifest = read_manifest(directory)
    model = _read_model(directory, manifest)
    on_stage(STAGES[1])
    if manifest["kind"] == "imported":
        reference, tokens = "the source graph", _imported_source(manifest, source)
    else:
        reference, tokens = "torch", _torch_source(manifest, weights)
    on_stage(STAGES[2])
    height, width = manifest["spec"]["input_size"]
    try:
        parity = measure_parity(tokens, model, (height, width), reference=reference)
    except RUNTIME_ERRORS as error:
        raise ParityRefused(f"{directory / MODEL_FILE} cannot be run: {error}") from error
    parity.require()
    return parity


def _read_model(directory: Path, manifest: Mapping[str, Any]) -> onnx.ModelProto:
    try:
        content = (directory / MODEL_FILE).read_bytes()
    except OSError as error:
        raise VersionCorrupt(f"{directory / MODEL_FILE} cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != manifest["files"][MODEL_FILE]["sha256"]:
        raise VersionCorrupt(
            f"{directory / MODEL_FILE} is not the file that was published: its sha256 differs."
        )
    try:
        return onnx.load_model_from_string(content)
    except DecodeError as error:
        raise VersionCorrupt(f"{directory / MODEL_FILE} is not an ONNX graph.") from error


def _torch_source(manifest: Mapping[str, Any], weights: Path | None) -> TokenSource:
    backbone, origin = _backbone_of(manifest), manifest["weights"]
    if weights is not None or origin["source"] == "file":
        choice = str(weights or origin["file"])
    else:
        choice = str(origin["source"])
    features, provenance = load_features(backbone, choice, seed=int(origin["seed"] or 0))
    if provenance.state_sha256 != origin["state_sha256"]:
        raise ParityRefused(
            f"The weights loaded now ({choice}) are not those the version was exported from; "
            f"it was exported with torch {manifest['tools']['torch']} and timm {manifest['tools']['timm']}."
        )
    return torch_source(build_graph(backbone, features))


def _backbone_of(manifest: Mapping[str, Any]) -> Backbone:
    """Find the row whose features the manifest describes; a published spec outlives changes of the table."""
    backbone = BACKBONES.get(str(manifest["name"]))
    if backbone is not None:
        spec, preprocessing = features_of(FeatureSpec.of(backbone, int(manifest["spec"]["dim"])))
        if (spec, preprocessing) == (manifest["spec"], manifest["preprocessing"]):
            return backbone
    raise ParityRefused(f"This release's table no longer describes {manifest['name']} as it was exported.")


def _imported_source(manifest: Mapping[str, Any], source: Path | None) -> TokenSource:
    path = source or Path(manifest["weights"]["file"])
    if not path.is_file():
        raise BadInput(f"The source graph {path} is gone; say by --onnx where it lies now.")
    if file_sha256(path) != manifest["weights"]["sha256"]:
        raise ParityRefused(f"{path} is not the graph that was imported: its sha256 differs.")
    height, width = manifest["spec"]["input_size"]
    graph = read_graph(
        path,
        input_side=height if height == width else None,
        output=manifest["spec"]["source_output"],
    )
    rule = manifest["preprocessing"]
    return graph.source(mean=tuple(rule["mean"]), std=tuple(rule["std"]), scale=float(rule["scale"]))
