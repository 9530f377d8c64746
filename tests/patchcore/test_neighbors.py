from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import InvalidInput
from orchestrator.patchcore.memory_bank import MemoryBank
from orchestrator.patchcore.neighbors import nearest, nearest_rows
from tests.reference import clustered, distance_table


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.integers(1, 60), st.integers(1, 12), st.integers(0, 1000))
def test_distances_are_those_of_brute_force(n: int, m: int, dim: int, seed: int) -> None:
    queries, rows = clustered(n, dim, 3, seed), clustered(m, dim, 3, seed + 1)
    distances, index = nearest(queries, MemoryBank(rows, (1, 1)))
    table = distance_table(queries, rows)
    # The product that picks the row rounds squared distances by up to 1e-6.
    np.testing.assert_allclose(distances.astype(np.float64) ** 2, table.min(axis=1) ** 2, atol=2e-6)
    np.testing.assert_allclose(distances, table[np.arange(n), index], atol=1e-6)
    assert distances.dtype == np.float32
    assert index.dtype == np.int64


@pytest.mark.parametrize(("n", "m"), [(1023, 1025), (1024, 1024), (1025, 3000), (2500, 1), (1, 2500)])
def test_blocks_leave_no_seam(n: int, m: int) -> None:
    queries, rows = clustered(n, 16, 20, seed=2), clustered(m, 16, 20, seed=3)
    distances, index = nearest(queries, MemoryBank(rows, (1, 1)))
    table = 2 - 2 * queries.astype(np.float64) @ rows.astype(np.float64).T
    np.testing.assert_array_equal(index, table.argmin(axis=1))
    np.testing.assert_allclose(distances, np.sqrt(table.min(axis=1)), atol=1e-5)


def test_a_vector_of_the_bank_is_at_distance_zero_from_itself() -> None:
    rows = clustered(3000, 384, 30, seed=4)
    distances, index = nearest(rows[::7].copy(), MemoryBank(rows, (1, 1)))
    assert distances.max() <= 1e-6
    np.testing.assert_array_equal(index, np.arange(3000)[::7])


def test_equal_rows_answer_with_the_lowest() -> None:
    rows = np.tile(clustered(1, 8, 1, seed=5), (2500, 1))
    _, index = nearest(rows[:3], MemoryBank(rows, (1, 1)))
    assert index.tolist() == [0, 0, 0]


def test_opposite_vectors_are_at_distance_two_and_never_beyond() -> None:
    rows = clustered(200, 384, 200, seed=6)
    distances = np.concatenate([nearest(-row[None], MemoryBank(row[None].copy(), (1, 1)))[0] for row in rows])
    np.testing.assert_allclose(distances, 2, atol=1e-6)
    assert distances.max() <= 2


def test_cosine_is_one_minus_cos_of_the_same_row() -> None:
    queries, rows = clustered(50, 24, 5, seed=7), clustered(80, 24, 5, seed=8)
    bank = MemoryBank(rows, (1, 1))
    euclidean, index = nearest(queries, bank)
    cosine, same = nearest(queries, bank, metric="cosine")
    np.testing.assert_array_equal(index, same)
    exact = 1 - (queries.astype(np.float64) * rows[index]).sum(axis=1)
    np.testing.assert_allclose(cosine, exact, atol=1e-6)
    assert not np.allclose(cosine, euclidean)


def test_a_patch_without_content_matches_one_in_the_bank() -> None:
    rows = clustered(10, 6, 2, seed=9)
    rows[4] = 0
    queries = np.zeros((1, 6), dtype=np.float32)
    distances, index = nearest(queries, MemoryBank(rows, (1, 1)))
    assert (distances[0], index[0]) == (0, 4)


def test_rows_of_any_norm_are_ranked_by_distance_not_by_product() -> None:
    rows = np.array([[10, 0], [1, 1], [0.5, 0]], dtype=np.float32)
    squared, index = nearest_rows(np.array([[1, 0]], dtype=np.float32), rows, (rows**2).sum(axis=1))
    assert index.tolist() == [2]
    assert squared[0] == pytest.approx(0.25)


def test_the_search_never_holds_the_whole_table() -> None:
    queries, bank = clustered(1024, 64, 10, seed=10), MemoryBank(clustered(20_000, 64, 10, seed=11), (1, 1))
    tracemalloc.start()
    nearest(queries, bank)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 2**20, "the table of 1024 x 20,000 would be 78 MiB"


@pytest.mark.parametrize("queries", [np.ones((2, 3), np.float32), np.full((2, 4), np.nan, np.float32)])
def test_queries_that_do_not_fit_are_refused(queries: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="search"):
        nearest(queries, MemoryBank(clustered(5, 4, 1, seed=0), (1, 1)))
