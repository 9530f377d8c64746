"""Thresholds by what wrong verdicts cost, and how surely bad parts are caught; knows scores only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from orchestrator.domain.calibration import Costs, Recall
from orchestrator.errors import InvalidInput


def check_costs(costs: Costs) -> Costs:
    """Return costs unchanged.

    Raises InvalidInput where the prevalence is not in (0, 1) or a cost is negative, infinite or no number.
    """
    if not 0 < costs.ng_prevalence < 1:
        raise InvalidInput(
            f"ng_prevalence: {costs.ng_prevalence!r} is out of range; give the share of bad parts on the line, "
            "between 0 and 1, such as 0.01"
        )
    for name, value in (
        ("cost_escape", costs.cost_escape),
        ("cost_false_reject", costs.cost_false_reject),
    ):
        if not (math.isfinite(value) and 0 <= value <= 1e12):
            raise InvalidInput(f"{name}: {value!r} is out of range; give a cost from 0 to 1e12, such as 100")
    return costs


def cost_threshold(ok: Sequence[float], ng: Sequence[float], costs: Costs, *, least: float) -> float:
    """Choose the threshold t >= least of the lowest expected cost of one part.

    The cost is prevalence * cost_escape * (share of NG below t) + (1 - prevalence) * cost_false_reject * (share of OK
    at or above t). It only changes at scores, so the candidates are `least`, the midpoints between neighbouring
    scores above it, which leave room on both sides, and just above the highest. Of equal ones the lowest wins.
    ok, ng: finite, one each at least. least: the conformal threshold, so that whatever these very scores make of the
    costs, the cap on false rejects stays kept: the true rate falls as t rises.
    """
    good, bad = np.sort(np.asarray(ok, dtype=np.float64)), np.sort(np.asarray(ng, dtype=np.float64))
    steps = np.unique(np.concatenate([[least], good[good > least], bad[bad > least]]))
    above = np.nextafter(steps[-1], np.inf)
    candidates = np.concatenate([[least], steps[:-1] + np.diff(steps) / 2, [above]])
    escapes = np.searchsorted(bad, candidates, side="left") / bad.size
    rejects = 1 - np.searchsorted(good, candidates, side="left") / good.size
    prevalence = costs.ng_prevalence
    expected = prevalence * costs.cost_escape * escapes + (1 - prevalence) * costs.cost_false_reject * rejects
    # Equal but for rounding is equal.
    return float(candidates[np.flatnonzero(expected <= expected.min() * (1 + 1e-12))[0]])


def recall_interval(ng: Sequence[float], threshold: float, confidence: float) -> Recall | None:
    """Count the NG scores that the threshold catches, with the two-sided interval of the line's recall.

    None without NG scores. ng: finite. It is exact for a threshold that was not chosen by these NG scores; one that
    was (by costs, or by the published rule) makes it somewhat rosy.

    Source: Clopper & Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the binomial".
    """
    n = len(ng)
    if n == 0:
        return None
    caught = int(np.count_nonzero(np.asarray(ng) >= threshold))
    tail = (1 - confidence) / 2
    lower = float(special.betaincinv(caught, n - caught + 1, tail)) if caught else 0.0
    upper = float(special.betaincinv(caught + 1, n - caught, 1 - tail)) if caught < n else 1.0
    return Recall(caught, n, lower, upper, confidence)
