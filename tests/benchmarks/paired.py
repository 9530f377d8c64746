"""Whether one score tells good from bad better than another on the same photographs: a paired bootstrap.

Both scores are resampled together, so that what they share (hard photographs, few of them) cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 2000
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """Where a difference lies with `CONFIDENCE`."""

    low: float
    high: float


def auroc_differences(
    ours: Sequence[tuple[Floats, Floats]], theirs: Sequence[tuple[Floats, Floats]], *, seed: int
) -> Floats:
    """Resample the difference of two scores' image AUROCs, ours less theirs: (RESAMPLES,).

    ours, theirs: (good, bad) scores of the same photographs in the same order, one pair a fit; the mean over the fits
    is what differs. Good and bad photographs are drawn apart, with replacement, and alike for every fit and both
    sides.
    """
    wins = np.mean([_wins(*a) - _wins(*b) for a, b in zip(ours, theirs, strict=True)], axis=0)
    rng = np.random.default_rng(seed)
    good, bad = (rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n for n in wins.shape)
    drawn: Floats = np.einsum("sg,gb,sb->s", good, wins, bad, optimize=True)
    return drawn


def interval(differences: Floats) -> Interval:
    """Give the percentile interval of resampled differences."""
    tail = (1 - CONFIDENCE) / 2 * 100
    low, high = np.percentile(differences, [tail, 100 - tail])
    return Interval(float(low), float(high))


def _wins(good: Floats, bad: Floats) -> Floats:
    """Say which bad photograph scores above which good one, a tie counting half: (good, bad). Its mean is the AUROC."""
    wins: Floats = (bad > good[:, None]) + 0.5 * (bad == good[:, None])
    return wins
