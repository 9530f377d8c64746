"""How far a threshold would move with other images of the same kind: the percentile bootstrap; knows scores only.

A resample's order statistics are drawn directly where the threshold is made of a few of them: n draws with
replacement from n sorted scores are floor(n U) of n uniform U, and U's order statistics follow Beta laws. That is the
bootstrap itself, not an approximation, at a cost that does not grow with n.

Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", 13; David & Nagaraja 2003, "Order Statistics", 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.domain.calibration import Rule, ThresholdInterval
from orchestrator.patchcore.calibration import NG_PERCENTILE, OVERLAP_FACTOR
from orchestrator.patchcore.conformal import rejects_allowed
from orchestrator.patchcore.cost import cost_threshold

RESAMPLES = 1000
SEED = 0
_FEWEST = 50
_MOST_DRAWS = 2_000_000

Floats = NDArray[np.float64]


def threshold_interval(
    ok: Sequence[float], ng: Sequence[float], rule: Rule, groups: Sequence[int] = ()
) -> ThresholdInterval:
    """Choose the threshold again for resampled images, and give the middle share `rule.confidence` of the results.

    ok, ng: finite; one OK score at least. OK and NG images are resampled apart. groups: aligned with ok, which scores
    are of near-duplicates, for the published rule: a group is drawn as a whole. Empty: every score stands alone. Where
    costs decide, and where there are groups, images are drawn one by one, fewer times for very many of them.

    Source of drawing groups whole: Davison & Hinkley 1997, "Bootstrap Methods and their Application", 3.8.
    """
    rng = np.random.default_rng(SEED)
    good, bad = np.sort(np.asarray(ok, np.float64)), np.sort(np.asarray(ng, np.float64))
    if rule.method == "percentile":
        percentile = rule.score_percentile
        own = _percentile(good, percentile, rng) if not groups else _of_groups(ok, groups, percentile, rng)
        thresholds = _published(own, bad, rng)
    elif rule.costs is None or bad.size == 0:
        allowed = rejects_allowed(good.size, rule.max_false_reject_rate, rule.confidence)
        thresholds = _order_statistic(good, good.size - max(allowed, 1) + 1, rng)
    else:
        draws = _draws(good.size + bad.size)
        thresholds = np.array([_by_cost(_drawn(good, rng), _drawn(bad, rng), rule) for _ in range(draws)])
    tail = (1 - rule.confidence) / 2
    low, high = np.quantile(thresholds, [tail, 1 - tail])
    return ThresholdInterval(float(low), float(high), rule.confidence, thresholds.size, SEED)


def _published(a: Floats, bad: Floats, rng: np.random.Generator) -> Floats:
    if bad.size == 0:
        return a
    b = _percentile(bad, NG_PERCENTILE, rng)[: a.size]
    return np.where(b > a, (a + b) / 2, OVERLAP_FACTOR * a)


def _percentile(values: Floats, percentile: float, rng: np.random.Generator) -> Floats:
    """Draw a percentile of RESAMPLES resamples of sorted values, with NumPy's linear interpolation."""
    n = values.size
    place = percentile / 100 * (n - 1)
    rank = int(place) + 1
    u = rng.beta(rank, n - rank + 1, RESAMPLES)
    lower = _at(values, u)
    if rank == n:
        return lower
    # Given U(j), the next one is the least of the n - j uniforms above it.
    upper = _at(values, u + (1 - u) * rng.beta(1, n - rank, RESAMPLES))
    mixed: Floats = lower + (place - int(place)) * (upper - lower)
    return mixed


def _of_groups(
    scores: Sequence[float], groups: Sequence[int], percentile: float, rng: np.random.Generator
) -> Floats:
    values = np.asarray(scores, np.float64)
    rising = np.argsort(values)
    _, group = np.unique(groups, return_inverse=True)
    values, group = values[rising], group[rising]
    count = int(group.max()) + 1
    drawn = []
    for _ in range(_draws(values.size)):
        times = np.bincount(rng.integers(0, count, count), minlength=count)
        drawn.append(np.percentile(np.repeat(values, times[group]), percentile))
    return np.array(drawn)


def _draws(images: int) -> int:
    return min(RESAMPLES, max(_FEWEST, _MOST_DRAWS // images))


def _order_statistic(values: Floats, rank: int, rng: np.random.Generator) -> Floats:
    return _at(values, rng.beta(rank, values.size - rank + 1, RESAMPLES))


def _at(values: Floats, u: Floats) -> Floats:
    drawn: Floats = values[np.minimum((u * values.size).astype(np.int64), values.size - 1)]
    return drawn


def _drawn(values: Floats, rng: np.random.Generator) -> Floats:
    drawn: Floats = values[rng.integers(0, values.size, values.size)]
    return drawn


def _by_cost(good: Floats, bad: Floats, rule: Rule) -> float:
    assert rule.costs is not None
    least = _least(good, rule)
    return cost_threshold(good.tolist(), bad.tolist(), rule.costs, least=least)


def _least(good: Floats, rule: Rule) -> float:
    # A resample repeats scores that are no ties of the line: the rank alone decides, as above.
    allowed = rejects_allowed(good.size, rule.max_false_reject_rate, rule.confidence)
    return float(np.sort(good)[good.size - max(allowed, 1)])
