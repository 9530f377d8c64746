"""A real Triton as a process: it starts alone, ends without a trace, and dies with its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from orchestrator.errors import FeaturesUnavailable, NotFound
from orchestrator.features.repository import ModelRepository
from orchestrator.features.triton import TritonExtractor
from orchestrator.twin.process import TritonServer
from orchestrator.twin.serving import serve_repository
from tests.triton_fixtures import ROOT, THREADS, call, copy_repository, draw_images, stubs_of

SHM = Path("/dev/shm")


def until(fact: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if fact():
            return True
        time.sleep(0.05)
    return fact()


def shared_memory(server: TritonServer) -> list[Path]:
    return list(SHM.glob(f"{server.shared_memory_prefix}*"))


def test_the_metrics_page_counts_what_was_asked(triton: TritonServer, tiny_models: ModelRepository) -> None:
    async def ask() -> None:
        extractor = TritonExtractor(triton.grpc_url)
        await extractor.extract(draw_images(4), tiny_models.spec("tiny", 2), call())
        await extractor.close()

    asyncio.run(ask())
    with urllib.request.urlopen(triton.metrics_url, timeout=5) as page:
        assert 'nv_inference_request_success{model="tiny",version="2"}' in page.read().decode()


def test_every_port_is_on_loopback_only(triton: TritonServer) -> None:
    listening = [c for c in psutil.Process(triton.pid).net_connections() if c.status == psutil.CONN_LISTEN]
    assert len(listening) == 3
    assert {connection.laddr.ip.removeprefix("::ffff:") for connection in listening} == {"127.0.0.1"}


def test_stopping_leaves_no_process_no_shared_memory_and_no_file(
    tiny_repository: Path, triton_home: Path
) -> None:
    server = serve_repository(tiny_repository, ["tiny"], triton_home=triton_home, threads=THREADS)
    processes = [psutil.Process(server.pid), *stubs_of(server)]
    run_dir = server.log.parent
    assert len(processes) >= 3
    assert shared_memory(server)
    server.stop()
    assert not any(process.is_running() for process in processes)
    assert not shared_memory(server)
    assert not run_dir.exists()


def test_a_frozen_server_stops_too(own_triton: TritonServer) -> None:
    own_triton.pause()
    started = time.monotonic()
    own_triton.stop()
    assert time.monotonic() - started < 12
    assert not psutil.pid_exists(own_triton.pid)
    assert not shared_memory(own_triton)


def test_a_kill_takes_the_stubs_along_and_restart_keeps_the_ports(own_triton: TritonServer) -> None:
    stubs, ports = stubs_of(own_triton), (own_triton.grpc_url, own_triton.http_url, own_triton.metrics_url)
    own_triton.kill()
    assert until(lambda: not any(stub.is_running() for stub in stubs))
    assert not shared_memory(own_triton)
    own_triton.restart()
    assert (own_triton.grpc_url, own_triton.http_url, own_triton.metrics_url) == ports
    with urllib.request.urlopen(f"{own_triton.http_url}/v2/models/tiny/ready", timeout=5) as answer:
        assert answer.status == 200


def test_two_servers_run_side_by_side(triton: TritonServer, own_triton: TritonServer) -> None:
    assert triton.grpc_url != own_triton.grpc_url
    own_triton.stop()
    assert shared_memory(triton)
    with urllib.request.urlopen(f"{triton.http_url}/v2/models/tiny/ready", timeout=5) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_triton_does_not_outlive_a_parent_that_is_ended(
    tiny_repository: Path, triton_home: Path, number: signal.Signals
) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from orchestrator.twin.serving import serve_repository\n"
        "s = serve_repository(Path(sys.argv[1]), ['tiny'], triton_home=Path(sys.argv[2]), threads=1)\n"
        "print(s.pid, s.shared_memory_prefix, s.log.parent, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tiny_repository), str(triton_home)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pid, prefix, run_dir = parent.stdout.readline().split()
        processes = [psutil.Process(int(pid)), *psutil.Process(int(pid)).children(recursive=True)]
        os.kill(parent.pid, number)
    assert until(lambda: not any(process.is_running() for process in processes))
    assert until(lambda: not list(SHM.glob(f"{prefix}*")))
    assert until(lambda: not Path(run_dir).exists())


def test_a_graph_that_does_not_load_fails_the_start_with_triton_s_own_words(
    tiny_repository: Path, triton_home: Path, tmp_path: Path
) -> None:
    repository = copy_repository(tiny_repository, tmp_path / "repository")
    (repository / "tiny" / "1" / "model.onnx").write_bytes(b"not a graph")
    started = time.monotonic()
    with pytest.raises(FeaturesUnavailable, match=r"(?s)ended while starting.*INVALID_PROTOBUF"):
        serve_repository(repository, ["tiny"], triton_home=triton_home, threads=THREADS)
    assert time.monotonic() - started < 20


def test_a_model_that_was_not_exported_is_not_found(tmp_path: Path, triton_home: Path) -> None:
    with pytest.raises(NotFound, match="export"):
        serve_repository(tmp_path, ["tiny"], triton_home=triton_home, threads=THREADS)
