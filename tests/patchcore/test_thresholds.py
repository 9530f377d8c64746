from __future__ import annotations

import pytest
from scipy import special

from orchestrator.domain.calibration import Costs, FalseReject, Rule, independent
from orchestrator.patchcore.calibration import false_reject_rate, summarise
from orchestrator.patchcore.thresholds import certificate, choose, is_certifiable

OK = [i / 100 for i in range(100)]
NG = [1.5, 2.0]


def test_the_percentile_method_stays_the_published_rule() -> None:
    choice = choose(OK, NG, Rule())
    assert choice.summary == summarise(OK, NG, 99.0)
    assert choice.recall is not None
    assert choice.recall.caught == 2


def test_without_costs_the_cap_alone_decides_whatever_the_ng_scores() -> None:
    assert choose(OK, NG, Rule("conformal")).summary.threshold == 0.98
    assert choose(OK, [], Rule("conformal")).summary.threshold == 0.98
    assert choose(OK, [], Rule("conformal", costs=Costs())).summary.threshold == 0.98


def test_with_costs_the_threshold_uses_the_room_above_the_cap() -> None:
    choice = choose(OK, NG, Rule("conformal", costs=Costs()))
    assert choice.summary.threshold == pytest.approx((0.99 + 1.5) / 2)
    assert choice.false_reject.upper_bound <= 0.05


def test_costs_never_lift_the_cap() -> None:
    for escape in (0.0, 1.0, 1e9):
        choice = choose(OK, [0.2, 0.5, 0.97, 1.5], Rule("conformal", costs=Costs(0.5, escape, 1)))
        assert choice.summary.threshold >= 0.98


def test_the_false_reject_rate_follows_the_law_at_the_threshold_whatever_chose_it() -> None:
    for rule, ng in (
        (Rule("conformal", costs=Costs()), NG),
        (Rule(), NG),
        (Rule(), []),
        (Rule(score_percentile=80), NG),
    ):
        choice = choose(OK, ng, rule)
        assert choice.false_reject == false_reject_rate(OK, choice.summary.threshold)
    tied = [0.1, 0.2, 0.3, 0.3, 0.3]
    upper = false_reject_rate(tied, 0.3).upper_bound
    assert upper == pytest.approx(float(special.betaincinv(3, 3, 0.95)))


def test_near_duplicates_are_drawn_together_for_the_interval() -> None:
    groups = [i // 5 for i in range(100)]
    for rule in (Rule(score_percentile=80), Rule("conformal", max_false_reject_rate=0.3)):
        wide, narrow = choose(OK, [], rule, groups).interval, choose(OK, [], rule).interval
        assert wide.high - wide.low > narrow.high - narrow.low


def test_near_duplicates_count_once_with_their_highest() -> None:
    assert independent((0.1, 0.4, 0.2, 0.3), (0, 1, 0, 2)) == (0.2, 0.4, 0.3)
    groups = [i // 2 for i in range(100)]
    choice = choose(OK, [], Rule("conformal"), groups)
    assert choice.false_reject.n_ok == 50
    assert not is_certifiable(choice.false_reject, 0.05)
    assert choose(OK, [], Rule(), groups).summary == summarise(OK, [], 99.0)


def test_a_certificate_says_what_holds_or_what_would_do() -> None:
    twelve = choose(OK[:12], [], Rule("conformal")).false_reject
    assert "not certifiable with 12 OK samples; 59 would do" in certificate(twelve, 0.05, "conformal")
    hundred = choose(OK, [], Rule("conformal")).false_reject
    assert certificate(hundred, 0.05, "conformal") == "false rejects <= 5 % with 95 % confidence (n = 100 OK)"
    low = choose(OK, [], Rule(score_percentile=80)).false_reject
    assert "method=conformal finds one that keeps 5 %" in certificate(low, 0.05, "percentile")
    tied = choose([*OK[:98], 0.99, 0.99, 0.99], [], Rule("conformal")).false_reject
    assert "equal" in certificate(tied, 0.03, "conformal")
    assert "with 0 OK samples" in certificate(FalseReject(1.0, 1.0, 0.95, 0), 0.05, "percentile")
