from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.drift import REFERENCE, DriftTrack, Rules, Stream, TieBreaker, countable
from orchestrator.domain.identity import Target
from tests import outsider

STREAM = Stream(Target.of("default", "Top", "größe", "key"), 3, "2026-01-01T00:00:00.000Z")
NAMES = "default/Top/größe/key/3/1"
# Few values, so that ties are the rule.
tied = st.lists(st.integers(0, 6).map(float), max_size=150)


def track(scores: list[float], *, alpha: float = 0.01, seed: int = 0) -> DriftTrack:
    made = DriftTrack(STREAM, 1, Rules(alpha, seed))
    made.extend(scores)
    return made


def normal(count: int, *, seed: int, shift: float = 0.0) -> list[float]:
    values: list[float] = (np.random.default_rng(seed).normal(size=count) + shift).tolist()
    return values


@settings(deadline=None)
@given(tied | st.lists(st.floats(0, 2), max_size=150), st.integers(0, 9))
def test_an_outsider_who_replays_the_scores_gets_the_same_bits(scores: list[float], seed: int) -> None:
    ours, theirs = (
        track(scores, alpha=0.3, seed=seed),
        outsider.replay(scores, names=NAMES, seed=seed, alpha=0.3),
    )
    points = ours.tail(len(scores))
    assert [p.p_value for p in points] == theirs["p_values"]
    assert [p.log10_martingale for p in points] == theirs["curve"]
    state = ours.state()
    assert (state.parts, state.alarm_at, state.direction) == (
        theirs["parts"],
        theirs["alarm_at"],
        theirs["direction"],
    )
    assert (state.log10_martingale, state.log10_max) == (theirs["log10_martingale"], theirs["log10_max"])


@given(tied, st.integers(0, 150))
def test_replay_in_pieces_gives_the_same_state(scores: list[float], cut: int) -> None:
    pieces = track(scores[:cut])
    for score in scores[cut:]:
        pieces.add(score)
    whole = track(scores)
    assert pieces.state() == whole.state()
    assert pieces.tail(200) == whole.tail(200)


def test_an_outsider_agrees_over_a_thousand_parts_with_an_alarm() -> None:
    scores = normal(600, seed=1) + normal(400, seed=2, shift=1.0)
    theirs = outsider.replay(scores, names=NAMES)
    state = track(scores).state()
    assert state.alarm_at == theirs["alarm_at"]
    assert 600 < state.alarm_at <= 700
    assert state.log10_martingale == theirs["log10_martingale"]


def test_the_reference_is_ranked_but_never_bet_on() -> None:
    made = track(sorted(normal(REFERENCE, seed=3)))
    assert made.state().log10_martingale == 0.0
    assert made.state().phase == "watching"
    assert {p.p_value for p in made.tail(100)} == {None}
    made.add(99.0)
    assert made.point(61).p_value == pytest.approx(0, abs=1 / 61)


@pytest.mark.parametrize(("shift", "direction"), [(2.0, "rising"), (-2.0, "falling")])
def test_an_alarm_stays_and_tells_when_and_where_to(shift: float, direction: str) -> None:
    made = track(normal(100, seed=4) + normal(60, seed=5, shift=shift))
    state = made.state()
    assert (state.phase, state.direction) == ("alarm", direction)
    assert 100 < state.alarm_at <= 130
    assert not made.point(state.alarm_at - 1).alarm
    assert made.point(state.alarm_at).alarm
    made.extend(normal(500, seed=6))
    assert made.state().alarm_at == state.alarm_at


def test_equal_scores_are_no_drift() -> None:
    states = [track([0.25] * 800, seed=seed).state() for seed in range(20)]
    assert sum(s.alarm_at is not None for s in states) <= 2


def test_few_exchangeable_streams_ever_alarm_whatever_their_law() -> None:
    noise, alarms = np.random.default_rng(7), 0
    for seed in range(200):
        scores = noise.gamma(0.5, size=500).round(2 if seed % 2 else 9).tolist()
        alarms += track(scores, alpha=0.1, seed=seed).state().alarm_at is not None
    assert alarms / 200 <= 0.1 + 3 * (0.1 * 0.9 / 200) ** 0.5


def test_ties_are_broken_by_the_published_digest_and_evenly() -> None:
    ties = TieBreaker(12, STREAM, 1)
    drawn = [ties(s) for s in range(1, 2001)]
    assert drawn == [outsider.tie(12, NAMES, s) for s in range(1, 2001)]
    assert 0 <= min(drawn) < max(drawn) < 1
    assert abs(float(np.mean(drawn)) - 0.5) < 4 * (1 / 12 / 2000) ** 0.5
    assert TieBreaker(13, STREAM, 1)(1) != drawn[0] != TieBreaker(12, STREAM, 2)(1)


def test_what_cannot_be_ranked_is_not_countable() -> None:
    assert [countable(s) for s in (0.0, 1.5, math.nan, math.inf)] == [True, True, False, False]
