from __future__ import annotations

import numpy as np
import pytest

from orchestrator.domain.calibration import Costs, Rule
from orchestrator.patchcore.bootstrap import threshold_interval
from orchestrator.patchcore.calibration import choose_threshold
from orchestrator.patchcore.conformal import rejects_allowed

RNG = np.random.default_rng(5)
OK, NG = RNG.normal(0.3, 0.05, 120).tolist(), RNG.normal(0.45, 0.05, 30).tolist()


@pytest.mark.parametrize("ng", [[], NG])
@pytest.mark.parametrize("percentile", [90.0, 100.0])
def test_the_published_rule_moves_as_it_does_when_images_are_drawn_one_by_one(
    percentile: float, ng: list[float]
) -> None:
    rng, drawn = np.random.default_rng(1), []
    for _ in range(1000):
        again = rng.choice(OK, len(OK)).tolist(), rng.choice(ng, len(ng)).tolist() if ng else []
        drawn.append(choose_threshold(*again, percentile))
    interval = threshold_interval(OK, ng, Rule(score_percentile=percentile, confidence=0.8))
    low, high = np.quantile(drawn, [0.1, 0.9])
    # In the spread of the scores; a quantile of 1,000 draws is itself drawn.
    assert (interval.low, interval.high) == (pytest.approx(low, abs=0.006), pytest.approx(high, abs=0.006))


def test_the_conformal_rule_moves_as_its_order_statistic_does() -> None:
    rng, rule = np.random.default_rng(2), Rule("conformal", max_false_reject_rate=0.2, confidence=0.8)
    allowed = rejects_allowed(len(OK), 0.2, 0.8)
    drawn = np.sort(rng.choice(OK, (2000, len(OK))), axis=1)[:, -allowed]
    interval = threshold_interval(OK, NG, rule)
    low, high = np.quantile(drawn, [0.1, 0.9])
    assert (interval.low, interval.high) == (pytest.approx(low, abs=0.004), pytest.approx(high, abs=0.004))


def test_costs_are_weighed_anew_in_every_resample() -> None:
    rule = Rule("conformal", max_false_reject_rate=0.1, confidence=0.9, costs=Costs(0.5, 1, 1))
    interval = threshold_interval(OK, NG, rule)
    assert 0.3 < interval.low < interval.high < 0.45
    assert interval == threshold_interval(OK, NG, rule)
    assert (interval.resamples, interval.confidence) == (1000, 0.9)


@pytest.mark.parametrize("ng", [[], NG])
def test_near_duplicates_are_drawn_together(ng: list[float]) -> None:
    rng, groups = np.random.default_rng(3), (np.arange(120) // 6).tolist()
    # Six frames of every part, all alike: as uncertain as twenty photographs.
    parts = np.random.default_rng(4).normal(0.3, 0.05, 20)
    frames, drawn = np.repeat(parts, 6).tolist(), []
    for _ in range(1000):
        again = np.repeat(rng.choice(parts, 20), 6).tolist(), rng.choice(ng, len(ng)).tolist() if ng else []
        drawn.append(choose_threshold(*again, 90))
    rule = Rule(score_percentile=90, confidence=0.8)
    interval = threshold_interval(frames, ng, rule, groups)
    low, high = np.quantile(drawn, [0.1, 0.9])
    assert (interval.low, interval.high) == (pytest.approx(low, abs=0.006), pytest.approx(high, abs=0.006))
    alone = threshold_interval(frames, ng, rule)
    assert interval.high - interval.low > 1.3 * (alone.high - alone.low)


def test_very_many_near_duplicates_take_fewer_resamples_not_longer() -> None:
    many = np.random.default_rng(0).random(60_000).tolist()
    interval = threshold_interval(many, [0.5, 0.6], Rule(), (np.arange(60_000) // 2).tolist())
    assert interval.resamples == 50


def test_one_score_has_an_interval_of_no_width() -> None:
    for method in ("percentile", "conformal"):
        interval = threshold_interval([0.5], [], Rule(method))  # type: ignore[arg-type]
        assert (interval.low, interval.high) == (0.5, 0.5)


def test_very_many_scores_take_fewer_resamples_not_longer() -> None:
    many = np.random.default_rng(0).random(60_000).tolist()
    assert threshold_interval(many, [0.5], Rule("conformal", costs=Costs())).resamples == 50
    assert threshold_interval(many, [0.5], Rule("conformal")).resamples == 1000
