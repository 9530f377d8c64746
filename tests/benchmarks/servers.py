"""The servers that are measured: started as a user starts them, ended whatever happens.

Every server leads a process group of its own, so that Ctrl-C reaches the benchmark alone and it ends them in order.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.twin.command import HOST, free_ports
from orchestrator.twin.serving import INSTANCES, serve_repository
from tests.benchmarks.exported import export_once
from tests.benchmarks.rows import ROOT

_START_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What every suite is told.

    repository: exported backbones; what is missing is exported into it. threads: of Triton's graph and of the peer.
    data: folder of real photographs, if there is one.
    """

    repository: Path
    triton_home: Path
    threads: int
    repeats: int
    data: Path | None = None


@dataclass(frozen=True, slots=True)
class Ours:
    """The orchestrator in front of its Triton."""

    url: str
    triton_url: str
    spec: BackboneSpec


@contextmanager
def serve_ours(plan: Plan, backbone: str) -> Iterator[Ours]:
    """Serve a backbone by Triton, and the orchestrator by one uvicorn process on an empty store."""
    spec = export_once(plan.repository, backbone)
    with (
        serve_repository(
            plan.repository,
            [backbone],
            triton_home=plan.triton_home,
            threads=plan.threads,
            instances=INSTANCES,
        ) as triton,
        TemporaryDirectory(prefix="patchlight-bench-") as store,
    ):
        environment = {
            "BDI_DATA_ROOT": store,
            "BDI_MODEL_REPOSITORY": str(plan.repository.absolute()),
            "BDI_BACKBONE": backbone,
            "BDI_TRITON_URL": triton.grpc_url,
        }
        with _uvicorn("orchestrator.app:create_app", environment, ready="/readyz") as url:
            yield Ours(url, triton.grpc_url, spec)


@contextmanager
def serve_in_process(plan: Plan, backbone: str, store: Path, **settings: str) -> Iterator[str]:
    """Serve the orchestrator by one uvicorn process that computes features itself; gives its base address."""
    environment = {
        "BDI_DATA_ROOT": str(store),
        "BDI_MODEL_REPOSITORY": str(plan.repository.absolute()),
        "BDI_BACKBONE": backbone,
        **settings,
    }
    with _uvicorn("orchestrator.app:create_app", environment, ready="/readyz") as url:
        yield url


@contextmanager
def serve_naive(plan: Plan, backbone: str, *, seed: int) -> Iterator[str]:
    """Serve the naive peer; gives its base address."""
    environment = {
        "NAIVE_BACKBONE": backbone,
        "NAIVE_SEED": str(seed),
        "NAIVE_THREADS": str(plan.threads),
    }
    with _uvicorn("tests.benchmarks.naive_server:create_app", environment, ready="/health") as url:
        yield url


@contextmanager
def _uvicorn(application: str, settings: Mapping[str, str], *, ready: str) -> Iterator[str]:
    port = free_ports().http
    with TemporaryDirectory(prefix="patchlight-bench-") as scratch:
        log = Path(scratch) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "uvicorn", application, "--factory"),
                    *("--no-access-log", "--log-level", "warning", "--host", HOST, "--port", str(port)),
                ],
                # A folder of its own: a configuration file in the caller's would be read.
                cwd=scratch,
                env=_environment(settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait_until_ready(process, port, ready, log)
            yield f"http://{HOST}:{port}"
        finally:
            _end(process)


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    # What the caller has set for a server of their own must not change what is measured.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("BDI_", "BRAKEDISC_", "BACKEND_"))}
    return {**inherited, "PYTHONPATH": str(ROOT), **settings}


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if _status(port, path) == http.client.OK:
            return
        time.sleep(0.05)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
    raise RuntimeError(f"{process.args!r} did not serve:\n{tail}")


def _status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
