from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain import ranks
from orchestrator.domain.ranks import Ranks


@pytest.fixture(autouse=True, scope="module")
def _short_runs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "RECENT", 5)
        yield


def naive(numbers: list[float]) -> list[tuple[int, int]]:
    return [
        (sum(e > n for e in numbers[:i]), sum(e == n for e in numbers[:i])) for i, n in enumerate(numbers)
    ]


@given(st.lists(st.integers(0, 6).map(float)) | st.lists(st.floats(allow_nan=False)))
def test_ranks_are_the_counts_of_greater_and_of_equal_numbers(numbers: list[float]) -> None:
    ours = Ranks()
    assert [ours.add(n) for n in numbers] == naive(numbers)


def test_ranks_agree_over_many_merges_of_rising_falling_and_equal_numbers() -> None:
    drawn: list[float] = np.random.default_rng(0).integers(0, 50, 300).astype(float).tolist()
    for numbers in (drawn, sorted(drawn), sorted(drawn, reverse=True), [-0.0, 0.0] * 20):
        ours = Ranks()
        assert [ours.add(n) for n in numbers] == naive(numbers)
