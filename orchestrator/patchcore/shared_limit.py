"""A limit of the whole process that several may hold at once; knows not what it limits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Restore: TypeAlias = Callable[[], object]


class SharedLimit:
    """Set by the first who holds it; the last to leave, in whatever order, puts back what was before.

    take: sets the limit and gives what undoes it.
    """

    def __init__(self, take: Callable[[], Restore]) -> None:
        self._take = take
        self._lock = threading.Lock()
        self._holders = 0
        self._restore: Restore | None = None

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the limit until the end."""
        with self._lock:
            if self._holders == 0:
                self._restore = self._take()
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if self._holders == 0 and self._restore is not None:
                    self._restore()
