"""What the orchestrator knows of an exported backbone: the manifest beside its graph.

The manifest is the only place where `export/` and the orchestrator meet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.errors import FeatureContractBroken

Padding = Literal["black", "edge", "reflect"]
MANIFEST_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """One immutable version of one exported feature graph.

    input_size: (H, W) px of the graph's uint8 NHWC RGB input. grid: (R, C) tokens. dim: D of a token.
    padding: how the letterbox around a non-square crop is filled.
    """

    name: str
    version: int
    fingerprint: str
    input_size: tuple[int, int]
    grid: tuple[int, int]
    dim: int
    padding: Padding
    weights_source: str
    reason: str | None
    input_name: str
    output_name: str
    onnx_sha256: str

    @property
    def label(self) -> str:
        """The wire's `model_version`: `<backbone>/<version>@<first 12 of the fingerprint>`."""
        return f"{self.name}/{self.version}@{self.fingerprint[:12]}"

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> BackboneSpec:
        """Read a parsed `manifest.json`.

        Raises FeatureContractBroken where a key is missing or of another type.
        """
        try:
            if manifest["schema"] != MANIFEST_SCHEMA:
                raise FeatureContractBroken(
                    f"manifest schema {manifest['schema']!r} is not {MANIFEST_SCHEMA}"
                )
            spec, pre = manifest["spec"], manifest["preprocessing"]
            height, width = (int(v) for v in spec["input_size"])
            rows, columns = (int(v) for v in spec["grid"])
            padding = pre["padding"]
            if padding not in ("black", "edge", "reflect"):
                raise FeatureContractBroken(f"manifest padding {padding!r} is unknown")
            return cls(
                name=str(manifest["name"]),
                version=int(manifest["version"]),
                fingerprint=str(manifest["fingerprint"]),
                input_size=(height, width),
                grid=(rows, columns),
                dim=int(spec["dim"]),
                padding=padding,
                weights_source=str(manifest["weights"]["source"]),
                reason=manifest.get("reason"),
                input_name=str(manifest["input"]["name"]),
                output_name=str(manifest["output"]["name"]),
                onnx_sha256=str(manifest["files"]["model.onnx"]["sha256"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FeatureContractBroken(f"manifest.json cannot be read: {error!r}") from error
