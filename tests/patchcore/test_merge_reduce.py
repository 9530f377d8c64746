from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import InvalidInput
from orchestrator.patchcore.coreset import cover_radius, select_coreset
from orchestrator.patchcore.merge_reduce import merge_reduce_coreset
from tests.reference import clustered, distance_table

# The bound adds up distances that were each rounded to float32.
ROUNDED = 1 + 1e-5


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 200),
    dim=st.integers(1, 6),
    count=st.integers(1, 30),
    chunk_rows=st.integers(1, 90),
    kept=st.none() | st.integers(1, 20),
    seed=st.integers(0, 100),
)
def test_no_row_is_farther_than_the_bound(
    n: int, dim: int, count: int, chunk_rows: int, kept: int | None, seed: int
) -> None:
    rows = clustered(n, dim, 8, seed)
    merged = merge_reduce_coreset(rows, count, chunk_rows=chunk_rows, kept_per_chunk=kept, seed=seed)
    assert len(set(merged.selected.tolist())) == len(merged.selected) <= count
    assert cover_radius(rows, merged.selected) <= merged.radius_bound * ROUNDED + 1e-6


@settings(deadline=None, max_examples=25)
@given(n=st.integers(5, 14), count=st.integers(1, 3), chunk_rows=st.integers(2, 9), seed=st.integers(0, 500))
def test_the_bound_is_within_four_times_the_best_radius_there_is(
    n: int, count: int, chunk_rows: int, seed: int
) -> None:
    rows = clustered(n, 2, 5, seed, spread=1.0)
    table = distance_table(rows, rows)
    best = min(table[:, list(few)].min(axis=1).max() for few in itertools.combinations(range(n), count))
    merged = merge_reduce_coreset(rows, count, chunk_rows=chunk_rows)
    assert merged.radius_bound <= 4 * best * ROUNDED + 1e-6


def test_one_chunk_is_the_exact_coreset() -> None:
    rows = clustered(2000, 16, 20, seed=1)
    merged = merge_reduce_coreset(rows, 100, chunk_rows=2000)
    assert set(merged.selected.tolist()) == set(select_coreset(rows, 0.05).tolist())
    assert merged.radius_bound == pytest.approx(cover_radius(rows, merged.selected))


def test_a_memory_mapped_array_and_its_chunks_give_the_same_rows_on_any_threads(tmp_path: Path) -> None:
    rows = clustered(3000, 24, 20, seed=2)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    expected = merge_reduce_coreset(mapped, 60, chunk_rows=700).selected.tolist()
    chunks = [rows[low : low + 700] for low in range(0, 3000, 700)]
    assert merge_reduce_coreset(chunks, 60, threads=2).selected.tolist() == expected


def test_progress_rises_to_one_and_may_end_it() -> None:
    rows = clustered(3000, 8, 20, seed=3)
    seen: list[float] = []
    merge_reduce_coreset(rows, 50, chunk_rows=500, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1

    def stop(share: float) -> None:
        if share > 0.5:
            raise InvalidInput("enough")

    with pytest.raises(InvalidInput, match="enough"):
        merge_reduce_coreset(rows, 50, chunk_rows=500, progress=stop)


@pytest.mark.parametrize(
    ("chunks", "count", "kept"),
    [
        ([], 1, None),
        (np.ones((0, 3), np.float32), 1, None),
        ([np.ones((3, 3), np.float32), np.ones((3, 2), np.float32)], 1, None),
        ([np.ones((3, 3), np.float32), np.full((3, 3), np.nan, np.float32)], 1, None),
        ([np.ones((3, 3), np.float32)], 0, None),
        ([np.ones((3, 3), np.float32)], 1, 0),
    ],
)
def test_what_cannot_be_covered_is_refused(
    chunks: list[np.ndarray] | np.ndarray, count: int, kept: int | None
) -> None:
    with pytest.raises(InvalidInput, match="coreset"):
        merge_reduce_coreset(chunks, count, kept_per_chunk=kept)
