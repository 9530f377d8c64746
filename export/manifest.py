"""What is written beside every exported graph, and the fingerprint that names its features.

The fingerprint covers everything that changes a feature and nothing else: no dates, tool versions or figures.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from export.backbones import Backbone, ResizeRule, Triple
from export.errors import VersionCorrupt

if TYPE_CHECKING:  # torch and onnxruntime take seconds to import
    from export.parity import Parity
    from export.provenance import WeightsProvenance

SCHEMA = 1
MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
INPUT_NAME = "image"
OUTPUT_NAME = "tokens"
_TOOLS = ("torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """What a graph computes, in the manifest's own terms.

    input_size: (H, W) px. grid: (R, C). dim: D. scale: what uint8 is divided by before mean and std apply.
    details: whatever else decides the features, JSON values only.
    """

    kind: str
    input_size: tuple[int, int]
    grid: tuple[int, int]
    dim: int
    resize: ResizeRule
    mean: Triple
    std: Triple
    scale: float
    details: Mapping[str, Any]

    @classmethod
    def of(cls, backbone: Backbone, dim: int) -> FeatureSpec:
        """Describe a row of the backbone table whose graph gives tokens of this dim."""
        return cls(
            kind=backbone.kind,
            input_size=backbone.input_size,
            grid=backbone.grid,
            dim=dim,
            resize=backbone.resize,
            mean=backbone.mean,
            std=backbone.std,
            scale=255.0,
            details={
                "timm_id": backbone.timm_id,
                "architecture": dict(backbone.architecture),
                "patch_size": backbone.patch_size,
                "layers": list(backbone.layers),
                "final_norm": backbone.final_norm,
            },
        )


def draft_manifest(
    spec: FeatureSpec,
    model: bytes,
    *,
    weights: WeightsProvenance,
    parity: Parity,
    reason: str | None,
) -> dict[str, Any]:
    """Describe a graph; everything but the name and version it is published under."""
    proto = onnx.load_model_from_string(model)
    described, preprocessing = features_of(spec)
    features = {
        "spec": described,
        "preprocessing": preprocessing,
        "input": {"name": INPUT_NAME, "dtype": "uint8", "shape": ["B", *spec.input_size, 3]},
        "output": {
            "name": OUTPUT_NAME,
            "dtype": "float16",
            "shape": ["B", spec.grid[0] * spec.grid[1], spec.dim],
        },
        "files": {MODEL_FILE: {"sha256": hashlib.sha256(model).hexdigest(), "bytes": len(model)}},
    }
    return {
        "schema": SCHEMA,
        "kind": spec.kind,
        "fingerprint": fingerprint(features),
        **features,
        "weights": weights.as_json(),
        "reason": reason,
        "parity": parity.as_json(),
        "tools": _tool_versions() | {"ir": proto.ir_version, "opset": proto.opset_import[0].version},
        "created_at_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def features_of(spec: FeatureSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give the manifest's `spec` and `preprocessing`."""
    described = {
        "input_size": list(spec.input_size),
        "grid": list(spec.grid),
        "dim": spec.dim,
        **spec.details,
        "l2_normalised": True,
    }
    preprocessing = {
        "resize": spec.resize.rule,
        "interpolation": spec.resize.interpolation,
        "padding": spec.resize.padding,
        "scale": spec.scale,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "color": "RGB",
        "layout": "NHWC",
    }
    return described, preprocessing


def fingerprint(manifest: Mapping[str, Any]) -> str:
    """Hash what decides the features, as canonical JSON: hex of 64 digits."""
    covered = {
        "spec": manifest["spec"],
        "preprocessing": manifest["preprocessing"],
        "input": manifest["input"],
        "output": manifest["output"],
        "onnx_sha256": manifest["files"][MODEL_FILE]["sha256"],
    }
    canonical = json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read a version's manifest.

    Raises VersionCorrupt where it is missing, unreadable, or its fingerprint is not that of its contents.
    """
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST_FILE).read_text("utf-8"))
        matches = manifest["fingerprint"] == fingerprint(manifest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VersionCorrupt(f"{directory / MANIFEST_FILE} cannot be read: {error!r}") from error
    if not matches:
        raise VersionCorrupt(f"{directory / MANIFEST_FILE} was changed after it was written.")
    return manifest


def _tool_versions() -> dict[str, Any]:
    found: dict[str, Any] = {"python": platform.python_version()}
    for tool in _TOOLS:
        try:
            found[tool] = version(tool)
        except PackageNotFoundError:
            found[tool] = None
    return found
