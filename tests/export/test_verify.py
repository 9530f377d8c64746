import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from export.errors import BadInput, ParityRefused, VersionCorrupt
from export.manifest import fingerprint
from export.repository import PublishedVersion
from export.verify import STAGES, verify_version


@pytest.fixture
def repository(tiny_repository: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_repository, tmp_path / "repository"))


def _replace_graph(version: Path, model: onnx.ModelProto) -> None:
    """Put another graph in place and make the manifest agree with it, as a careless tool would."""
    import hashlib

    content = model.SerializeToString()
    (version / "model.onnx").write_bytes(content)
    manifest = json.loads((version / "manifest.json").read_text())
    manifest["files"]["model.onnx"] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    manifest["fingerprint"] = fingerprint(manifest)
    (version / "manifest.json").write_text(json.dumps(manifest))


def test_a_sound_version_passes(tiny_repository: Path) -> None:
    announced: list[str] = []
    parity = verify_version(tiny_repository, "tiny", on_stage=announced.append)
    assert parity.max_abs_fp32 <= 1e-5
    assert tuple(announced) == STAGES


def test_a_changed_file_is_refused(repository: Path) -> None:
    with (repository / "tiny" / "1" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(VersionCorrupt, match="sha256 differs"):
        verify_version(repository, "tiny")


def test_a_graph_of_other_weights_is_refused(repository: Path, untrained: PublishedVersion) -> None:
    _replace_graph(repository / "tiny" / "1", onnx.load(untrained.directory / "model.onnx"))
    with pytest.raises(ParityRefused, match="Parity refused"):
        verify_version(repository, "tiny")


def test_one_weight_off_by_a_hundredth_is_refused(repository: Path) -> None:
    model = onnx.load(repository / "tiny" / "1" / "model.onnx")
    largest = max(model.graph.initializer, key=lambda initializer: np.prod(initializer.dims))
    values = numpy_helper.to_array(largest) * np.float32(1.01)
    largest.CopyFrom(numpy_helper.from_array(values, largest.name))
    _replace_graph(repository / "tiny" / "1", model)
    with pytest.raises(ParityRefused, match="before its last cast"):
        verify_version(repository, "tiny")


def test_a_file_that_is_no_graph_is_refused(repository: Path) -> None:
    version = repository / "tiny" / "1"
    _replace_graph(version, onnx.ModelProto())
    with pytest.raises((ParityRefused, VersionCorrupt)):
        verify_version(repository, "tiny")


def test_weights_from_a_file_are_loaded_from_it_again(
    untrained: PublishedVersion, untrained_checkpoint: Path, tmp_path: Path
) -> None:
    repository = untrained.directory.parent.parent
    verify_version(repository, "tiny")
    moved = tmp_path / "moved.pth"
    torch.save(load_file(untrained_checkpoint), moved)
    verify_version(repository, "tiny", weights=moved)


def test_other_weights_than_the_exported_ones_are_refused(
    untrained: PublishedVersion, untrained_checkpoint: Path, tmp_path: Path
) -> None:
    state = load_file(untrained_checkpoint)
    state["norm.bias"] = state["norm.bias"] + 1
    other = tmp_path / "other.safetensors"
    save_file(state, other)
    with pytest.raises(ParityRefused, match="are not those the version was exported from"):
        verify_version(untrained.directory.parent.parent, "tiny", weights=other)


def test_a_spec_that_is_no_longer_in_the_table_is_refused(repository: Path) -> None:
    path = repository / "tiny" / "1" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["spec"]["layers"] = [1]
    manifest["fingerprint"] = fingerprint(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(ParityRefused, match="no longer describes"):
        verify_version(repository, "tiny")


@pytest.mark.parametrize(("name", "version"), [("tiny", 9), ("absent", None), ("absent", 1)])
def test_a_version_that_is_not_there_is_bad_input(
    tiny_repository: Path, name: str, version: int | None
) -> None:
    with pytest.raises(BadInput, match="There is no"):
        verify_version(tiny_repository, name, version=version)
