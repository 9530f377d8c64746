"""Out-of-sample scores of the OK photographs: none is ever scored against a bank that holds it.

K-fold rebuild: the bank is built anew K times, each time without a fold, and each fold is scored against the bank
that lacks it. Photographs that the bank never held are scored against the bank itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from orchestrator.domain.arrays import FloatArray
from orchestrator.patchcore.calibration import fold_of
from orchestrator.patchcore.coreset import select_coreset
from orchestrator.patchcore.memory_bank import MemoryBank, l2_normalise
from orchestrator.services.embed import Embedded
from orchestrator.services.score import Scoring, score_against

MAX_FOLDS = 5
SEED = 0


def build_memory(
    photographs: Sequence[Embedded], rate: float, progress: Callable[[float], None] | None = None
) -> tuple[MemoryBank, np.ndarray[tuple[int], np.dtype[np.int64]], int]:
    """Stack the photographs' rows and keep a coreset.

    Returns the bank, the kept rows' places in the stack (M,) int64, and the stack's length.
    """
    stacked: FloatArray = l2_normalise(np.concatenate([p.rows for p in photographs]))
    kept = select_coreset(stacked, rate, seed=SEED, progress=progress)
    rows = np.ascontiguousarray(stacked[kept])
    grid = photographs[0].patches.shape
    return MemoryBank(rows, (grid[0], grid[1])), kept, len(stacked)


def fold_scores(
    photographs: Sequence[Embedded],
    rate: float,
    scoring: Scoring,
    percentile: float,
    progress: Callable[[float], None] | None = None,
) -> list[float]:
    """Score each of n >= 2 photographs against a bank of the others: K = min(5, n) rebuilds."""
    n = len(photographs)
    folds = min(MAX_FOLDS, n)
    assignment = fold_of(n, folds, seed=SEED)
    scores = [0.0] * n
    for fold in range(folds):
        rest = [p for p, f in zip(photographs, assignment, strict=True) if f != fold]
        memory, _, _ = build_memory(rest, rate)
        for index in np.flatnonzero(assignment == fold).tolist():
            scores[index] = score_against(photographs[index], memory, scoring, percentile)
        if progress is not None:
            progress((fold + 1) / folds)
    return scores
