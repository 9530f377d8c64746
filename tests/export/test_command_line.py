import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.export.conftest import GraphWriter


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "export", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_an_export_ends_in_a_table_and_a_version(tiny_directory: Path, tmp_path: Path) -> None:
    done = _run(
        *("onnx", "--backbone", "tiny", "--weights", "random", "--repository", str(tmp_path)),
        *("--reason", "the hub did not answer", "--device", "gpu"),
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "tiny" / "1" / "manifest.json").read_text())
    assert manifest["reason"] == "the hub did not answer"
    for shown in ("tiny", manifest["fingerprint"][:12], "(B, 112, 112, 3)", "random", "|Δ|", str(tmp_path)):
        assert shown in done.stdout
    assert "KIND_GPU" in (tmp_path / "tiny" / "config.pbtxt").read_text()
    # Another process, another folder, another reason: the same bytes and the same fingerprint.
    assert f'"{manifest["fingerprint"]}"' in (tiny_directory / "manifest.json").read_text()
    assert (tmp_path / "tiny" / "1" / "model.onnx").read_bytes() == (
        tiny_directory / "model.onnx"
    ).read_bytes()


def test_verify_exits_1_where_it_refuses(tiny_repository: Path, tmp_path: Path) -> None:
    repository = shutil.copytree(tiny_repository, tmp_path / "repository")
    (repository / "tiny" / "1" / "model.onnx").write_bytes(b"x")
    broken = _run("verify", "--backbone", "tiny", "--repository", str(repository))
    assert broken.returncode == 1
    assert re.fullmatch(r".+ is not the file that was published: its sha256 differs\.\n", broken.stderr)


def test_import_publishes_under_its_own_name(write_graph: GraphWriter, tmp_path: Path) -> None:
    done = _run(
        *("import", "--onnx", str(write_graph()), "--name", "mine", "--repository", str(tmp_path / "r")),
        *("--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"),
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "r" / "mine" / "1" / "manifest.json").read_text())
    assert manifest["preprocessing"]["std"] == [0.25, 0.25, 0.25]
    verified = _run("verify", "--backbone", "mine", "--repository", str(tmp_path / "r"))
    assert verified.returncode == 0, verified.stderr
    assert "in tolerance" in verified.stdout


def test_bad_input_exits_2_with_one_sentence(tmp_path: Path) -> None:
    for arguments in (
        ("onnx", "--backbone", "nope"),
        ("import", "--onnx", "/nowhere.onnx", "--name", "mine"),
    ):
        done = _run(*arguments, "--repository", str(tmp_path))
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert not done.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_hub_exits_3_and_names_the_remedy(tmp_path: Path) -> None:
    done = _run(
        *("onnx", "--backbone", "dinov2_vits14", "--repository", str(tmp_path)),
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HOME=str(tmp_path / "hub"),
        HF_HUB_OFFLINE="0",
    )
    assert done.returncode == 3, done.stderr
    assert "--weights FILE" in done.stderr
    assert "--backbone scattering" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_every_command() -> None:
    done = _run("--help")
    assert done.returncode == 0
    for command in ("onnx", "verify", "import"):
        assert command in done.stdout
