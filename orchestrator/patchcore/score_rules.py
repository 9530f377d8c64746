"""From patch distances to the image score, by the bank's rule."""

from __future__ import annotations

import math

import numpy as np

from orchestrator.domain.arrays import FloatArray, IndexArray, MaskArray
from orchestrator.domain.memory_options import ScoreRule
from orchestrator.patchcore.memory_bank import MemoryBank
from orchestrator.patchcore.scoring import image_score

NEIGHBOURS = 9


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
    """Give the image score.

    distances, rows: (R, C), each patch's nearest bank row and the distance to it. patches: (R, C) bool, the n that
    count, at least one. anomaly: (H, W) map. mask: (H, W) bool. percentile: of the map, for that rule alone. queries:
    (n, D), the counted patches row-major.
    """
    counted = distances[patches]
    match rule:
        case "percentile":
            return image_score(anomaly, mask, percentile)
        case "mean_top1":
            top = max(1, counted.size // 100)
            return float(np.partition(counted, counted.size - top)[-top:].mean())
        case "max":
            return float(counted.max())
        case "reweighted":
            return _reweighted(counted, queries, rows[patches], memory)


def _reweighted(counted: FloatArray, queries: FloatArray, rows: IndexArray, memory: MemoryBank) -> float:
    """Scale the largest distance down where its neighbourhood in the bank is far from it too.

    Source: anomalib 2.7.0, PatchcoreModel.compute_anomaly_score; Roth et al. 2022, Eq. 7.
    """
    worst = int(counted.argmax())
    bank = memory.embeddings
    away = np.linalg.norm(bank - bank[rows[worst]], axis=1)
    neighbours = np.argsort(away, kind="stable")[:NEIGHBOURS]
    if len(neighbours) == 1:
        # No neighbourhood to speak of.
        return float(counted[worst])
    reach = np.linalg.norm(bank[neighbours] - queries[worst], axis=1).astype(np.float64)
    exponents = np.exp(reach - reach.max())
    weight = 1 - float(exponents[0] / math.fsum(exponents))
    return weight * float(counted[worst])
