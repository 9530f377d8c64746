"""What answers "which bank rows are nearest": one protocol, whatever the index behind it."""

from __future__ import annotations

from typing import Protocol

from orchestrator.domain.arrays import FloatArray, IndexArray
from orchestrator.patchcore.memory_bank import MemoryBank
from orchestrator.patchcore.neighbors import Metric, nearest


class NeighborSearch(Protocol):
    """Finds bank rows for patches."""

    @property
    def memory(self) -> MemoryBank:
        """The bank that is searched."""

    def nearest(self, queries: FloatArray) -> tuple[FloatArray, IndexArray]:
        """Find each query's nearest bank row.

        queries: (N, D) float32, L2-normalised. Returns the distances (N,) float32 and the rows (N,) int64.

        Raises InvalidInput where the dimensions differ or a query is not finite.
        """


class ExactSearch:
    """Compares every query with every row."""

    def __init__(self, memory: MemoryBank, metric: Metric) -> None:
        self._memory = memory
        self._metric = metric

    @property
    def memory(self) -> MemoryBank:
        """The bank that is searched."""
        return self._memory

    def nearest(self, queries: FloatArray) -> tuple[FloatArray, IndexArray]:
        """Find each query's nearest bank row. See `NeighborSearch`."""
        return nearest(queries, self._memory, metric=self._metric)
