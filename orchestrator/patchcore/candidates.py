"""Ranks the rows that an index found by their own distances: what an index says of a distance is never passed on."""

from __future__ import annotations

import numpy as np

from orchestrator.domain.arrays import FloatArray, IndexArray
from orchestrator.patchcore.memory_bank import MemoryBank
from orchestrator.patchcore.neighbors import Metric, as_distances, nearest_k

# Found beyond k and ranked with the rest: an index rounds to float32, and near ties come out in any order.
SPARE = 4
# Pairs that are held in float64 at once.
_PAIRS = 512


def rank_candidates(
    queries: FloatArray, candidates: IndexArray, bank: MemoryBank, k: int, metric: Metric
) -> tuple[FloatArray, IndexArray]:
    """Keep each query's k nearest candidates, equals in rising order of rows: distances and rows, (N, K).

    queries: (N, D) float32. candidates: (N, C) int64 bank rows, C >= k, -1 where an index found fewer. A query with
    fewer than k of them is compared with every row.
    """
    n = len(queries)
    squared = np.empty((n, k), dtype=np.float64)
    rows = np.empty((n, k), dtype=np.int64)
    step = max(1, _PAIRS // candidates.shape[1])
    for low in range(0, n, step):
        part = slice(low, min(low + step, n))
        ordered = np.sort(candidates[part], axis=1)
        difference = queries[part, None].astype(np.float64) - bank.embeddings[ordered]
        distances = np.einsum("ncd,ncd->nc", difference, difference)
        distances[ordered < 0] = np.inf
        # A stable sort keeps equals in the order of their rows.
        best = np.argsort(distances, axis=1, kind="stable")[:, :k]
        squared[part] = np.take_along_axis(distances, best, axis=1)
        rows[part] = np.take_along_axis(ordered, best, axis=1)
    found = as_distances(squared, metric)
    short = np.flatnonzero(np.isinf(squared[:, -1]))
    if len(short):
        found[short], rows[short] = nearest_k(queries[short], bank, k, metric=metric)
    return found, rows
