"""One at a time, a bounded number waiting: for long work of a process that nobody else need see."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from orchestrator.errors import Overloaded


class Turns:
    """Admits work in order. name: what it is called, in the plural."""

    def __init__(self, name: str, max_waiting: int) -> None:
        self._name = name
        self._max_waiting = max_waiting
        self._turn = asyncio.Semaphore(1)
        self._admitted = 0

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Wait for a turn, then hold it.

        Raises Overloaded where too many wait already.
        """
        if self._admitted > self._max_waiting:
            raise Overloaded(
                f"{self._admitted} {self._name} are running or waiting already; try again in a while."
            )
        self._admitted += 1
        try:
            async with self._turn:
                yield
        finally:
            self._admitted -= 1
