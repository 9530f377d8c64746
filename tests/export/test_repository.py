import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from export.errors import BadInput
from export.manifest import fingerprint, read_manifest
from export.repository import list_versions, publish, require_name, write_config


@pytest.fixture
def repository(tiny_repository: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_repository, tmp_path / "repository"))


def _draft(repository: Path, **changes: Any) -> dict[str, Any]:
    draft = read_manifest(repository / "tiny" / "1")
    del draft["name"], draft["version"]
    for key, value in changes.items():
        draft[key] = {**draft[key], **value}
    return draft | {"fingerprint": fingerprint(draft)}


def _listed(repository: Path, name: str = "tiny") -> list[int]:
    text = (repository / name / "config.pbtxt").read_text()
    return list(text_format.Parse(text, pb.ModelConfig()).version_policy.specific.versions)


def _snapshot(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_the_same_features_reuse_their_version(repository: Path) -> None:
    draft = _draft(repository) | {"created_at_utc": "2030-01-01T00:00:00+00:00", "reason": "another"}
    published = publish(repository, "tiny", b"ignored", draft, device="cpu")
    assert (published.version, published.reused) == (1, True)
    assert list_versions(repository, "tiny") == [1]


def test_force_new_adds_a_version(repository: Path) -> None:
    published = publish(repository, "tiny", b"graph", _draft(repository), device="cpu", force_new=True)
    assert (published.version, published.reused) == (2, False)
    assert _listed(repository) == [1, 2]


def test_other_features_get_the_next_version_and_leave_the_old_one_untouched(repository: Path) -> None:
    before = _snapshot(repository / "tiny" / "1")
    draft = _draft(repository, preprocessing={"padding": "edge"})
    published = publish(repository, "tiny", b"graph", draft, device="cpu")
    assert published.version == 2
    assert published.directory == repository / "tiny" / "2"
    assert _snapshot(published.directory)["model.onnx"] == b"graph"
    assert read_manifest(published.directory)["version"] == 2
    assert _snapshot(repository / "tiny" / "1") == before
    assert _listed(repository) == [1, 2]


def test_a_number_is_never_given_twice_below_the_newest(repository: Path) -> None:
    publish(repository, "tiny", b"graph", _draft(repository), device="cpu", force_new=True)
    shutil.rmtree(repository / "tiny" / "1")
    assert (
        publish(repository, "tiny", b"graph", _draft_of(repository, 2), device="cpu", force_new=True).version
        == 3
    )
    assert _listed(repository) == [2, 3]


def _draft_of(repository: Path, version: int) -> dict[str, Any]:
    draft = read_manifest(repository / "tiny" / str(version))
    return {key: value for key, value in draft.items() if key not in ("name", "version")}


def test_versions_of_one_name_share_input_and_output(repository: Path) -> None:
    draft = _draft(repository, output={"shape": ["B", 64, 32]})
    with pytest.raises(BadInput, match="use another name"):
        publish(repository, "tiny", b"graph", draft, device="cpu")
    assert list_versions(repository, "tiny") == [1]


def test_nothing_but_versions_and_the_config_is_left_behind(repository: Path) -> None:
    publish(repository, "tiny", b"graph", _draft(repository), device="cpu", force_new=True)
    assert sorted(path.name for path in (repository / "tiny").iterdir()) == ["1", "2", "config.pbtxt"]


def test_a_failed_write_leaves_no_version(repository: Path) -> None:
    unwritable = _draft(repository) | {"reason": object()}
    with pytest.raises(TypeError):
        publish(repository, "tiny", b"graph", unwritable, device="cpu", force_new=True)
    assert sorted(path.name for path in (repository / "tiny").iterdir()) == ["1", "config.pbtxt"]


def test_two_exports_at_once_get_two_versions_and_both_are_listed(repository: Path) -> None:
    # Processes, because each stages under its own process id, as two `python -m export` would.
    import subprocess
    import sys

    draft = repository / "draft.json"
    draft.write_text(json.dumps(_draft(repository)))
    program = (
        "import json, pathlib, sys; from export.repository import publish; "
        f"publish(pathlib.Path({str(repository)!r}), 'tiny', b'graph', "
        f"json.loads(pathlib.Path({str(draft)!r}).read_text()), device='cpu', force_new=True)"
    )
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: subprocess.run([sys.executable, "-c", program], check=True), range(3)))
    assert len(done) == 3
    assert list_versions(repository, "tiny") == [1, 2, 3, 4]
    assert _listed(repository) == [1, 2, 3, 4]


def test_the_config_carries_every_versions_fingerprint(repository: Path) -> None:
    draft = _draft(repository, preprocessing={"padding": "edge"})
    publish(repository, "tiny", b"graph", draft, device="cpu")
    text = (repository / "tiny" / "config.pbtxt").read_text()
    parameters = text_format.Parse(text, pb.ModelConfig()).parameters
    assert {key: value.string_value for key, value in parameters.items()} == {
        "fingerprint.1": read_manifest(repository / "tiny" / "1")["fingerprint"],
        "fingerprint.2": draft["fingerprint"],
    }


def test_the_device_can_be_changed_without_a_new_version(repository: Path) -> None:
    write_config(repository, "tiny", device="gpu")
    text = (repository / "tiny" / "config.pbtxt").read_text()
    assert "KIND_GPU" in text
    assert _listed(repository) == [1]


@pytest.mark.parametrize("name", ["", "_x", "Tiny", "a b", "../x", "a" * 65, "a-b", "a\n"])
def test_impossible_names_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match="must be 1 to 64"):
        require_name(name)


@pytest.mark.parametrize("name", ["a", "0", "resnet18_l23", "a" * 64])
def test_possible_names_pass(name: str) -> None:
    require_name(name)
