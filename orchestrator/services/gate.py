"""The queue before fits: one at a time a process, a bounded number waiting, each visible with its progress."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Literal

import structlog

from orchestrator.errors import Overloaded, PatchlightError
from orchestrator.storage.activity import HEARTBEAT_S, ActivityStore, new_lease

_log = structlog.get_logger()


class FitProgress:
    """How far a fit is, 0 to 1; set from any thread, read by the heartbeat."""

    def __init__(self) -> None:
        self.share = 0.0
        self.state: Literal["waiting", "running"] = "waiting"

    def part(self, start: float, end: float, share: float) -> None:
        """Set the progress within a stage that spans start to end."""
        self.share = start + (end - start) * min(max(share, 0.0), 1.0)


class FitGate:
    """Admits fits; keeps their leases alive. A lease that cannot be written holds no fit up."""

    def __init__(self, activity: ActivityStore, max_waiting: int) -> None:
        self._activity = activity
        self._max_waiting = max_waiting
        self._turn = asyncio.Semaphore(1)
        self._admitted = 0

    @contextlib.asynccontextmanager
    async def enter(self, label: str) -> AsyncIterator[FitProgress]:
        """Wait for a turn, then hold it.

        Raises Overloaded where too many wait already.
        """
        if self._admitted > self._max_waiting:
            raise Overloaded(f"{self._admitted} fits are running or waiting already; try again in a while.")
        self._admitted += 1
        try:
            progress = FitProgress()
            async with self._lease(label, progress) as beat, self._turn:
                progress.state = "running"
                await beat()
                yield progress
        finally:
            self._admitted -= 1

    @contextlib.asynccontextmanager
    async def _lease(self, label: str, progress: FitProgress) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        lease = new_lease()

        async def beat() -> None:
            with _tolerated():
                await asyncio.to_thread(self._activity.beat, lease, progress.state, label, progress.share)

        await beat()
        heartbeat = asyncio.create_task(_keep(beat))
        try:
            yield beat
        finally:
            heartbeat.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await heartbeat
            with _tolerated():
                await asyncio.to_thread(self._activity.close, lease)


async def _keep(beat: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        # Shielded, so that a lease is never written again after it was closed.
        task = asyncio.ensure_future(beat())
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await task
            raise


@contextlib.contextmanager
def _tolerated() -> Iterator[None]:
    try:
        yield
    except PatchlightError as error:
        _log.warning("activity.not_written", error=error.message)
