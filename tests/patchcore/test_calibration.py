from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.calibration import FalseReject
from orchestrator.errors import InvalidInput, NotEnoughSamples
from orchestrator.patchcore.calibration import (
    choose_threshold,
    false_reject_rate,
    fold_of,
    normalise_percentile,
    summarise,
)
from tests.reference import percentile as naive_percentile

scores = st.lists(st.floats(0, 2), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (99, 99),
        (99.5, 99.5),
        (100, 100),
        (1.01, 1.01),
        (0.995, 99.5),
        (1, 100),
        (1.0, 100),
        (0.57, 57),
        (0.07, 7),
    ],
)
def test_a_percentile_up_to_one_is_a_fraction(value: float, expected: float) -> None:
    assert normalise_percentile(value) == expected


def test_the_smallest_fraction_stays_above_zero() -> None:
    assert 0 < normalise_percentile(1e-15) < 1e-12


@pytest.mark.parametrize(
    "value", [0, -1, 100.01, math.nan, math.inf, -math.inf, True, 10**400, -(10**400), "99", None]
)
def test_a_percentile_out_of_range_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match="score_percentile"):
        normalise_percentile(value)


@pytest.mark.parametrize(
    ("ok", "ng", "threshold"),
    [
        ([10, 11, 13], [22], 17.48),
        ([0.21, 0.25, 0.19], [0.74, 0.82], 0.4966),
        ([0.01, 0.02, 0.015], [0.35, 0.40], 0.1862),
        ([1, 2, 3], [1, 2, 3], 3.0396),
    ],
)
def test_published_worked_thresholds(ok: list[float], ng: list[float], threshold: float) -> None:
    assert choose_threshold(ok, ng, 99) == pytest.approx(threshold, abs=5e-5)


def test_published_worked_percentiles() -> None:
    summary = summarise([10, 11, 13], [22], 99)
    assert summary.percentile_ok == pytest.approx(12.96)
    assert summary.p5_ng == 22
    assert summary.ok_mean == pytest.approx(34 / 3)
    assert summary.ng_mean == 22
    assert (summary.samples_ok, summary.samples_ng) == (3, 1)


@settings(deadline=None, max_examples=60)
@given(scores, st.lists(st.floats(0, 2), max_size=30), st.floats(0.01, 100))
def test_the_threshold_follows_the_published_rule(ok: list[float], ng: list[float], percent: float) -> None:
    a = naive_percentile(ok, percent)
    expected = a
    if ng:
        b = naive_percentile(ng, 5)
        expected = (a + b) / 2 if b > a else 1.02 * a
        if math.isclose(a, b, rel_tol=1e-12):
            return
    assert choose_threshold(ok, ng, percent) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_without_ng_scores_the_threshold_is_the_percentile_and_the_mean_is_zero() -> None:
    summary = summarise([1.0, 2.0], [], 50)
    assert (summary.threshold, summary.ng_mean, summary.p5_ng, summary.samples_ng) == (1.5, 0.0, None, 0)


def test_scores_that_are_not_finite_are_dropped() -> None:
    summary = summarise([1.0, math.nan, math.inf, 3.0], [math.nan, -math.inf], 100)
    assert (summary.threshold, summary.samples_ok, summary.samples_ng, summary.p5_ng) == (3.0, 2, 0, None)


@pytest.mark.parametrize("ok", [[], [math.nan], [math.inf, -math.inf]])
def test_a_calibration_needs_one_finite_ok_score(ok: list[float]) -> None:
    with pytest.raises(NotEnoughSamples, match="ok_scores"):
        choose_threshold(ok, [1.0], 99)
    with pytest.raises(NotEnoughSamples, match="ok_scores"):
        false_reject_rate(ok, 0.5)


@pytest.mark.parametrize("ok", [[1e308, 1e308], [10**400], ["x"], [[1.0], [1.0, 2.0]]])
def test_scores_without_a_finite_threshold_are_refused(ok: Any) -> None:
    with pytest.raises(InvalidInput, match="ok_scores"):
        choose_threshold(ok, [], 99)


@pytest.mark.parametrize(
    ("n", "expected", "upper"),
    [(10, 0.091, 0.259), (30, 0.032, 0.095), (59, 1 / 60, 0.05), (100, 0.010, 0.030), (300, 0.0033, 0.010)],
)
def test_worked_false_reject_rates_at_the_maximum(n: int, expected: float, upper: float) -> None:
    rate = false_reject_rate(list(range(n)), n - 1)
    assert rate.expected == pytest.approx(expected, abs=6e-4)
    assert rate.upper_bound == pytest.approx(upper, abs=8e-4)
    assert rate.upper_bound == pytest.approx(1 - 0.05 ** (1 / n))
    assert (rate.confidence, rate.n_ok) == (0.95, n)


def test_59_ok_scores_are_the_fewest_that_certify_five_percent() -> None:
    assert false_reject_rate(list(range(59)), 58).upper_bound <= 0.05
    assert false_reject_rate(list(range(58)), 57).upper_bound > 0.05


def test_a_threshold_above_every_score_has_the_law_of_the_maximum() -> None:
    ok = [1.0, 2.0, 3.0]
    assert false_reject_rate(ok, 3.5) == false_reject_rate(ok, 3.0)


def test_a_threshold_between_two_scores_counts_one_more() -> None:
    ok = [1.0, 2.0, 3.0, 4.0]
    assert false_reject_rate(ok, 2.5).expected == pytest.approx(3 / 5)
    assert false_reject_rate(ok, 3.0).expected == pytest.approx(2 / 5)


def test_a_threshold_below_every_score_rejects_everything() -> None:
    assert false_reject_rate([1.0, 2.0], 0.5) == FalseReject(1.0, 1.0, 0.95, 2)
    assert false_reject_rate([1.0, 2.0], 1.0).expected == pytest.approx(2 / 3)


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1, math.nan])
def test_a_confidence_out_of_range_is_refused(confidence: float) -> None:
    with pytest.raises(InvalidInput, match="confidence"):
        false_reject_rate([1.0], 1.0, confidence=confidence)


@pytest.mark.parametrize("rank", [1, 3])
def test_the_law_holds_in_simulation(rank: int) -> None:
    # With uniform scores the true false-reject rate of a threshold t is 1 - t.
    n, draws = 20, 4000
    ok = np.sort(np.random.default_rng(rank).random((draws, n)), axis=1)
    thresholds = ok[:, -rank]
    rate = false_reject_rate(list(ok[0]), float(thresholds[0]), confidence=0.9)
    true = 1 - thresholds
    assert true.mean() == pytest.approx(rate.expected, abs=0.005)
    assert (true <= rate.upper_bound).mean() == pytest.approx(0.9, abs=0.015)


@settings(deadline=None, max_examples=60)
@given(scores, st.floats(-1, 3), st.floats(0.5, 0.999))
def test_the_bound_lies_above_the_mean_and_both_are_shares(
    ok: list[float], t: float, confidence: float
) -> None:
    rate = false_reject_rate(ok, t, confidence=confidence)
    assert 0 < rate.expected <= 1
    assert 0 <= rate.upper_bound <= 1
    higher = false_reject_rate(ok, t, confidence=min(0.9999, confidence + 0.0005))
    assert higher.upper_bound >= rate.upper_bound


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.data())
def test_folds_are_balanced(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    folds = fold_of(n, k, seed=0)
    sizes = np.bincount(folds, minlength=k)
    assert folds.dtype == np.int64
    assert len(sizes) == k
    assert sizes.max() - sizes.min() <= 1
    assert sizes.sum() == n


def test_folds_are_drawn_by_the_seed() -> None:
    assert fold_of(50, 5, seed=1).tolist() == fold_of(50, 5, seed=1).tolist()
    assert fold_of(50, 5, seed=1).tolist() != fold_of(50, 5, seed=2).tolist()
    assert fold_of(50, 5, seed=1).tolist() != sorted(fold_of(50, 5, seed=1).tolist())


@pytest.mark.parametrize(("n", "k"), [(0, 1), (3, 4), (3, 0), (0, 0)])
def test_impossible_folds_are_refused(n: int, k: int) -> None:
    with pytest.raises(InvalidInput, match="folds"):
        fold_of(n, k, seed=0)
