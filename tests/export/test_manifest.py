import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.errors import VersionCorrupt
from export.manifest import fingerprint, read_manifest
from orchestrator.domain.backbone import BackboneSpec


@pytest.fixture
def manifest(tiny_directory: Path) -> dict[str, Any]:
    return read_manifest(tiny_directory)


def test_the_orchestrator_reads_it(manifest: dict[str, Any]) -> None:
    spec = BackboneSpec.from_manifest(manifest)
    assert (spec.name, spec.version, spec.reason) == ("tiny", 1, "for the tests")
    assert (spec.input_size, spec.grid, spec.dim, spec.padding) == ((112, 112), (8, 8), 64, "black")
    assert (spec.input_name, spec.output_name, spec.weights_source) == ("image", "tokens", "random")
    assert spec.label == f"tiny/1@{manifest['fingerprint'][:12]}"


def test_it_tells_where_the_weights_came_from_and_with_which_tools(manifest: dict[str, Any]) -> None:
    assert (manifest["weights"]["source"], manifest["weights"]["seed"]) == ("random", 0)
    assert len(manifest["weights"]["state_sha256"]) == 64
    assert {"python", "torch", "timm", "onnx", "onnxruntime", "opset", "ir"} <= manifest["tools"].keys()
    assert all(manifest["tools"].values())
    assert manifest["parity"]["max_abs_fp32"] <= manifest["parity"]["tolerance"]["max_abs_fp32"]


def test_its_digest_is_that_of_the_file(manifest: dict[str, Any], tiny_directory: Path) -> None:
    import hashlib

    content = (tiny_directory / "model.onnx").read_bytes()
    assert manifest["files"]["model.onnx"] == {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }


def _set(*path: str, to: object) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        inner = manifest
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("preprocessing", "padding", to="reflect"),
        _set("preprocessing", "interpolation", to="nearest"),
        _set("preprocessing", "mean", to=[0.5, 0.5, 0.5]),
        _set("spec", "input_size", to=[224, 224]),
        _set("spec", "final_norm", to=False),
        _set("spec", "layers", to=[1, 2]),
        _set("output", "shape", to=["B", 64, 65]),
        _set("files", "model.onnx", "sha256", to="0" * 64),
    ],
)
def test_whatever_changes_features_changes_the_fingerprint(
    manifest: dict[str, Any], change: Callable[[dict[str, Any]], None]
) -> None:
    changed = copy.deepcopy(manifest)
    change(changed)
    assert fingerprint(changed) != manifest["fingerprint"]


@pytest.mark.parametrize(
    "change",
    [
        _set("created_at_utc", to="1970-01-01T00:00:00+00:00"),
        _set("tools", "torch", to="9.9"),
        _set("reason", to=None),
        _set("version", to=7),
        _set("parity", "max_abs_fp32", to=0.0),
        _set("weights", "file", to="/elsewhere"),
    ],
)
def test_what_changes_no_feature_leaves_the_fingerprint(
    manifest: dict[str, Any], change: Callable[[dict[str, Any]], None]
) -> None:
    changed = copy.deepcopy(manifest)
    change(changed)
    assert fingerprint(changed) == manifest["fingerprint"]


def test_the_fingerprint_survives_json(manifest: dict[str, Any]) -> None:
    assert fingerprint(json.loads(json.dumps(manifest))) == manifest["fingerprint"]


def test_a_manifest_changed_by_hand_is_refused(manifest: dict[str, Any], tmp_path: Path) -> None:
    manifest["preprocessing"]["padding"] = "edge"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(VersionCorrupt, match="was changed"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"fingerprint": "x"}'])
def test_a_broken_manifest_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(VersionCorrupt, match="cannot be read"):
        read_manifest(tmp_path)
