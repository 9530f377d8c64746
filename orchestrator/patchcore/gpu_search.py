"""Flat search on an NVIDIA GPU by FAISS: every row is compared; the rows it finds are ranked again on the host.

Needs a FAISS built for CUDA (the extra `gpu`); refuses to start without, and never falls back to the processor.
"""

from __future__ import annotations

import threading

import faiss
import numpy as np

from orchestrator.domain.arrays import FloatArray, IndexArray
from orchestrator.errors import GpuUnavailable
from orchestrator.patchcore.candidates import SPARE, rank_candidates
from orchestrator.patchcore.memory_bank import MemoryBank
from orchestrator.patchcore.neighbors import Metric, check_queries
from orchestrator.patchcore.search import IndexKind

_SCRATCH_BYTES = 64 << 20


def require_gpu() -> None:
    """Check that FAISS can use a GPU here.

    Raises GpuUnavailable, with what to install.
    """
    if not hasattr(faiss, "GpuIndexFlatL2"):
        raise GpuUnavailable(
            "search_device: gpu needs a FAISS built for CUDA; run `pip uninstall faiss-cpu` and "
            "`pip install 'patchlight[gpu]'`, or set BDI_SEARCH_DEVICE=cpu."
        )
    try:
        present = faiss.get_num_gpus()
    except RuntimeError:
        # Without a driver the CUDA runtime cannot even count.
        present = 0
    if present < 1:
        raise GpuUnavailable(
            "search_device: gpu needs an NVIDIA GPU and its driver, and FAISS sees none; "
            "check `nvidia-smi`, or set BDI_SEARCH_DEVICE=cpu."
        )


class GpuFlatSearch:
    """Compares every query with every row on the first GPU that is visible."""

    kind: IndexKind = "gpu_flat"
    index_sha256: str | None = None

    def __init__(self, memory: MemoryBank, metric: Metric) -> None:
        """Copy the bank to the GPU.

        Raises GpuUnavailable where there is none or its memory is full.
        """
        require_gpu()
        self._memory = memory
        self._metric = metric
        # One stream's resources are not for two threads at once.
        self._guard = threading.Lock()
        try:
            self._resources = faiss.StandardGpuResources()
            self._resources.setTempMemory(_SCRATCH_BYTES)
            self._index = faiss.GpuIndexFlatL2(self._resources, memory.embeddings.shape[1])
            self._index.add(memory.embeddings)
        except RuntimeError as error:
            raise GpuUnavailable(f"the bank cannot be searched on the GPU: {error}") from error

    @property
    def memory(self) -> MemoryBank:
        """The bank that is searched."""
        return self._memory

    @property
    def nbytes(self) -> int:
        """The rows, in the host's memory."""
        return self._memory.embeddings.nbytes

    def nearest(self, queries: FloatArray) -> tuple[FloatArray, IndexArray]:
        """Find each query's nearest bank row. See `NeighborSearch`."""
        distances, rows = self.nearest_k(queries, 1)
        return distances[:, 0], rows[:, 0]

    def nearest_k(self, queries: FloatArray, k: int) -> tuple[FloatArray, IndexArray]:
        """Find each query's k nearest bank rows. See `NeighborSearch`."""
        check_queries(queries, self._memory, k)
        asked = np.ascontiguousarray(queries)
        with self._guard:
            _, found = self._index.search(asked, min(k + SPARE, len(self._memory.embeddings)))
        return rank_candidates(asked, found, self._memory, k, self._metric)
