"""Out-of-sample scores of the OK photographs: none is ever scored against a bank that holds it.

K-fold rebuild: the bank is built anew K times, each time without a fold, and each fold is scored against the bank
that lacks it. Photographs that the bank never held are scored against the bank itself. A fold's bank is made as its
own bank was: with the views of its members and none of the fold's, and a foreground found in its members alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from orchestrator.domain.arrays import FloatArray
from orchestrator.domain.memory_options import MemoryOptions
from orchestrator.patchcore.calibration import fold_of
from orchestrator.patchcore.coreset import select_coreset
from orchestrator.patchcore.memory_bank import MemoryBank, l2_normalise
from orchestrator.patchcore.search import NeighborSearch
from orchestrator.services.embed import Embedded
from orchestrator.services.foreground import find_foreground, keep_foreground
from orchestrator.services.score import Scoring, score_against

MAX_FOLDS = 5
SEED = 0


def build_memory(
    photographs: Sequence[Embedded],
    rate: float,
    progress: Callable[[float], None] | None = None,
    *,
    threads: int = 1,
) -> tuple[MemoryBank, np.ndarray[tuple[int], np.dtype[np.int64]], int]:
    """Stack the photographs' rows, those of their views too, and keep a coreset.

    threads: of the coreset; any number keeps the same rows, and folds side by side take one each.
    Returns the bank, the kept rows' places in the stack (M,) int64, and the stack's length.
    """
    stacked: FloatArray = l2_normalise(np.concatenate([p.bank_rows for p in photographs]))
    kept = select_coreset(stacked, rate, seed=SEED, progress=progress, threads=threads)
    rows = np.ascontiguousarray(stacked[kept])
    grid = photographs[0].patches.shape
    return MemoryBank(rows, (grid[0], grid[1])), kept, len(stacked)


def fold_count(n: int) -> int:
    """Give the number of folds of n photographs."""
    return min(MAX_FOLDS, n)


def score_fold(
    photographs: Sequence[Embedded],
    fold: int,
    rate: float,
    scoring: Scoring,
    percentile: float,
    options: MemoryOptions,
    progress: Callable[[float], None] | None = None,
    model: NeighborSearch | None = None,
) -> dict[int, float]:
    """Score the photographs of one fold against a bank of all the others: index to score.

    photographs: whole, with the views that enter a bank. options: of the bank that the scores are for. Folds are
    independent, so they may run side by side. progress: called with the share of the rebuild. model: a search whose
    kind of index the fold's bank gets too, because an approximate one raises scores.
    """
    n = len(photographs)
    assignment = fold_of(n, fold_count(n), seed=SEED)
    rest = [p for p, f in zip(photographs, assignment, strict=True) if f != fold]
    axis = find_foreground(rest).axis if options.foreground else None
    memory, _, _ = build_memory([keep_foreground(p, axis) for p in rest], rate, progress)
    held_out = np.flatnonzero(assignment == fold).tolist()
    search = scoring.search(memory) if model is None else scoring.search_like(model, memory)
    return {
        index: score_against(photographs[index], search, scoring, percentile, options.score_rule, axis)
        for index in held_out
    }
