from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.martingale import STOP_AT, Martingale

p_values = st.lists(st.floats(0, 1), max_size=40)
# Exact for polynomials up to degree 9, and bets are of degree 8 at most.
NODES, WEIGHTS = np.polynomial.legendre.leggauss(5)


def after(bets: list[float], *, first: int = 61) -> Martingale:
    martingale = Martingale()
    for part, p_value in enumerate(bets, first):
        martingale.bet(p_value, part)
    return martingale


def expected(martingale: Martingale, part: int) -> float:
    """Integrate the capital after the next bet over a uniform p-value."""
    total = 0.0
    for node, weight in zip(NODES, WEIGHTS, strict=True):
        copied = copy.deepcopy(martingale)
        copied.bet(float(node + 1) / 2, part)
        total += float(weight) / 2 * copied.capital
    return total


@given(p_values)
def test_no_bet_has_an_expected_gain_whatever_came_before(past: list[float]) -> None:
    martingale = after(past)
    assert expected(martingale, 61 + len(past)) == pytest.approx(martingale.capital, rel=1e-12)


@given(p_values)
def test_capital_is_what_waits_and_what_is_staked_and_never_runs_out(past: list[float]) -> None:
    martingale = after(past)
    assert martingale.capital == pytest.approx(
        martingale.waiting + sum(martingale.rising) + sum(martingale.falling)
    )
    assert martingale.waiting > 0


def test_what_waits_shrinks_so_slowly_that_late_changes_are_found() -> None:
    waiting = after([0.5] * 100_000).waiting
    assert waiting == pytest.approx((60 / 100_060) ** 0.5, rel=0.01)


def test_it_stops_before_a_double_overflows_and_holds() -> None:
    martingale = after([0.0] * 5000)
    assert STOP_AT <= martingale.capital < float("inf")
    before = martingale.capital
    martingale.bet(0.9, 6000)
    assert martingale.capital == before


@pytest.mark.parametrize(("p_value", "direction"), [(0.05, "rising"), (0.95, "falling")])
def test_it_tells_where_the_scores_went(p_value: float, direction: str) -> None:
    assert after([p_value] * 30).direction == direction


def test_over_uniform_p_values_it_reaches_ten_in_a_tenth_of_the_cases_at_most() -> None:
    noise = np.random.default_rng(5)
    reached = 0
    for _ in range(300):
        martingale, most = Martingale(), 0.0
        for part, p_value in enumerate(noise.random(400).tolist(), 61):
            martingale.bet(p_value, part)
            most = max(most, martingale.capital)
        reached += most >= 10
    assert reached / 300 <= 0.1 + 3 * (0.1 * 0.9 / 300) ** 0.5
