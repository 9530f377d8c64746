"""Starts the API's processes, and tells when they answer."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from orchestrator.settings import Settings

APPLICATION = "orchestrator.app:create_app"


class _Announcing(uvicorn.Server):
    """Calls back once the sockets listen."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[str], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started and self.servers:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._on_started(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")


def serve_api(settings: Settings, on_started: Callable[[str], None] | None = None) -> None:
    """Serve until SIGINT or SIGTERM; in-flight requests end first.

    on_started gets the base address; with several workers it is called before they answer.

    Raises GpuUnavailable.
    """
    if settings.search_device == "gpu":
        # Here too, so that the refusal is one sentence and not a worker's trace.
        from orchestrator.patchcore.gpu_search import require_gpu

        require_gpu()
    _raise_file_limit()
    with _environment(settings):
        options = {
            "host": settings.backend_host,
            "port": settings.backend_port,
            "factory": True,
            "log_config": None,
            "access_log": False,
            "timeout_graceful_shutdown": 30,
            "server_header": False,
        }
        announce = on_started or (lambda _: None)
        if settings.workers > 1:
            announce(f"http://{settings.backend_host}:{settings.backend_port}")
            uvicorn.run(APPLICATION, workers=settings.workers, **options)  # type: ignore[arg-type]
        else:
            _Announcing(uvicorn.Config(APPLICATION, **options), announce).run()  # type: ignore[arg-type]


def port_fault(settings: Settings) -> str | None:
    """Say why the API's port cannot be listened on; None where it can."""
    family = socket.AF_INET6 if ":" in settings.backend_host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.backend_host, settings.backend_port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def _raise_file_limit() -> None:
    # Every large upload is a spooled file, and a request may bring thousands.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def _environment(settings: Settings) -> Iterator[None]:
    # Workers are processes of their own: they read the same settings from the environment.
    os.environ.update(settings.as_environment())
    metrics = None
    if settings.enable_metrics and settings.workers > 1 and "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        metrics = tempfile.mkdtemp(prefix="patchlight-metrics-")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics
    try:
        yield
    finally:
        if metrics is not None:
            shutil.rmtree(metrics, ignore_errors=True)
