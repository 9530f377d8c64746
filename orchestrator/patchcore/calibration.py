"""From image scores to a threshold, and what false-reject rate it can promise; knows scores only.

Source: the inspection contract, A4 and B3.7. The false-reject law is that of an order statistic of
exchangeable scores (Vovk 2012, "Conditional validity of inductive conformal predictors").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from orchestrator.domain.arrays import IndexArray
from orchestrator.domain.calibration import FalseReject
from orchestrator.errors import InvalidInput, NotEnoughSamples

NG_PERCENTILE = 5
OVERLAP_FACTOR = 1.02


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """A threshold and what it was chosen from.

    percentile_ok: of the OK scores at the requested percentile (the wire's `p99_ok`). p5_ng: None without NG
    scores, where ng_mean is 0.0. samples_ok, samples_ng: the finite scores counted.
    """

    threshold: float
    ok_mean: float
    ng_mean: float
    percentile_ok: float
    p5_ng: float | None
    samples_ok: int
    samples_ng: int


def normalise_percentile(value: float) -> float:
    """Read a score percentile: above 1 it is in percent, in (0, 1] a fraction of 1. Returns (0, 100].

    Raises InvalidInput where it is not a number in (0, 100].
    """
    # A comparison rather than float(): an integer may be too large to convert.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 100:
        raise InvalidInput("score_percentile: is out of range; give a percentage in (0, 100], such as 99")
    # 0.57 * 100 is 56.99999999999999.
    return float(f"{value * 100:.12g}") if value <= 1 else float(value)


def choose_threshold(ok: Sequence[float], ng: Sequence[float], percentile: float) -> float:
    """Choose the threshold by the published rule.

    a is the percentile (0 to 100) of the OK scores; without NG scores it is the threshold. b is the 5th
    percentile of the NG scores: the threshold is halfway between a and b where b > a, else 1.02 a.

    Raises NotEnoughSamples where no OK score is finite, InvalidInput where a score is no usable number.
    """
    return summarise(ok, ng, percentile).threshold


def summarise(ok: Sequence[float], ng: Sequence[float], percentile: float) -> ScoreSummary:
    """Choose the threshold as `choose_threshold` does, and give the figures beside it.

    Scores that are not finite are dropped. Raises as `choose_threshold` does.
    """
    good, bad = finite_scores("ok_scores", ok), finite_scores("ng_scores", ng)
    if good.size == 0:
        raise NotEnoughSamples("ok_scores: no finite score; give at least 1 OK score")
    with np.errstate(over="ignore", invalid="ignore"):
        a = float(np.percentile(good, percentile))
        b = float(np.percentile(bad, NG_PERCENTILE)) if bad.size else None
        threshold = a if b is None else _between(a, b)
        ng_mean = float(bad.mean()) if bad.size else 0.0
        summary = ScoreSummary(threshold, float(good.mean()), ng_mean, a, b, good.size, bad.size)
    if not all(math.isfinite(v) for v in (threshold, summary.ok_mean, ng_mean, a, b or 0.0)):
        raise InvalidInput("ok_scores, ng_scores: too large to average; give scores as /infer returns them")
    return summary


def false_reject_rate(ok: Sequence[float], threshold: float, *, confidence: float = 0.95) -> FalseReject:
    """Say what share of good parts will score at or above the threshold.

    With m of n OK scores at or above it, the rate follows Beta(m, n - m + 1) where the threshold is itself
    one of them, else Beta(m + 1, n - m). Scores of images that are in the bank void this; so may scores that lie
    on steps, where many are equal.

    Raises NotEnoughSamples where no OK score is finite, InvalidInput where confidence is not in (0, 1).
    """
    good = finite_scores("ok_scores", ok)
    n = good.size
    if n == 0:
        raise NotEnoughSamples("ok_scores: no finite score; give at least 1 OK score")
    if not 0 < confidence < 1:
        raise InvalidInput(
            f"confidence: {confidence!r} is out of range; give a number between 0 and 1, such as 0.95"
        )
    at_or_above = int(np.count_nonzero(good >= threshold))
    own = bool(np.any(good == threshold))
    alpha, beta = (at_or_above, n - at_or_above + 1) if own else (at_or_above + 1, n - at_or_above)
    if beta == 0:
        # A threshold below every OK score: all the mass is at 1.
        return FalseReject(1.0, 1.0, confidence, n)
    upper = float(special.betaincinv(alpha, beta, confidence))
    return FalseReject(alpha / (alpha + beta), upper, confidence, n)


def fold_of(n: int, k: int, *, seed: int) -> IndexArray:
    """Give each of n samples one of k folds, at random, sizes differing by at most one: (n,) int64 in 0..k-1.

    Raises InvalidInput unless 1 <= k <= n.
    """
    if not 1 <= k <= n:
        raise InvalidInput(f"folds: {k} folds of {n} samples are not possible; give 1 <= folds <= samples")
    return np.random.default_rng(seed).permutation(np.arange(n, dtype=np.int64) % k)


def _between(a: float, b: float) -> float:
    return (a + b) / 2 if b > a else OVERLAP_FACTOR * a


def finite_scores(name: str, scores: Sequence[float]) -> NDArray[np.float64]:
    """Give the finite ones, in order: (n,) float64.

    Raises InvalidInput where they are no list of numbers.
    """
    try:
        values = np.asarray(scores, dtype=np.float64).reshape(-1)
    except (OverflowError, TypeError, ValueError) as error:
        raise InvalidInput(f"{name}: must be a list of numbers") from error
    return values[np.isfinite(values)]
