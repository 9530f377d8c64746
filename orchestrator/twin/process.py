"""One Triton process on loopback: start, wait until it serves, stop without a trace.

Knows command line, ports, readiness and signals; knows nothing of what the models compute.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from orchestrator.errors import FeaturesUnavailable
from orchestrator.twin import guard
from orchestrator.twin.command import HOST, Ports, free_ports, triton_command, triton_environment
from orchestrator.twin.install import TritonInstallation
from orchestrator.twin.repository import build_twin

_ATTEMPTS = 3


class TritonServer:
    """A Triton that serves the twin of a shipped repository; a context manager that stops it.

    repository: as shipped, only read. models: loaded at start, no others. threads: for one execution of a graph.
    instances: executions at once. log: appended to; by default it goes with the server.
    Not for use by two threads at once.
    """

    def __init__(
        self,
        installation: TritonInstallation,
        repository: Path,
        models: Sequence[str],
        *,
        threads: int,
        instances: int = 1,
        log: Path | None = None,
        start_timeout_s: float = 60.0,
        exit_timeout_s: float = 5.0,
        extra_arguments: Sequence[str] = (),
        preferred_grpc_port: int = 0,
    ) -> None:
        self._installation = installation
        self._repository = repository
        self._models = tuple(models)
        self._threads, self._instances = threads, instances
        self._start_timeout_s = start_timeout_s
        self._exit_timeout_s = exit_timeout_s
        self._extra = tuple(extra_arguments)
        self._preferred_grpc_port = preferred_grpc_port
        self._id = f"patchlight_triton_{uuid.uuid4().hex[:12]}"
        self._run_dir = Path(tempfile.mkdtemp(prefix="patchlight-triton-", dir=_plain_temporary_folder()))
        self.log = log or self._run_dir / "triton.log"
        self._ports = Ports(0, 0, 0)
        self._guard: subprocess.Popen[str] | None = None
        self.pid = 0

    @property
    def grpc_url(self) -> str:
        """`host:port`, as gRPC clients want it."""
        return f"{HOST}:{self._ports.grpc}"

    @property
    def http_url(self) -> str:
        """Base of the HTTP API."""
        return f"http://{HOST}:{self._ports.http}"

    @property
    def metrics_url(self) -> str:
        """The Prometheus page."""
        return f"http://{HOST}:{self._ports.metrics}/metrics"

    @property
    def shared_memory_prefix(self) -> str:
        """How this server's regions in /dev/shm begin."""
        return self._id

    @property
    def running(self) -> bool:
        """Whether the process is there; says nothing of readiness."""
        return self._guard is not None and self._guard.poll() is None

    def start(self) -> TritonServer:
        """Start on free ports and return once every model answers ready.

        Raises FeaturesUnavailable with the end of the log where Triton ends or is not ready in time;
        NotFound or FeatureContractBroken where the repository cannot be served.
        """
        try:
            self._write_twin()
            self._start_on_free_ports()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End Triton, by force after the exit time-out, and remove its shared memory and temporary files."""
        self._end_guard()
        self._remove_run_dir()

    def kill(self) -> None:
        """Kill Triton and its stubs at once, as a crash would; `restart` brings it back."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._guard is not None:
            self._guard.wait()

    def restart(self) -> None:
        """Start again on the same ports, with what the repository holds now.

        Raises as `start` does.
        """
        self._end_guard()
        self._write_twin()
        self._launch()

    def pause(self) -> None:
        """Freeze every process of this Triton, as a hung machine would."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        os.killpg(self.pid, signal.SIGCONT)

    def log_tail(self, lines: int = 25) -> str:
        """Give the last lines of the log."""
        if not self.log.is_file():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def __enter__(self) -> TritonServer:
        """Start where not yet started."""
        return self if self.running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def _write_twin(self) -> None:
        twin = self._run_dir / "repository"
        shutil.rmtree(twin, ignore_errors=True)
        build_twin(
            self._repository,
            self._models,
            twin,
            stub_packages=self._installation.stub_packages,
            threads=self._threads,
            instances=self._instances,
        )

    def _start_on_free_ports(self) -> None:
        for attempt in range(_ATTEMPTS):
            self._ports = free_ports(self._preferred_grpc_port)
            try:
                self._launch()
            except FeaturesUnavailable:
                # Between finding the ports and binding them another program may have taken one.
                if attempt + 1 == _ATTEMPTS or not self._lost_a_port():
                    raise
            else:
                return

    def _launch(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        # Triton starts its stub through an unquoted shell line, so no space may be in the way to it.
        backends = self._run_dir / "backends"
        if not backends.is_symlink():
            backends.symlink_to(self._installation.backends)
        command = triton_command(
            replace(self._installation, backends=backends),
            self._run_dir / "repository",
            self._models,
            self._ports,
            server_id=self._id,
            exit_timeout_s=self._exit_timeout_s,
        )
        guarded = [
            str(os.getpid()),
            self._id,
            str(self._run_dir),
            str(self._exit_timeout_s + 1),
            str(self.log),
        ]
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, *guarded, "--", *command, *self._extra],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env=triton_environment(self._installation, self._run_dir),
            start_new_session=True,
        )
        try:
            self.pid = self._read_pid(self._guard)
            self._wait_until_ready()
        except BaseException:
            self._end_guard()
            raise

    def _read_pid(self, process: subprocess.Popen[str]) -> int:
        if process.stdout is None:
            raise FeaturesUnavailable("Triton's guard has no output")
        with process.stdout as answer:
            line = answer.readline()
        if not line:
            raise FeaturesUnavailable("Triton could not be launched; its guard said why on standard error")
        return int(line)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline:
            if not self.running:
                raise FeaturesUnavailable(f"Triton ended while starting:\n{self.log_tail()}")
            if (
                self._answers_as_itself()
                and all(self._is_ready(model) for model in self._models)
                # The last endpoint to be bound; where that fails Triton ends after it was ready.
                and b"nv_" in self._get("/metrics", self._ports.metrics)[1]
            ):
                return
            time.sleep(0.05)
        raise FeaturesUnavailable(
            f"Triton was not ready within {self._start_timeout_s:g} s:\n{self.log_tail()}"
        )

    def _answers_as_itself(self) -> bool:
        # Another server may hold a port that ours failed to get, and would happily answer.
        status, body = self._get("/v2", self._ports.http)
        return status == http.client.OK and json.loads(body).get("name") == self._id

    def _is_ready(self, model: str) -> bool:
        return self._get(f"/v2/models/{model}/ready", self._ports.http)[0] == http.client.OK

    def _get(self, path: str, port: int) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(HOST, port, timeout=2)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def _lost_a_port(self) -> bool:
        tail = self.log_tail(60).lower()
        return "address already in use" in tail or "failed to start" in tail or "unavailable - socket" in tail

    def _end_guard(self) -> None:
        if self._guard is None:
            return
        if self._guard.poll() is None:
            self._guard.terminate()
            try:
                self._guard.wait(self._exit_timeout_s + 5)
            except subprocess.TimeoutExpired:
                self.kill()
        self._guard = None
        guard.remove_shared_memory(self._id)

    def _remove_run_dir(self) -> None:
        shutil.rmtree(self._run_dir, ignore_errors=True)


def _plain_temporary_folder() -> str | None:
    return "/tmp" if " " in tempfile.gettempdir() else None  # noqa: S108 - mkdtemp makes a private folder in it
