"""Thresholds that keep the false-reject rate with a confidence, and p-values; knows scores only.

The guarantee holds over the draw of the calibration images: in a share `confidence` of all calibrations made so,
the line's true false-reject rate is at most the promised one. It asks that OK images are exchangeable and that none
was scored by a bank that holds it.

Source: the inspection contract, A4; Vovk 2012, "Conditional validity of inductive conformal predictors"; Bates et
al. 2023, "Testing for outliers with conformal p-values".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from orchestrator.errors import InvalidInput, NotEnoughSamples
from orchestrator.patchcore.calibration import finite_scores

LEAST_RATE = 1e-6
"""Below this no line has the parts to certify it: 3 million OK images."""


@dataclass(frozen=True, slots=True)
class Conformal:
    """A threshold and whether it keeps the rate; where nothing does, it is the highest OK score."""

    threshold: float
    certifiable: bool


def check_rate(value: float) -> float:
    """Return a highest false-reject rate unchanged.

    Raises InvalidInput where it is not in [1e-6, 1).
    """
    if not LEAST_RATE <= value < 1:
        raise InvalidInput(
            f"max_false_reject_rate: {value!r} is out of range; give a share from {LEAST_RATE:g} to below 1, "
            "such as 0.05"
        )
    return value


def check_confidence(value: float) -> float:
    """Return a confidence unchanged.

    Raises InvalidInput where it is not in (0, 1).
    """
    if not 0 < value < 1:
        raise InvalidInput(
            f"confidence: {value!r} is out of range; give a number between 0 and 1, such as 0.95"
        )
    return value


def conformal_threshold(ok: Sequence[float], max_rate: float, confidence: float) -> Conformal:
    """Choose the lowest OK score whose false-reject rate is at most max_rate with the confidence.

    Of n scores the one with a of them at or above it has a rate that follows Beta(a, n - a + 1): the largest a whose
    quantile at `confidence` is at most max_rate is `rejects_allowed`, known before any score is. Equal scores
    count together, so a tie may push the choice to the next higher one.
    Any threshold above the chosen one keeps the promise too, however it was found: the true rate falls with it.

    Raises NotEnoughSamples where no score is finite, InvalidInput where a value is out of range.
    """
    good = np.sort(finite_scores("ok_scores", ok))
    n = good.size
    if n == 0:
        raise NotEnoughSamples("ok_scores: no finite score; give at least 1 OK score")
    allowed = rejects_allowed(n, max_rate, confidence)
    if allowed:
        at = n - allowed
        for value in (good[at], *good[np.searchsorted(good, good[at], side="right") :][:1]):
            low = np.searchsorted(good, value, side="left")
            if n - low <= allowed:
                return Conformal(float(value), certifiable=True)
    return Conformal(float(good[-1]), certifiable=False)


def rejects_allowed(n: int, max_rate: float, confidence: float) -> int:
    """Give how many of n OK scores may lie at or above a threshold that is one of them; 0 where none may.

    Raises InvalidInput where a value is out of range.
    """
    check_rate(max_rate)
    check_confidence(confidence)
    low, high = 0, n
    while low < high:
        middle = (low + high + 1) // 2
        if special.betaincinv(middle, n - middle + 1, confidence) <= max_rate:
            low = middle
        else:
            high = middle - 1
    return low


def ok_needed(max_rate: float, confidence: float) -> int:
    """Give the fewest OK scores whose highest keeps the rate: the least n with 1 - (1 - confidence)^(1/n) <= max_rate.

    Raises InvalidInput where a value is out of range.
    """
    check_rate(max_rate)
    check_confidence(confidence)
    n = max(1, math.ceil(math.log1p(-confidence) / math.log1p(-max_rate)))
    # The quotient's rounding must not contradict the bound that is reported.
    while n > 1 and special.betaincinv(1, n - 1, confidence) <= max_rate:
        n -= 1
    while special.betaincinv(1, n, confidence) > max_rate:
        n += 1
    return n


def p_value(score: float, ok: Sequence[float]) -> float | None:
    """Give the chance that a good part scores this high: (1 + #{ok >= score}) / (n + 1); None without OK scores.

    For a good part that is exchangeable with the OK ones, Pr(p <= a) <= a for every a. ok: finite.
    """
    if not ok:
        return None
    return (1 + int(np.count_nonzero(np.asarray(ok) >= score))) / (len(ok) + 1)
