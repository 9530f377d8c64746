"""Exact nearest neighbour by blocked matrix products; never holds an (N, M) matrix.

Exact up to float32: a row is chosen by a matrix product whose squared distances carry about 1e-6 of rounding,
its own distance is then computed again by difference, so that equal vectors are at distance 0.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from orchestrator.domain.arrays import FloatArray, IndexArray
from orchestrator.errors import InvalidInput
from orchestrator.patchcore.memory_bank import MemoryBank

Metric: TypeAlias = Literal["euclidean", "cosine"]

# One block of products is 2 MB of float32: it stays in the cache until its maximum is taken.
QUERY_BLOCK = 1024
ROW_BLOCK = 512


def nearest(
    queries: FloatArray, bank: MemoryBank, *, metric: Metric = "euclidean"
) -> tuple[FloatArray, IndexArray]:
    """Find each query's nearest bank row.

    queries: (N, D) float32, L2-normalised. Returns the distances (N,) float32 in [0, 2] and the rows (N,)
    int64. "cosine" is 1 - cos, which for unit rows is half the squared Euclidean distance: the same row wins.

    Raises InvalidInput where the dimensions differ or a query is not finite.
    """
    if queries.ndim != 2 or queries.shape[1] != bank.embeddings.shape[1]:
        raise InvalidInput(
            f"search: queries of shape {queries.shape} do not fit a bank of shape {bank.embeddings.shape}"
        )
    squared, rows = nearest_rows(queries, bank.embeddings, bank.squared_norms)
    if not np.isfinite(squared).all():
        raise InvalidInput("search: queries must be finite")
    distances = squared / 2 if metric == "cosine" else np.sqrt(squared)
    return np.minimum(distances, 2).astype(np.float32), rows


def nearest_rows(
    queries: FloatArray, rows: FloatArray, squared_norms: FloatArray
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], IndexArray]:
    """Find each query's nearest row among rows of any norm.

    queries: (N, D) float32. rows: (M, D) float32, M >= 1. squared_norms: (M,) of the rows.
    Returns the squared distances (N,) float64 and the rows (N,) int64; ties go to the lowest row.
    """
    n, m = len(queries), len(rows)
    squared = np.empty(n, dtype=np.float64)
    index = np.empty(n, dtype=np.int64)
    half_norms = squared_norms / 2
    scratch = np.empty(min(n, QUERY_BLOCK) * min(m, ROW_BLOCK), dtype=np.float32)
    for start in range(0, n, QUERY_BLOCK):
        block = queries[start : start + QUERY_BLOCK]
        best = np.full(len(block), -np.inf, dtype=np.float32)
        found = np.zeros(len(block), dtype=np.int64)
        places = np.arange(len(block))
        for low in range(0, m, ROW_BLOCK):
            part = rows[low : low + ROW_BLOCK]
            products = scratch[: len(block) * len(part)].reshape(len(block), len(part))
            np.matmul(block, part.T, out=products)
            # |x - y|^2 = |x|^2 - 2 (x.y - |y|^2 / 2): the largest bracket is the nearest row.
            products -= half_norms[low : low + ROW_BLOCK]
            winners = products.argmax(axis=1)
            values = products[places, winners]
            better = values > best
            best[better] = values[better]
            found[better] = low + winners[better]
        difference = block.astype(np.float64) - rows[found]
        squared[start : start + QUERY_BLOCK] = np.einsum("nd,nd->n", difference, difference)
        index[start : start + QUERY_BLOCK] = found
    return squared, index
