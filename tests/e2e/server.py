"""A real API server: uvicorn processes on a free port, their log in a file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx

from tests.triton_fixtures import ROOT


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Ask over a connection of its own, which the kernel hands to any worker."""
        return httpx.request(method, self.url + path, timeout=60, **options)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Read the log lines of an event."""
        texts = self.log.read_text(errors="replace").splitlines()
        parsed = [json.loads(text) for text in texts if text.startswith("{") and text.endswith("}")]
        return [line for line in parsed if line.get("event") == event]


@contextlib.contextmanager
def serving(repository: Path, folder: Path, *, workers: int = 1, **settings: Any) -> Iterator[Server]:
    """Serve the `tiny` backbone on a data root below `folder` until the block ends."""
    port = _free_port()
    chosen = {
        "data_root": folder / "data",
        "model_repository": repository,
        "backbone": "tiny",
        "workers": workers,
        "threads": 1,
        **settings,
    }
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("BDI_", "BRAKEDISC_"))}
    environment |= {f"BDI_{k.upper()}": str(v) for k, v in chosen.items()}
    command = [sys.executable, "-m", "uvicorn", "--factory", "orchestrator.app:create_app"]
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers), "--no-access-log"]
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *options], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        server = Server(f"http://127.0.0.1:{port}", log, process)
        try:
            _wait(server)
            yield server
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(server: Server) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{server.url}/livez", timeout=1).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(server.log.read_text(errors="replace")[-4000:])
