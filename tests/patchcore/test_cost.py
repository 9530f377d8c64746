from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from orchestrator.domain.calibration import Costs
from orchestrator.errors import InvalidInput
from orchestrator.patchcore.cost import check_costs, cost_threshold, recall_interval
from tests.reference import expected_cost

scores = st.lists(st.integers(0, 60).map(lambda i: i / 30), min_size=1, max_size=25)


@settings(deadline=None, max_examples=60)
@given(
    scores, scores, st.floats(0.001, 0.9), st.sampled_from([0.0, 1.0, 30.0]), st.sampled_from([0.0, 1.0, 5.0])
)
def test_no_threshold_from_the_cap_upwards_costs_less(
    ok: list[float], ng: list[float], prevalence: float, escape: float, reject: float
) -> None:
    least = sorted(ok)[len(ok) // 2]
    chosen = cost_threshold(ok, ng, Costs(prevalence, escape, reject), least=least)
    assert chosen >= least
    cost = expected_cost(ok, ng, chosen, prevalence, escape, reject)
    tried = [t for t in (i / 120 for i in range(260)) if t >= least]
    assert cost <= min(expected_cost(ok, ng, t, prevalence, escape, reject) for t in tried) + 1e-9


def test_a_gap_is_split_in_the_middle() -> None:
    assert cost_threshold([0.1, 0.2, 0.3], [0.7, 0.9], Costs(), least=0.2) == pytest.approx(0.5)


def test_where_escapes_alone_count_the_cap_is_the_threshold() -> None:
    assert cost_threshold([0.1, 0.2, 0.3], [0.15, 0.9], Costs(0.5, 1, 0), least=0.2) == 0.2


def test_where_false_rejects_alone_count_nothing_is_rejected() -> None:
    assert cost_threshold([0.1, 0.3], [0.2], Costs(0.5, 0, 1), least=0.1) > 0.3 - 1e-9
    assert cost_threshold([0.1, 0.3], [0.4], Costs(0.5, 0, 1), least=0.1) < 0.4


@settings(deadline=None, max_examples=60)
@given(scores, st.floats(0, 2), st.sampled_from([0.8, 0.95, 0.999]))
def test_recall_has_the_interval_of_clopper_and_pearson(ng: list[float], t: float, confidence: float) -> None:
    recall = recall_interval(ng, t, confidence)
    assert recall is not None
    caught = sum(s >= t for s in ng)
    exact = stats.binomtest(caught, len(ng)).proportion_ci(confidence, method="exact")
    assert (recall.caught, recall.n_ng, recall.confidence) == (caught, len(ng), confidence)
    assert (recall.lower, recall.upper) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_ten_of_ten_caught_proves_no_certainty() -> None:
    recall = recall_interval([1.0] * 10, 0.5, 0.9)
    assert recall is not None
    assert (recall.lower, recall.upper) == (pytest.approx(0.05**0.1), 1.0)
    assert recall_interval([], 0.5, 0.9) is None


@pytest.mark.parametrize(
    ("costs", "field"),
    [
        (Costs(ng_prevalence=0.0), "ng_prevalence"),
        (Costs(ng_prevalence=1.0), "ng_prevalence"),
        (Costs(ng_prevalence=math.nan), "ng_prevalence"),
        (Costs(cost_escape=-1), "cost_escape"),
        (Costs(cost_escape=math.inf), "cost_escape"),
        (Costs(cost_false_reject=math.nan), "cost_false_reject"),
    ],
)
def test_costs_out_of_range_are_refused(costs: Costs, field: str) -> None:
    assert check_costs(Costs()) == Costs()
    with pytest.raises(InvalidInput, match=field):
        check_costs(costs)
