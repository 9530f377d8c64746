"""Held-out scores with quality options: nothing of a photograph reaches the bank that scores it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from orchestrator.domain.arrays import HalfArray
from orchestrator.domain.foreground import ForegroundAxis
from orchestrator.domain.letterbox import Letterbox
from orchestrator.domain.memory_options import MemoryOptions
from orchestrator.errors import InvalidInput
from orchestrator.patchcore.foreground import FoundForeground
from orchestrator.patchcore.memory_bank import MemoryBank, l2_normalise
from orchestrator.patchcore.search import NeighborSearch
from orchestrator.services.embed import Embedded
from orchestrator.services.folds import plan_folds, score_fold
from orchestrator.services.foreground import check_foreground, find_foreground, keep_foreground
from orchestrator.services.held_out import Split
from orchestrator.services.score import Scoring, measure
from tests import reference

GRID = (10, 10)
SCORING = Scoring("euclidean", 0.0)
BOX = Letterbox.fit((48, 48), (48, 48))
PART = np.zeros(GRID, dtype=np.bool_)
PART[3:7, 3:7] = True


@dataclasses.dataclass(frozen=True)
class Recorded(Scoring):
    """Scores as the deployment does, and keeps the banks that it was asked with."""

    banks: list[MemoryBank] = dataclasses.field(default_factory=list)

    def search(self, memory: MemoryBank) -> NeighborSearch:
        """Make a bank searchable."""
        self.banks.append(memory)
        return super().search(memory)


def draw_tokens(seed: int, materials: int = 7) -> HalfArray:
    kinds = np.random.default_rng(materials).normal(size=(2, 24))
    noise = np.random.default_rng(seed).normal(scale=0.3, size=(PART.size, 24))
    return l2_normalise((kinds[PART.reshape(-1).astype(int)] + noise).astype(np.float32)).astype(np.float16)


def photograph(seed: int, *, views: bool = False, materials: int = 7) -> Embedded:
    """Draw a part's tokens on a background's, in 24 dimensions."""
    tokens = draw_tokens(seed, materials)
    everything = np.ones(GRID, dtype=np.bool_)
    whole = np.ones((48, 48), dtype=np.bool_)
    return Embedded(
        tokens,
        BOX,
        whole,
        everything,
        str(seed),
        np.stack([draw_tokens(seed + 100), draw_tokens(seed + 200)]) if views else None,
    )


def fold_scores(photographs: list[Embedded], options: MemoryOptions) -> dict[int, float]:
    splits, _ = plan_folds(photographs, [], np.arange(len(photographs)))
    scores = {d: s for split in splits for d, s in score_fold(split, 1.0, SCORING, 99, options).items()}
    return {index: scores[p.sha256] for index, p in enumerate(photographs)}


@pytest.mark.parametrize("foreground", [False, True])
def test_a_held_out_photograph_s_views_are_not_in_its_fold_s_bank(foreground: bool) -> None:
    options = MemoryOptions("flips", foreground=foreground, score_rule="max")
    photographs = [photograph(seed, views=True) for seed in range(5)]
    scores = fold_scores(photographs, options)
    for index, held_out in enumerate(photographs):
        # Five photographs make five folds: every other one is in the bank.
        rest = [p for i, p in enumerate(photographs) if i != index]
        axis = find_foreground(rest).axis if foreground else None
        bank = np.concatenate([keep_foreground(p, axis).bank_rows for p in rest])
        counted = keep_foreground(held_out, axis)
        assert (counted.patches.sum() < PART.size) == foreground
        farthest = reference.distance_table(counted.queries, l2_normalise(bank)).min(axis=1).max()
        assert scores[index] == pytest.approx(farthest, abs=1e-3)
        assert scores[index] > 0.1


def test_a_photograph_does_not_move_the_foreground_that_it_is_judged_by() -> None:
    photographs = [photograph(0), photograph(1, materials=99)]
    # Together, the first component tells the two photographs apart, not the part from its background.
    together = find_foreground(photographs).axis
    moved = []
    for split in plan_folds(photographs, [], np.arange(2))[0]:
        scoring = Recorded("euclidean", 0.0)
        (held_out,) = score_fold(split, 1.0, scoring, 99, MemoryOptions(foreground=True))
        (rest,) = (p for p in photographs if p.sha256 != held_out)
        expected = keep_foreground(rest, find_foreground([rest]).axis).rows
        np.testing.assert_array_equal(scoring.banks[0].embeddings, l2_normalise(expected))
        moved.append(len(expected) != len(keep_foreground(rest, together).rows))
    assert any(moved)


def test_a_fold_without_a_foreground_of_its_own_gives_no_score() -> None:
    flat = dataclasses.replace(photograph(1), tokens=np.resize(draw_tokens(1)[0], (PART.size, 24)))
    split = Split.of([flat], [photograph(0)])
    with pytest.raises(InvalidInput, match=r"foreground: it is lost where .*foreground=false"):
        score_fold(split, 1.0, SCORING, 99, MemoryOptions(foreground=True))


def test_a_fold_that_takes_the_background_for_the_part_gives_no_score() -> None:
    split = Split.of([photograph(0), photograph(1)], [photograph(2)])
    own = find_foreground([photograph(seed) for seed in range(3)]).axis
    options = MemoryOptions(foreground=True)
    assert score_fold(split, 1.0, SCORING, 99, options, foreground=own)
    turned = ForegroundAxis(-own.direction, -own.cut)
    with pytest.raises(InvalidInput, match=r"foreground: part and background .*foreground=false"):
        score_fold(split, 1.0, SCORING, 99, options, foreground=turned)


def test_a_photograph_without_the_part_counts_as_a_whole_and_says_so() -> None:
    found = find_foreground([photograph(0), photograph(1)])
    check_foreground(found)
    axis = found.axis
    assert found.share == pytest.approx(PART.mean(), abs=0.03)
    empty = photograph(2)
    background = empty.tokens[~PART.reshape(-1)]
    empty = dataclasses.replace(empty, tokens=np.resize(background, empty.tokens.shape))
    judged = keep_foreground(empty, axis)
    assert judged.has_foreground is False
    assert judged.patches.all()
    assert judged.mask.all()
    kept = keep_foreground(photograph(3), axis)
    assert kept.has_foreground is True
    assert not kept.patches.all()
    assert not kept.mask.all()
    assert keep_foreground(empty, None).has_foreground is None


@pytest.mark.parametrize(
    ("share", "separation"), [(0.0, 0.9), (0.04, 0.9), (0.96, 0.9), (1.0, 0.0), (0.5, 0.75)]
)
def test_a_foreground_that_is_none_is_refused(share: float, separation: float) -> None:
    axis = ForegroundAxis(np.ones(4, np.float32) / 2, 0.0)
    with pytest.raises(InvalidInput, match=f"{share:.0%} of the patches.*foreground=false"):
        check_foreground(FoundForeground(axis, share, separation))


@pytest.mark.parametrize("share", [0.05, 0.95])
def test_a_foreground_that_stands_apart_is_accepted(share: float) -> None:
    check_foreground(FoundForeground(ForegroundAxis(np.ones(4, np.float32) / 2, 0.0), share, 0.8))


def test_without_the_part_a_photograph_is_compared_with_the_part_alone() -> None:
    members = [photograph(seed) for seed in range(3)]
    axis = find_foreground(members).axis
    kept = [keep_foreground(m, axis) for m in members]
    # The rim of background that a foreground is grown by is in the bank.
    bank = l2_normalise(np.concatenate([k.rows for k in kept]))
    search = SCORING.search(MemoryBank(bank, GRID))
    empty = photograph(9)
    background = empty.tokens[~PART.reshape(-1)]
    empty = dataclasses.replace(empty, tokens=np.resize(background, empty.tokens.shape))
    counted, found = measure(empty, search, SCORING, axis)
    shown = np.flatnonzero(bank @ axis.direction > axis.cut)
    assert len(shown) < len(bank)
    table = reference.distance_table(counted.queries, bank[shown])
    np.testing.assert_allclose(found.distances.reshape(-1), table.min(axis=1), atol=1e-3)
    np.testing.assert_array_equal(found.rows.reshape(-1), shown[table.argmin(axis=1)])
    nearest_rim = reference.distance_table(counted.queries, bank).min(axis=1)
    assert found.distances.mean() > 1.5 * nearest_rim.mean()
