"""Out-of-sample scores of the OK photographs: none is ever scored against a bank that holds it.

K-fold rebuild: the bank is built anew K times, each time without a fold, and each fold is scored against the bank
that lacks it, together with its near-duplicates. Photographs that the bank never held are scored against the bank
itself. A fold's bank is made as its own bank was: with the views of its members and none of the fold's, and a
foreground found in its members alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from orchestrator.domain.arrays import FloatArray, IndexArray
from orchestrator.domain.foreground import ForegroundAxis
from orchestrator.domain.memory_options import MemoryOptions
from orchestrator.patchcore.coreset import select_coreset
from orchestrator.patchcore.memory_bank import MemoryBank, l2_normalise
from orchestrator.patchcore.near_duplicates import fold_of_groups, near_duplicate_groups
from orchestrator.patchcore.search import NeighborSearch
from orchestrator.services.embed import Embedded
from orchestrator.services.foreground import check_fold_foreground, find_foreground, keep_foreground
from orchestrator.services.held_out import MemberBank, OutOfSampleScore, Split, score_held_out
from orchestrator.services.score import Scoring

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


def plan_folds(
    inside: Sequence[Embedded], outside: Sequence[Embedded], groups: IndexArray
) -> tuple[list[Split], list[Embedded]]:
    """Split the OK photographs into folds: each once held out of a bank of all the others.

    inside: what the stored bank holds. outside: what it does not. groups: (n,) int64 of both in turn;
    a group is never parted. An outside photograph whose near-duplicate is inside is held out together with that one,
    and never enters a bank. Where all that is inside is one group, no fold could keep it whole: each photograph then
    stands alone, and the groups that are reported tell how little that proves. A single one has no fold. The outside
    near-duplicates of such a group are in no split: every bank would hold a copy of them.

    Returns the splits, and the outside photographs that the stored bank itself may score: those unlike all inside.
    """
    own, others = groups[: len(inside)], groups[len(inside) :]
    near = np.isin(others, own)
    apart = [p for p, is_near in zip(outside, near, strict=True) if not is_near]
    if len(inside) < 2:
        return [], apart
    joined = list[Embedded]()
    if len(set(own.tolist())) > 1:
        joined = [p for p, is_near in zip(outside, near, strict=True) if is_near]
        together = np.concatenate([own, others[near]])
    else:
        together = np.arange(len(inside), dtype=np.int64)
    count = min(MAX_FOLDS, len(set(together.tolist())))
    folds = fold_of_groups(together, count, seed=SEED)
    splits = [
        Split.of(
            [p for p, f in zip(inside, folds[: len(inside)], strict=True) if f != fold],
            [p for p, f in zip([*inside, *joined], folds, strict=True) if f == fold],
        )
        for fold in range(count)
    ]
    return splits, apart


def score_fold(
    split: Split,
    rate: float,
    scoring: Scoring,
    percentile: float,
    options: MemoryOptions,
    progress: Callable[[float], None] | None = None,
    model: NeighborSearch | None = None,
    foreground: ForegroundAxis | None = None,
) -> dict[str, OutOfSampleScore]:
    """Score the held-out photographs of a split against a bank of its members: digest to score.

    Its photographs are whole, with the views that enter a bank. options: of the bank that the scores are for. Folds are
    independent, so they may run side by side. progress: called with the share of the rebuild. model: a search whose
    kind of index the fold's bank gets too, because an approximate one raises scores. foreground: of the bank that the
    scores are for; a fold's own must show the same part.

    Raises InvalidInput where the members show no foreground, or another one.
    """

    def build(members: Sequence[Embedded]) -> tuple[NeighborSearch, ForegroundAxis | None]:
        axis = None
        if options.foreground:
            found = find_foreground(members)
            check_fold_foreground(found, foreground)
            axis = found.axis
        memory, _, _ = build_memory([keep_foreground(m, axis) for m in members], rate, progress)
        return scoring.search(memory) if model is None else scoring.search_like(model, memory), axis

    bank = MemberBank.of(split.members, build, options.score_rule)
    return {s.sha256: score_held_out(bank, s, scoring, percentile) for s in split.held_out}


def groups_of(photographs: Sequence[Embedded], progress: Callable[[float], None] | None = None) -> IndexArray:
    """Number the groups of near-duplicates: (n,) int64. progress: called with the share that is compared."""
    return near_duplicate_groups([p.tokens for p in photographs], [p.patches for p in photographs], progress)
