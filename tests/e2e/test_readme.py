"""Every command of README.md, run in a copy of the checkout beside a real `make run`."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

from orchestrator.domain.arrays import HalfArray
from orchestrator.features.base import CallContext
from orchestrator.features.repository import ModelRepository
from orchestrator.twin.serving import serve_repository
from tests.e2e.readme import NOT_RUN, ROOT, readme_commands

pytestmark = pytest.mark.slow
START_S = 480.0


@dataclass(frozen=True)
class Checkout:
    """A copy of the checkout with a `make run` in it."""

    folder: Path
    environment: dict[str, str]
    port: int
    output: Path
    process: subprocess.Popen[bytes]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _copy(folder: Path) -> None:
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    for name in filter(None, names.decode().split("\0")):
        target = folder / name
        if (ROOT / name).is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)


def _environment(folder: Path, port: int) -> dict[str, str]:
    """Use this interpreter's own environment in place of a fresh one: what is under test is the commands."""
    venv = folder / ".venv"
    (venv / "bin").mkdir(parents=True)
    for name in ("python", "patchlight"):
        script = venv / "bin" / name
        module = ["-m", "orchestrator"] if name == "patchlight" else []
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {" ".join(module)} "$@"\n')
        script.chmod(0o755)
    for stamp in (".run", ".dev"):
        (venv / stamp).touch()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("BDI_", "BRAKEDISC_", "BACKEND_"))}
    return {
        **kept,
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "BDI_TRITON_HOME": os.environ.get("BDI_TRITON_HOME", str(ROOT / ".triton")),
        "BDI_BACKEND_PORT": str(port),
        # The hub is never part of a test: a new data root takes the path of a machine without one.
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / ".cache" / "huggingface"),
    }


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """Run `make run` in a copy of the checkout, and end it by SIGTERM."""
    folder = tmp_path_factory.mktemp("checkout")
    _copy(folder)
    port = _free_port()
    environment = _environment(folder, port)
    output = folder / "run.log"
    with output.open("wb") as log:
        process = subprocess.Popen(["make", "run"], cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_S
        while "Patchlight answers on" not in output.read_text():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.2)
        yield Checkout(folder, environment, port, output, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _run(checkout: Checkout, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.replace(":8000", f":{checkout.port}")],
        cwd=checkout.folder,
        env=checkout.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def _served(commands: list[str]) -> list[str]:
    return [c for c in commands if "curl" in c]


def test_make_run_prints_a_table_and_curl_lines_that_work(checkout: Checkout) -> None:
    text = checkout.output.read_text()
    assert "image AUROC" in text
    assert "scattering" in text
    assert "could not be reached" in text
    health = _run(checkout, f"curl -s -f http://127.0.0.1:{checkout.port}/health").stdout
    assert '"model":"scattering"' in health
    assert "could not be reached" in health
    lines = [line for line in text.splitlines() if line.startswith("curl ")]
    assert len(lines) == 2
    decisions = []
    for line in lines:
        done = _run(checkout, f"{line} -f")
        assert done.returncode == 0, done.stderr
        decisions.append(re.search(r'"decision":"(ok|ng)"', done.stdout))
    assert [m and m.group(1) for m in decisions] == ["ok", "ng"]
    sheet = re.search(r"^contact sheet\s+(\S+)$", text, flags=re.MULTILINE)
    assert sheet is not None
    assert (checkout.folder / sheet.group(1)).read_bytes().startswith(b"\x89PNG")


def test_every_curl_line_answers_2xx_in_the_readme_s_order(checkout: Checkout) -> None:
    commands = _served(readme_commands())
    assert len(commands) > 15
    for command in commands:
        done = _run(checkout, command.replace("curl -s ", "curl -s --fail-with-body "))
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_make_demo_runs_on_a_folder_of_photographs(checkout: Checkout) -> None:
    (command,) = [c for c in readme_commands() if c.startswith("make demo")]
    done = _run(checkout, command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "image AUROC" in done.stdout


def test_export_commands_run_as_written(checkout: Checkout) -> None:
    from safetensors.torch import save_file

    from export.backbones import find_backbone
    from export.weights import load_features

    commands = [c for c in readme_commands() if c.startswith("python -m export") and c not in NOT_RUN]
    assert len(commands) == 5
    network, _ = load_features(find_backbone("dinov2_vits14"), "random", seed=3)
    state = {k: v.contiguous() for k, v in network.vit.state_dict().items()}
    save_file(state, checkout.folder / "dinov2_vits14.safetensors")
    _write_foreign_graph(checkout.folder / "features.onnx")
    for command in commands:
        done = _run(checkout, command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_the_exported_dinov2_answers_through_triton_as_torch_does(checkout: Checkout) -> None:
    from export.backbones import find_backbone
    from export.graph import build_graph
    from export.parity import structured_images
    from export.to_onnx import torch_source
    from export.weights import load_features
    from orchestrator.features.triton import TritonExtractor

    repository = ModelRepository(checkout.folder / "model_repository")
    specs = [repository.spec("dinov2_vits14", version) for version in repository.versions("dinov2_vits14")]
    (spec,) = [s for s in specs if s.weights_source == "random"]
    assert (spec.input_size, spec.grid, spec.dim) == ((448, 448), (32, 32), 384)
    backbone = find_backbone("dinov2_vits14")
    network, _ = load_features(backbone, "random", seed=0)
    images = structured_images(2, spec.input_size, seed=5)
    expected = torch_source(build_graph(backbone, network))(images)

    async def served(url: str) -> HalfArray:
        extractor = TritonExtractor(url)
        try:
            return await extractor.extract(images, spec, CallContext("dinov2", 120.0))
        finally:
            await extractor.close()

    home = Path(checkout.environment["BDI_TRITON_HOME"])
    with serve_repository(repository.root, ["dinov2_vits14"], triton_home=home, threads=2) as triton:
        tokens = asyncio.run(served(triton.grpc_url)).astype(np.float64)
    lengths = np.linalg.norm(tokens, axis=-1) * np.linalg.norm(expected, axis=-1)
    cosine = (tokens * expected).sum(axis=-1) / lengths
    assert cosine.min() >= 0.9999
    assert np.abs(tokens - expected).max() <= 1e-3


def test_the_other_commands_run_as_written(checkout: Checkout) -> None:
    done = _run(checkout, "patchlight doctor")
    assert "backbone" in done.stdout
    (checkout.folder.parent / "old-server").mkdir(exist_ok=True)
    (bench,) = [c for c in readme_commands() if c.startswith("make bench")]
    done = _run(checkout, bench)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (checkout.folder / "bench" / "results.json").is_file()
    (legacy,) = [c for c in readme_commands() if "import-legacy" in c]
    done = _run(checkout, legacy)
    assert done.returncode == 0, done.stdout + done.stderr


def test_patchlight_triton_and_serve_work_by_hand(checkout: Checkout) -> None:
    (triton_command,) = [c for c in readme_commands() if c == "patchlight triton"]
    (serve_command,) = [c for c in readme_commands() if "patchlight serve" in c]
    port = _free_port()
    environment = {**checkout.environment, "BDI_BACKEND_PORT": str(port)}
    log = checkout.folder / "triton.log"
    with log.open("wb") as out:
        triton = subprocess.Popen(
            f"exec {triton_command}", shell=True, cwd=checkout.folder, env=environment, stdout=out, stderr=out
        )
    try:
        address = _await(log, r"BDI_TRITON_URL=(\S+)", triton)
        serving = serve_command.replace("127.0.0.1:8001", address)
        out_path = checkout.folder / "serve.log"
        with out_path.open("wb") as out:
            command = re.sub(r"^(BDI_TRITON_URL=\S+) ", r"\1 exec ", serving)
            server = subprocess.Popen(
                command, shell=True, cwd=checkout.folder, env=environment, stdout=out, stderr=out
            )
        try:
            health = (
                f"curl -s --retry 40 --retry-delay 1 --retry-all-errors -f http://127.0.0.1:{port}/health"
            )
            done = _run(checkout, health)
            assert '"feature_backend":"triton"' in done.stdout, done.stdout + out_path.read_text()
        finally:
            server.terminate()
            server.wait(40)
    finally:
        triton.terminate()
        assert triton.wait(40) == 0


def test_sigterm_ends_everything_and_leaves_no_shared_memory(checkout: Checkout) -> None:
    family = psutil.Process(checkout.process.pid).children(recursive=True)
    ids = {
        argument.removeprefix("--id=")
        for process in family
        for argument in process.cmdline()
        if argument.startswith("--id=")
    }
    assert ids
    checkout.process.send_signal(signal.SIGTERM)
    checkout.process.wait(60)
    _, alive = psutil.wait_procs(family, timeout=15)
    assert not alive
    left = [p.name for p in Path("/dev/shm").iterdir() if any(p.name.startswith(i) for i in ids)]
    assert not left


def test_every_readme_command_is_run_or_listed() -> None:
    for command in readme_commands():
        run = (
            "curl" in command
            or command.startswith(("make demo", "make run", "make bench", "patchlight ", "BDI_TRITON_URL="))
            or command.startswith("python -m export")
        )
        assert run or command in NOT_RUN, command


def _await(log: Path, pattern: str, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = re.search(pattern, log.read_text())
        if found:
            return found.group(1)
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def _write_foreign_graph(path: Path) -> None:
    """Write a small feature graph as a user might bring one: float NCHW in, a 32 × 32 map of 8 channels out."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).normal(size=(8, 3, 14, 14)).astype(np.float32)
    node = helper.make_node("Conv", ["input", "weight"], ["features"], strides=[14, 14])
    graph = helper.make_graph(
        [node],
        "features",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 8, "r", "c"])],
        [numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
