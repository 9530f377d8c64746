"""`patchlight triton`: a real Triton in the foreground."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from types import FrameType

from rich.console import Console

from orchestrator.errors import FeaturesUnavailable, InvalidInput
from orchestrator.features.repository import ModelRepository
from orchestrator.settings import Settings
from orchestrator.twin.serving import INSTANCES, serve_repository

GRPC_PORT = 8001
"""Triton's usual one; taken where it is free."""

_POLL_S = 0.5


def serve_triton(settings: Settings, models: Sequence[str], threads: int | None, console: Console) -> None:
    """Install what is missing, start Triton and hold it until SIGINT or SIGTERM.

    Raises InvalidInput where the repository is empty, FeaturesUnavailable where Triton ends by itself.
    """
    wanted = list(models) or ModelRepository(settings.model_repository).names()
    if not wanted:
        raise InvalidInput(
            f"{settings.model_repository} holds no backbone; run 'python -m export onnx' first, or name another "
            "folder with --repository."
        )
    stopping: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopping.append(number)

    console.print("Installing and starting Triton ...")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            serve_repository(
                settings.model_repository,
                wanted,
                triton_home=settings.triton_home,
                threads=threads or len(os.sched_getaffinity(0)),
                instances=INSTANCES,
                preferred_grpc_port=GRPC_PORT,
            )
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.signal(number, stop))
        console.print(f"Triton serves {', '.join(wanted)}: gRPC {server.grpc_url}, HTTP {server.http_url}")
        console.print(f"For the API: BDI_TRITON_URL={server.grpc_url} patchlight serve", soft_wrap=True)
        console.print(f"Metrics: {server.metrics_url}   log: {server.log}", soft_wrap=True)
        while not stopping:
            if not server.running:
                raise FeaturesUnavailable(f"Triton ended by itself; the end of its log:\n{server.log_tail()}")
            time.sleep(_POLL_S)
