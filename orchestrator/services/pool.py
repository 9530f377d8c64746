"""The sized thread pools that numerics run in, so that the event loop never computes."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import ParamSpec, TypeVar

import cv2

from orchestrator.errors import Stopping
from orchestrator.patchcore.blocks import one_blas_thread
from orchestrator.patchcore.shared_limit import Restore, SharedLimit

P = ParamSpec("P")
T = TypeVar("T")


def _one_opencv_thread() -> Restore:
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    return partial(cv2.setNumThreads, before)


_opencv = SharedLimit(_one_opencv_thread)


class NumericsPool:
    """One pool for inspections and one for fits, so that a long coreset never holds up the line.

    BLAS and OpenCV get one thread a call: parallelism comes from requests, and results don't depend on the
    machine. That is a setting of the process; when the last pool of it closes, it is put back.
    """

    def __init__(self, threads: int) -> None:
        self.threads = max(1, threads)
        self._limits = ExitStack()
        self._limits.enter_context(one_blas_thread())
        self._limits.enter_context(_opencv.hold())
        self._closing = threading.Event()
        self._inspect = ThreadPoolExecutor(self.threads, thread_name_prefix="inspect")
        self._fit = ThreadPoolExecutor(self.threads, thread_name_prefix="fit")

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Compute for an inspection."""
        return await self._submit(self._inspect, function, *args, **kwargs)

    async def run_fit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Compute for a fit or a calibration."""
        return await self._submit(self._fit, function, *args, **kwargs)

    def keep_going(self, _: float = 0.0) -> None:
        """Progress callback for long numerics: lets a process that ends abandon them.

        Raises Stopping once the pool is closing.
        """
        if self._closing.is_set():
            raise Stopping("the server is stopping; nothing was changed. Try again in a moment.")

    def stop(self) -> None:
        """Abandon long work at its next step, let the rest end, start nothing more."""
        self._closing.set()
        self._inspect.shutdown(wait=True, cancel_futures=True)
        self._fit.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Stop, and lift the limits. In the thread that made the pool: OpenBLAS heeds no other."""
        self.stop()
        self._limits.close()

    async def _submit(
        self, executor: ThreadPoolExecutor, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        # With the caller's context, so that log lines from there name the request.
        context = contextvars.copy_context()
        return await asyncio.wrap_future(executor.submit(lambda: context.run(function, *args, **kwargs)))
