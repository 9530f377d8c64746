from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import InvalidInput
from orchestrator.patchcore.coreset import extend_coreset
from tests.reference import clustered


def naive(centres: np.ndarray, rows: np.ndarray, count: int) -> list[int]:
    """Add the row that is farthest from every centre so far, one by one; ties go to the lowest."""
    exact, picked = rows.astype(np.float64), list[int]()
    distances = ((exact[:, None] - centres.astype(np.float64)[None]) ** 2).sum(axis=2).min(axis=1)
    for _ in range(count):
        distances[picked] = -1
        picked.append(int(np.argmax(distances)))
        distances = np.minimum(distances, ((exact - exact[picked[-1]]) ** 2).sum(axis=1))
    return picked


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 40),
    m=st.integers(1, 10),
    dim=st.integers(1, 4),
    offset=st.sampled_from([0, 500]),
    share=st.floats(0, 1),
    seed=st.integers(0, 100),
)
def test_whole_number_rows_are_added_in_the_order_of_plain_greedy(
    n: int, m: int, dim: int, offset: int, share: float, seed: int
) -> None:
    drawn = np.random.default_rng(seed).integers(-3, 4, (m + n, dim)).astype(np.float32) + offset
    count = round(n * share)
    assert extend_coreset(drawn[:m], drawn[m:], count).tolist() == naive(drawn[:m], drawn[m:], count)


def test_clustered_rows_are_added_as_by_plain_greedy_however_many_threads_work() -> None:
    rows = clustered(1500, 16, 20, seed=3)
    expected = naive(rows[:100], rows[100:], 150)
    for threads in (1, 3):
        assert extend_coreset(rows[:100], rows[100:], 150, threads=threads).tolist() == expected


def test_nothing_to_pick_is_done_at_once() -> None:
    rows, told = clustered(20, 4, 2, seed=1), list[float]()
    picked = extend_coreset(rows[:8], rows[8:], 0, progress=told.append)
    assert (picked.tolist(), picked.dtype, told) == ([], np.int64, [1.0])


def test_counts_and_shapes_out_of_range_are_refused() -> None:
    rows = clustered(10, 4, 2, seed=0)
    for centres, others, count in (
        (rows, rows, 11),
        (rows, rows, -1),
        (rows[:0], rows, 1),
        (rows[:, :3], rows, 1),
    ):
        with pytest.raises(InvalidInput, match="coreset"):
            extend_coreset(centres, others, count)
