"""The queue before fits: one at a time a process, a bounded number waiting, each visible with its progress."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Literal

from orchestrator.errors import Overloaded
from orchestrator.storage.activity import HEARTBEAT_S, ActivityStore


class FitProgress:
    """How far a fit is, 0 to 1; set from any thread, read by the heartbeat."""

    def __init__(self) -> None:
        self.share = 0.0
        self.state: Literal["waiting", "running"] = "waiting"

    def part(self, start: float, end: float, share: float) -> None:
        """Set the progress within a stage that spans start to end."""
        self.share = start + (end - start) * min(max(share, 0.0), 1.0)


class FitGate:
    """Admits fits; keeps their leases alive."""

    def __init__(self, activity: ActivityStore, max_waiting: int) -> None:
        self._activity = activity
        self._max_waiting = max_waiting
        self._turn = asyncio.Semaphore(1)
        self._waiting = 0

    @contextlib.asynccontextmanager
    async def enter(self, label: str) -> AsyncIterator[FitProgress]:
        """Wait for a turn, then hold it.

        Raises Overloaded where too many wait already.
        """
        if self._waiting > self._max_waiting:
            raise Overloaded(f"{self._waiting} fits are waiting already; try again in a while.")
        progress = FitProgress()
        self._waiting += 1
        waiting = True
        lease = await asyncio.to_thread(self._activity.open, label)
        heartbeat = asyncio.create_task(self._beat(lease, label, progress))
        try:
            async with self._turn:
                self._waiting -= 1
                waiting = False
                progress.state = "running"
                await asyncio.to_thread(self._activity.beat, lease, "running", label, 0.0)
                yield progress
        finally:
            if waiting:
                self._waiting -= 1
            heartbeat.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await heartbeat
            await asyncio.to_thread(self._activity.close, lease)

    async def _beat(self, lease: str, label: str, progress: FitProgress) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            # Shielded, so that a lease is never written again after it was closed.
            write = asyncio.to_thread(self._activity.beat, lease, progress.state, label, progress.share)
            task = asyncio.ensure_future(write)
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                await task
                raise
