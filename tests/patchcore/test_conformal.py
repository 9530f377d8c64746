from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import InvalidInput, NotEnoughSamples
from orchestrator.patchcore.calibration import false_reject_rate
from orchestrator.patchcore.conformal import conformal_threshold, ok_needed, p_value, rejects_allowed
from tests.reference import lowest_certified

# Few values, so that many are equal.
stepped = st.lists(st.integers(0, 40).map(lambda i: i / 40), min_size=1, max_size=120)
smooth = st.lists(st.floats(0, 2), min_size=1, max_size=120, unique=True)


@settings(deadline=None, max_examples=60)
@given(st.one_of(stepped, smooth), st.sampled_from([0.02, 0.05, 0.1, 0.3]), st.sampled_from([0.5, 0.9, 0.95]))
def test_the_threshold_is_the_lowest_score_that_keeps_the_rate_or_the_highest_of_all(
    ok: list[float], max_rate: float, confidence: float
) -> None:
    found = conformal_threshold(ok, max_rate, confidence)
    expected = lowest_certified(ok, max_rate, confidence)
    assert found.certifiable is (expected is not None)
    assert found.threshold == (max(ok) if expected is None else expected)
    bound = false_reject_rate(ok, found.threshold, confidence=confidence).upper_bound
    assert (bound <= max_rate) is found.certifiable


@pytest.mark.parametrize(
    ("max_rate", "needed"), [(0.1, 29), (0.05, 59), (0.01, 299), (0.001, 2995), (0.95, 1)]
)
def test_worked_sample_counts(max_rate: float, needed: int) -> None:
    assert ok_needed(max_rate, 0.95) == needed
    assert conformal_threshold(range(needed), max_rate, 0.95).certifiable
    if needed > 1:
        assert not conformal_threshold(range(needed - 1), max_rate, 0.95).certifiable


@settings(deadline=None, max_examples=60)
@given(st.floats(1e-6, 0.999), st.floats(0.001, 0.999999))
def test_no_fewer_samples_would_do(max_rate: float, confidence: float) -> None:
    n = ok_needed(max_rate, confidence)
    assert rejects_allowed(n, max_rate, confidence) >= 1
    assert n == 1 or rejects_allowed(n - 1, max_rate, confidence) == 0


def test_worked_thresholds() -> None:
    # The second highest of 93 keeps 5 %, of 92 it does not.
    assert conformal_threshold(range(93), 0.05, 0.95).threshold == 91
    assert conformal_threshold(range(92), 0.05, 0.95).threshold == 91
    assert (rejects_allowed(93, 0.05, 0.95), rejects_allowed(92, 0.05, 0.95)) == (2, 1)
    assert (rejects_allowed(10, 0.05, 0.95), rejects_allowed(300, 0.05, 0.95)) == (0, 9)


def test_a_tie_pushes_the_choice_up_and_a_tied_highest_score_certifies_less() -> None:
    ok = [float(i) for i in range(93)]
    assert conformal_threshold([*ok[:90], 91.0, 91.0, 92.0], 0.05, 0.95).threshold == 92
    assert not conformal_threshold([*ok[:57], 58.0, 58.0], 0.05, 0.95).certifiable


@pytest.mark.parametrize("n", [10, 30, 60, 100, 300])
def test_the_true_rate_is_within_the_bound_as_often_as_is_said(n: int) -> None:
    # With uniform scores the true false-reject rate of a threshold t is 1 - t.
    rng, kept, draws = np.random.default_rng(n), 0, 300
    for _ in range(draws):
        ok = rng.random(n).tolist()
        threshold = conformal_threshold(ok, 0.05, 0.95).threshold
        kept += 1 - threshold <= false_reject_rate(ok, threshold).upper_bound
    assert kept / draws >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / draws)


def test_the_promise_survives_scores_that_were_rounded() -> None:
    rng, kept, draws, n = np.random.default_rng(3), 0, 400, 100
    for _ in range(draws):
        ok = np.ceil(rng.random(n) * 50).tolist()
        found = conformal_threshold(ok, 0.1, 0.9)
        # P(ceil(50 U) >= t).
        kept += not found.certifiable or 1 - (found.threshold - 1) / 50 <= 0.1
    assert kept / draws >= 0.9 - 3 * math.sqrt(0.9 * 0.1 / draws)


def test_a_p_value_counts_the_ok_scores_that_are_as_high() -> None:
    ok = [0.1, 0.2, 0.2, 0.4]
    assert [p_value(s, ok) for s in (0.5, 0.4, 0.2, 0.0)] == [1 / 5, 2 / 5, 4 / 5, 1]
    assert p_value(0.5, []) is None


def test_good_parts_have_small_p_values_no_more_often_than_they_say() -> None:
    rng, draws = np.random.default_rng(0), 3000
    values = np.array([p_value(float(rng.random()), rng.random(19).tolist()) for _ in range(draws)])
    for level in (0.05, 0.1, 0.5):
        assert (values <= level).mean() == pytest.approx(level, abs=4 * math.sqrt(level / draws))


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1e-7, math.nan, math.inf])
def test_a_rate_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(InvalidInput, match="max_false_reject_rate"):
        conformal_threshold([1.0], value, 0.95)
    with pytest.raises(InvalidInput, match="max_false_reject_rate"):
        ok_needed(value, 0.95)


@pytest.mark.parametrize("value", [0.0, 1.0, math.nan])
def test_a_confidence_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(InvalidInput, match="confidence"):
        conformal_threshold([1.0], 0.05, value)


def test_without_a_finite_score_there_is_no_threshold() -> None:
    with pytest.raises(NotEnoughSamples, match="ok_scores"):
        conformal_threshold([math.nan], 0.05, 0.95)
