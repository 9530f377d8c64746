from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.patchcore.closest import closest_row
from orchestrator.patchcore.memory_bank import MemoryBank
from tests.reference import clustered, distance_table


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 12), st.floats(0, 0.5), st.integers(0, 1000))
def test_it_is_the_row_of_brute_force(m: int, dim: int, spread: float, seed: int) -> None:
    rows, queries = clustered(m, dim, 2, seed, spread), clustered(5, dim, 2, seed, spread)
    table = distance_table(queries, rows)
    for query, distances in zip(queries, table, strict=True):
        distance, row = closest_row(query, MemoryBank(rows, (1, 1)), "euclidean")
        assert (distance, row) == (pytest.approx(distances.min(), abs=1e-12), int(distances.argmin()))
        half, same = closest_row(query, MemoryBank(rows, (1, 1)), "cosine")
        assert (half, same) == (pytest.approx(distance**2 / 2, abs=1e-12), row)


def test_of_equal_rows_the_lowest_is_named_however_many_there_are() -> None:
    query, other = clustered(2, 384, 2, seed=5)
    rows = np.repeat(np.stack([other, query]), [7, 9000], axis=0)
    assert closest_row(query, MemoryBank(rows, (1, 1)), "euclidean") == (0.0, 7)


def test_rows_that_float32_cannot_tell_apart_are_told_apart() -> None:
    query = clustered(1, 384, 1, seed=6)[0]
    away = np.float32(1e-4) * np.eye(384, dtype=np.float32)[:300]
    rows = np.concatenate([query + away, [query + away[0] / 2], query + away])
    assert closest_row(query, MemoryBank(rows, (1, 1)), "euclidean")[1] == 300
