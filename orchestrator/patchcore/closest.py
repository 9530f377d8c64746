"""The bank row closest to one patch, settled in float64; for answers to "why", whatever index the score came from."""

from __future__ import annotations

import math

import numpy as np

from orchestrator.domain.arrays import FloatArray
from orchestrator.patchcore.memory_bank import MemoryBank
from orchestrator.patchcore.neighbors import Metric

# Of half a squared distance between unit rows; float32 products are off by a tenth of it.
_ROUNDING = 1e-5
_BLOCK = 4096


def closest_row(query: FloatArray, memory: MemoryBank, metric: Metric) -> tuple[float, int]:
    """Find a patch's nearest row: its distance and its index; of equal rows the lowest.

    query: (D,) float32, L2-normalised.
    """
    half_squared = memory.squared_norms / 2 - memory.embeddings @ query
    close = np.flatnonzero(half_squared <= half_squared.min() + _ROUNDING)
    squared, row = math.inf, -1
    for start in range(0, len(close), _BLOCK):
        block = close[start : start + _BLOCK]
        difference = memory.embeddings[block].astype(np.float64) - query
        exact = np.einsum("md,md->m", difference, difference)
        best = int(exact.argmin())
        if exact[best] < squared:
            squared, row = float(exact[best]), int(block[best])
    return min(squared / 2 if metric == "cosine" else math.sqrt(squared), 2.0), row
