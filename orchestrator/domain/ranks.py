"""Exact ranks among numbers that come one by one; 8 bytes a number, and no step that grows as fast as their count."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort

import numpy as np

RECENT = 4096


class Ranks:
    """All numbers so far, in order: most of them in one settled run, the last few in a short one beside it.

    Putting a number into its place in a run moves what lies behind it, so the new ones go into the short run, and it
    is merged into the long one when it is full: some milliseconds for two million numbers, once in 4096.
    """

    def __init__(self) -> None:
        self._settled = memoryview(array("d"))
        self._recent = array("d")

    def add(self, number: float) -> tuple[int, int]:
        """Count the earlier numbers that are greater, and those that are equal; then take this one in, finite."""
        before = len(self._settled) + len(self._recent)
        first = bisect_left(self._settled, number) + bisect_left(self._recent, number)
        last = bisect_right(self._settled, number) + bisect_right(self._recent, number)
        insort(self._recent, number)
        if len(self._recent) >= RECENT:
            self._settle()
        return before - last, last - first

    def _settle(self) -> None:
        merged = np.concatenate((np.frombuffer(self._settled), np.frombuffer(self._recent)))
        # Stable sorting finds the two runs and only merges them.
        merged.sort(kind="stable")
        self._settled = merged.data
        self._recent = array("d")
