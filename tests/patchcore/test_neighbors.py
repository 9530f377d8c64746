from __future__ import annotations

import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from orchestrator.errors import InvalidInput
from orchestrator.patchcore.memory_bank import MemoryBank, l2_normalise
from orchestrator.patchcore.neighbors import nearest, nearest_k, nearest_rows
from orchestrator.patchcore.projection import find_projection
from orchestrator.patchcore.search import ExactSearch
from tests.reference import clustered, distance_table, nearest_neighbours

ROOT = Path(__file__).parent.parent.parent


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.integers(1, 60), st.integers(1, 12), st.integers(0, 1000))
def test_distances_are_those_of_brute_force(n: int, m: int, dim: int, seed: int) -> None:
    queries, rows = clustered(n, dim, 3, seed), clustered(m, dim, 3, seed + 1)
    distances, index = nearest(queries, MemoryBank(rows, (1, 1)))
    table = distance_table(queries, rows)
    np.testing.assert_allclose(distances, table.min(axis=1), rtol=1e-6)
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


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 8), st.integers(1, 90), st.integers(1, 12), st.integers(0, 1000), st.data())
def test_k_nearest_are_those_of_brute_force_equals_in_the_order_of_rows(
    n: int, m: int, dim: int, seed: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, m))
    # Drawn from few rows, zero among them: equal rows and equal distances are the rule.
    pool = np.concatenate([clustered(5, dim, 2, seed), np.zeros((1, dim), np.float32)])
    rng = np.random.default_rng(seed)
    queries, rows = pool[rng.integers(0, 6, n)], pool[rng.integers(0, 6, m)]
    squared, index = nearest_neighbours(queries, rows, k)
    distances, found = nearest_k(queries, MemoryBank(rows, (1, 1)), k)
    np.testing.assert_array_equal(found, index)
    np.testing.assert_array_equal(distances, np.sqrt(squared).astype(np.float32))
    assert (distances.shape, distances.dtype, found.dtype) == ((n, k), np.float32, np.int64)


def test_a_projection_changes_no_bit_of_an_answer() -> None:
    # As patch tokens are: most of what sets them apart lies in few directions.
    scale = np.float32(0.9) ** np.arange(64, dtype=np.float32)
    drawn = np.random.default_rng(12).standard_normal((6700, 64)).astype(np.float32) * scale
    rows, queries = l2_normalise(drawn[:6000]), l2_normalise(drawn[6000:])
    rows[100:140] = rows[0]
    bank = MemoryBank(rows, (1, 1))
    projection = find_projection(rows, bank.squared_norms)
    assert projection is not None
    assert projection.bounds.shape[1] < 64
    for k in (1, 9):
        plain, pruned = nearest_k(queries, bank, k), nearest_k(queries, bank, k, projection=projection)
        np.testing.assert_array_equal(plain[1], pruned[1])
        np.testing.assert_array_equal(plain[0], pruned[0])


def test_rows_without_structure_are_searched_without_a_projection() -> None:
    rows = clustered(3000, 64, 3000, seed=13)
    assert find_projection(rows, np.ones(3000, np.float32)) is None
    small = clustered(500, 64, 5, seed=14)
    assert find_projection(small, np.ones(500, np.float32)) is None


def test_the_answer_is_the_same_on_any_number_of_threads() -> None:
    bank = MemoryBank(clustered(2500, 96, 60, seed=15), (1, 1))
    queries = clustered(600, 96, 60, seed=16)
    search = ExactSearch(bank, "euclidean")
    answers = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            answers.append(search.nearest_k(queries, 5))

    def ask() -> None:
        answers.append(search.nearest_k(queries, 5))

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len(answers) == 6
    for distances, rows in answers[1:]:
        np.testing.assert_array_equal(distances, answers[0][0])
        np.testing.assert_array_equal(rows, answers[0][1])


def test_sixteen_searches_of_a_large_bank_need_less_than_64_mb_together() -> None:
    # Of few dimensions, to be quick; the benchmark measures D = 384, and what the BLAS takes for itself.
    bank = MemoryBank(clustered(100_000, 16, 50, seed=17), (1, 1))
    queries = clustered(600, 16, 50, seed=18)
    search = ExactSearch(bank, "euclidean")
    search.nearest(queries[:8])
    ready = threading.Barrier(16)

    def ask() -> None:
        ready.wait()
        search.nearest(queries)

    askers = [threading.Thread(target=ask) for _ in range(16)]
    with threadpool_limits(1, user_api="blas"):
        tracemalloc.start()
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert 16e6 < peak <= 64e6, "sixteen blocks of products, and not the table of 16 x 600 x 100,000"


def test_more_neighbours_than_rows_are_refused() -> None:
    bank = MemoryBank(clustered(5, 4, 1, seed=0), (1, 1))
    for k in (0, 6):
        with pytest.raises(InvalidInput, match=f"k = {k} neighbours of a bank of 5 rows"):
            nearest_k(np.ones((1, 4), np.float32), bank, k)


def test_without_numba_the_search_finds_the_same(tmp_path: Path) -> None:
    # Every row is there twice; the second bank has a projection; 700 neighbours are more than a block has rows.
    small, large = clustered(600, 24, 20, seed=20), clustered(1500, 96, 40, seed=22)
    banks = {"small": np.concatenate([small, small]), "large": np.concatenate([large, large])}
    assert find_projection(banks["large"], np.ones(3000, np.float32)) is not None
    asked = {"small": clustered(530, 24, 20, seed=21), "large": clustered(30, 96, 40, seed=23)}
    for name, queries in asked.items():
        queries[:9] = banks[name][:9]
    np.savez(tmp_path / "asked.npz", **{f"bank_{n}": b for n, b in banks.items()}, **asked)
    script = """
import sys
sys.modules["numba"] = None
import numpy as np
from orchestrator.patchcore.memory_bank import MemoryBank
from orchestrator.patchcore.search import ExactSearch
with np.load("asked.npz") as asked:
    for name, k in (("small", 1), ("small", 700), ("large", 9)):
        search = ExactSearch(MemoryBank(asked[f"bank_{name}"], (1, 1)), "euclidean")
        distances, rows = search.nearest_k(asked[name], k)
        np.savez(f"{name}{k}.npz", distances=distances, rows=rows)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=environment)
    for name, k in (("small", 1), ("small", 700), ("large", 9)):
        distances, rows = ExactSearch(MemoryBank(banks[name], (1, 1)), "euclidean").nearest_k(asked[name], k)
        with np.load(tmp_path / f"{name}{k}.npz") as found:
            np.testing.assert_allclose(found["distances"], distances, rtol=1e-6)
            np.testing.assert_array_equal(found["rows"], rows)


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
