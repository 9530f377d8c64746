"""What answers "which bank rows are nearest": one protocol, whatever the index behind it."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

from orchestrator.domain.arrays import FloatArray, IndexArray
from orchestrator.patchcore.memory_bank import MemoryBank
from orchestrator.patchcore.neighbors import Metric, nearest_k
from orchestrator.patchcore.projection import find_projection

IndexKind: TypeAlias = Literal["exact", "ivf", "gpu_flat"]


class NeighborSearch(Protocol):
    """Finds bank rows for patches. A distance is always the found row's own, computed by difference.

    kind: "exact" and "gpu_flat" compare every row, "ivf" some. index_sha256: of the stored index that is searched,
    None where it finds what comparing every row finds. nbytes: held in memory.
    """

    @property
    def memory(self) -> MemoryBank:
        """The bank that is searched."""

    @property
    def kind(self) -> IndexKind:
        """What kind of index it is."""

    @property
    def index_sha256(self) -> str | None:
        """Which index a threshold that came through this search belongs to."""

    @property
    def nbytes(self) -> int:
        """What it holds in memory, in bytes."""

    def nearest(self, queries: FloatArray) -> tuple[FloatArray, IndexArray]:
        """Find each query's nearest bank row.

        queries: (N, D) float32, L2-normalised. Returns the distances (N,) float32 and the rows (N,) int64.

        Raises InvalidInput where the dimensions differ or a query is not finite.
        """

    def nearest_k(self, queries: FloatArray, k: int) -> tuple[FloatArray, IndexArray]:
        """Find each query's k nearest bank rows: (N, K) each, nearest first, equals in rising order of rows.

        Raises InvalidInput as `nearest`, and where k is less than 1 or more than the bank's rows.
        """


class ExactSearch:
    """Finds what comparing every query with every row finds."""

    kind: IndexKind = "exact"
    index_sha256: str | None = None

    def __init__(self, memory: MemoryBank, metric: Metric) -> None:
        self._memory = memory
        self._metric = metric
        self._projection = find_projection(memory.embeddings, memory.squared_norms)

    @property
    def memory(self) -> MemoryBank:
        """The bank that is searched."""
        return self._memory

    @property
    def nbytes(self) -> int:
        """The rows and their bounds."""
        bounds = self._projection.bounds.nbytes if self._projection is not None else 0
        return self._memory.embeddings.nbytes + bounds

    def nearest(self, queries: FloatArray) -> tuple[FloatArray, IndexArray]:
        """Find each query's nearest bank row. See `NeighborSearch`."""
        distances, rows = self.nearest_k(queries, 1)
        return distances[:, 0], rows[:, 0]

    def nearest_k(self, queries: FloatArray, k: int) -> tuple[FloatArray, IndexArray]:
        """Find each query's k nearest bank rows. See `NeighborSearch`."""
        return nearest_k(queries, self._memory, k, metric=self._metric, projection=self._projection)
