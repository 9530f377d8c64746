"""From one photograph's patch distances to its image score, by each of the published rules; knows no photograph.

A rule is a part of the memory bank: scores of two rules have different scales and are never compared.
"""

from __future__ import annotations

from typing import assert_never

import numpy as np

from orchestrator.domain.arrays import FloatArray, IndexArray, MaskArray
from orchestrator.domain.memory_options import ScoreRule
from orchestrator.patchcore.memory_bank import MemoryBank
from orchestrator.patchcore.scoring import image_score

NEIGHBOURS = 9
"""Rows that `reweighted` looks at, the nearest one included."""
_TOP_SHARE = 100


def rule_score(
    rule: ScoreRule,
    *,
    distances: FloatArray,
    patches: MaskArray,
    anomaly: FloatArray,
    mask: MaskArray,
    percentile: float,
    queries: FloatArray,
    rows: IndexArray,
    memory: MemoryBank,
) -> float:
    """Give the image score by one rule; 0.0 where nothing counts.

    distances: (R, C), to the nearest bank row. patches: (R, C) bool, the ones that count. anomaly: (H, W), the map
    drawn from them. mask: (H, W) bool. percentile: 0 to 100, of the map; the other rules look at patches only.
    queries: (n, D) L2-normalised, the n patches that count, row-major. rows: (R, C) int64, each patch's bank row.
    """
    match rule:
        case "percentile":
            return image_score(anomaly, mask, percentile)
        case "mean_top1":
            return mean_top_score(distances, patches)
        case "max":
            return max_score(distances, patches)
        case "reweighted":
            return reweighted_score(distances, patches, queries, rows, memory)
        case _:
            assert_never(rule)


def mean_top_score(distances: FloatArray, patches: MaskArray) -> float:
    """Average the largest 1 % of the n patches that count: max(1, floor(n / 100)) of them.

    distances, patches: as in `rule_score`.
    Source: Damm et al. 2025, "AnomalyDINO", WACV; in its code, patches that are masked out enter as zeros.
    """
    counted = distances[patches]
    if counted.size == 0:
        return 0.0
    top = max(1, counted.size // _TOP_SHARE)
    return float(np.partition(counted, counted.size - top)[-top:].mean(dtype=np.float64))


def max_score(distances: FloatArray, patches: MaskArray) -> float:
    """Give the largest distance of the patches that count."""
    return float(distances.max(where=patches, initial=0.0))


def reweighted_score(
    distances: FloatArray, patches: MaskArray, queries: FloatArray, rows: IndexArray, memory: MemoryBank
) -> float:
    """Scale the largest distance down where its nearest bank row lies among near neighbours of its own.

    The weight is 1 - softmax(d)[0]: d holds the patch's Euclidean distances to its nearest row (first) and to that
    row's neighbours in the bank, `NEIGHBOURS` rows in all or as many as the bank has. A bank of one row scores 0.0.

    Arguments as in `rule_score`. Source: Roth et al. 2022, Eq. 7, as anomalib 2.7.0 computes it in
    `PatchcoreModel.compute_anomaly_score`.
    """
    if not patches.any():
        return 0.0
    place = int(np.where(patches, distances, -1.0).argmax())
    query = queries[np.count_nonzero(patches.ravel()[:place])]
    support = _neighbours(int(rows.flat[place]), memory)
    apart = np.linalg.norm(memory.embeddings[support].astype(np.float64) - query, axis=1)
    exponentials = np.exp(apart - apart.max())
    weight = 1.0 - exponentials[0] / exponentials.sum()
    return float(weight * distances.flat[place])


def _neighbours(row: int, memory: MemoryBank) -> IndexArray:
    """Give a bank row and its nearest others, itself first: (min(NEIGHBOURS, M),)."""
    closeness = memory.embeddings @ memory.embeddings[row] - memory.squared_norms / 2
    # Itself first, also where the bank holds it twice or a row is longer than 1 by its rounding.
    closeness[row] = np.inf
    count = min(NEIGHBOURS, len(closeness))
    nearest = np.argpartition(-closeness, count - 1)[:count]
    return np.concatenate([[row], nearest[nearest != row]]).astype(np.int64)
