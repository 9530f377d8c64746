from __future__ import annotations

import math
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

from orchestrator.errors import InvalidInput
from orchestrator.patchcore.coreset import cover_radius, extend_coreset, select_coreset
from orchestrator.patchcore.cover import rounding
from tests.reference import clustered, distance_table, greedy_extension, greedy_k_center, greedy_shortfall

ROOT = Path(__file__).parent.parent.parent
ENGINES = (False, True)
engines = pytest.mark.parametrize("compiled", ENGINES, ids=("plain", "compiled"))


def first_centre(n: int, seed: int = 0) -> int:
    return int(np.random.default_rng(seed).integers(0, n))


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 60),
    dim=st.integers(1, 4),
    reach=st.integers(0, 4),
    offset=st.sampled_from([0, 500]),
    rate=st.floats(0.001, 1, exclude_max=True),
    seed=st.integers(0, 100),
)
def test_whole_number_rows_are_picked_in_the_order_of_plain_greedy(
    n: int, dim: int, reach: int, offset: int, rate: float, seed: int
) -> None:
    # Whole numbers make every distance exact, so ties and duplicates are real ones.
    rows = np.random.default_rng(seed).integers(-reach, reach + 1, (n, dim)) + offset
    embeddings = rows.astype(np.float32)
    count = math.ceil(n * rate)
    expected = greedy_k_center(embeddings, count, first_centre(n, seed)) if count < n else list(range(n))
    for compiled in ENGINES:
        assert select_coreset(embeddings, rate, seed=seed, compiled=compiled).tolist() == expected


@engines
@pytest.mark.parametrize(("dim", "reach"), [(1, 2), (2, 20), (3, 6), (4, 100)])
def test_ties_across_blocks_go_to_the_lowest_row(dim: int, reach: int, compiled: bool) -> None:
    rows = np.random.default_rng(dim).integers(-reach, reach + 1, (1500, dim)).astype(np.float32)
    expected = greedy_k_center(rows, 300, first_centre(1500))
    assert select_coreset(rows, 0.2, compiled=compiled).tolist() == expected


@engines
@pytest.mark.parametrize(
    ("n", "dim", "clusters", "spread", "rate"),
    [
        (3000, 48, 30, 0.5, 0.1),
        (3000, 8, 3000, 0.5, 0.3),
        (2500, 96, 2, 0.5, 0.5),
        (2500, 96, 3, 0.02, 0.2),
        (4000, 16, 40, 0.5, 0.01),
    ],
)
def test_clustered_rows_are_picked_as_by_plain_greedy(
    n: int, dim: int, clusters: int, spread: float, rate: float, compiled: bool
) -> None:
    rows = clustered(n, dim, clusters, seed=n + dim, spread=spread)
    expected = greedy_k_center(rows, math.ceil(n * rate), first_centre(n))
    assert set(select_coreset(rows, rate, compiled=compiled).tolist()) == set(expected)


@engines
def test_rows_of_any_norm_far_from_the_origin_are_picked_as_by_plain_greedy(compiled: bool) -> None:
    rows = (clustered(1200, 12, 10, seed=1) * np.linspace(0.1, 5, 1200)[:, None] + 300).astype(np.float32)
    expected = greedy_k_center(rows, 120, first_centre(1200))
    assert set(select_coreset(rows, 0.1, compiled=compiled).tolist()) == set(expected)


@engines
@pytest.mark.parametrize(
    ("clusters", "spread", "offset"),
    [(1, 50, 0), (3, 0.02, 0), (20, 0.01, 0), (3, 0.005, 0), (10, 0.5, 3000)],
)
def test_every_pick_is_the_farthest_row_within_rounding(
    clusters: int, spread: float, offset: float, compiled: bool
) -> None:
    # Tight clusters far apart: squared norms are up to 1e5 times the squared distances that decide.
    rows = clustered(2500, 96, clusters, seed=clusters, spread=spread) + np.float32(offset)
    selected = select_coreset(rows, 0.1, compiled=compiled)
    assert greedy_shortfall(rows, selected.tolist()) < 1e-5


@engines
@pytest.mark.parametrize("dim", [1, 7, 100])
def test_rows_that_may_not_be_written_or_are_not_in_line_are_covered_too(dim: int, compiled: bool) -> None:
    rows = clustered(1000, dim, 5, seed=4) * np.linspace(1, 2, 1000, dtype=np.float32)[:, None]
    expected = select_coreset(rows, 0.2, compiled=compiled).tolist()
    fortran = np.asfortranarray(rows)
    rows.setflags(write=False)
    assert select_coreset(rows, 0.2, compiled=compiled).tolist() == expected
    assert select_coreset(fortran, 0.2, compiled=compiled).tolist() == expected


def test_the_compiled_loops_work_where_nothing_can_be_cached() -> None:
    command = (
        "import numpy as np; from orchestrator.patchcore.coreset import select_coreset;"
        "rows = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32);"
        "plain, compiled = (select_coreset(rows, 0.1, compiled=c).tolist() for c in (False, True));"
        "import sys; assert 'orchestrator.patchcore.pruned' in sys.modules; assert plain == compiled"
    )
    environment = {**os.environ, "NUMBA_CACHE_LOCATOR_CLASSES": "ZipCacheLocator"}
    subprocess.run([sys.executable, "-c", command], check=True, env=environment, cwd=ROOT)


@engines
@pytest.mark.parametrize("clusters", [1, 50])
def test_any_number_of_threads_gives_the_same_rows(clusters: int, compiled: bool) -> None:
    # One cluster is beyond pruning and runs on whole products, fifty are pruned.
    rows = clustered(6000, 64, clusters, seed=clusters)
    alone = select_coreset(rows, 0.05, compiled=compiled).tolist()
    for threads in (1, 2, 4):
        assert select_coreset(rows, 0.05, threads=threads, compiled=compiled).tolist() == alone


def test_without_numba_the_same_rows_are_picked(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = clustered(2000, 24, 20, seed=8)
    expected = select_coreset(rows, 0.1, compiled=True).tolist()
    monkeypatch.delitem(sys.modules, "orchestrator.patchcore.pruned", raising=False)
    monkeypatch.delitem(sys.modules, "orchestrator.patchcore.pruned_loops", raising=False)
    # What the interpreter holds for a module that must not be imported.
    monkeypatch.setitem(sys.modules, "numba", None)
    assert select_coreset(rows, 0.1, compiled=True).tolist() == expected
    assert "orchestrator.patchcore.pruned" not in sys.modules


def test_the_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    rows = clustered(1024, 16, 10, seed=0)
    assert select_coreset(rows, 0.05).tolist() == select_coreset(rows, 0.05).tolist()
    assert select_coreset(rows, 0.05, seed=1).tolist() != select_coreset(rows, 0.05).tolist()


def test_the_first_centre_of_1024_rows_is_871() -> None:
    assert select_coreset(clustered(1024, 4, 2, seed=0), 0.01)[0] == 871


@pytest.mark.parametrize(
    ("n", "rate", "count"), [(1, 0.001, 1), (1, 1.0, 1), (10, 0.01, 1), (10, 0.11, 2), (999, 0.1, 100)]
)
def test_the_count_is_the_rate_rounded_up_and_at_least_one(n: int, rate: float, count: int) -> None:
    selected = select_coreset(clustered(n, 4, 2, seed=0), rate)
    assert selected.shape == (count,)
    assert selected.dtype == np.int64


def test_rate_one_keeps_every_row_in_its_order() -> None:
    np.testing.assert_array_equal(select_coreset(clustered(500, 4, 2, seed=0), 1.0), np.arange(500))


@pytest.mark.parametrize("distinct", [5, 40])
@engines
def test_duplicates_come_after_every_distinct_row_from_the_lowest(distinct: int, compiled: bool) -> None:
    rows = np.repeat(clustered(distinct, 384, distinct, seed=3), 50, axis=0)
    selected = select_coreset(rows, 0.05 if distinct == 40 else 0.1, compiled=compiled).tolist()
    first = selected[:distinct]
    assert {i // 50 for i in first} == set(range(distinct))
    left = [i for i in range(len(rows)) if i not in first]
    assert selected[distinct:] == left[: len(selected) - distinct]
    assert cover_radius(rows, np.array(first)) == 0


@engines
def test_equal_rows_fill_up_in_order(compiled: bool) -> None:
    rows = np.ones((1000, 8), dtype=np.float32)
    first = first_centre(1000)
    assert select_coreset(rows, 0.01, compiled=compiled).tolist() == [first, *range(9)]


def test_more_rows_never_cover_worse() -> None:
    rows = clustered(2000, 24, 50, seed=5)
    radii = [cover_radius(rows, select_coreset(rows, rate)) for rate in (0.01, 0.05, 0.2, 1.0)]
    assert radii == sorted(radii, reverse=True)
    assert radii[-1] == 0


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 30), st.integers(1, 6), st.integers(0, 100))
def test_cover_radius_is_the_farthest_rows_distance(n: int, dim: int, seed: int) -> None:
    rows = clustered(n, dim, 4, seed)
    selected = np.random.default_rng(seed).permutation(n)[: max(1, n // 3)]
    naive = distance_table(rows, rows[selected]).min(axis=1).max()
    assert cover_radius(rows, selected) == pytest.approx(naive, abs=1e-6)


def test_progress_rises_to_one() -> None:
    seen: list[float] = []
    select_coreset(clustered(2000, 8, 20, seed=0), 0.3, progress=seen.append)
    assert len(seen) > 2
    assert seen == sorted(seen)
    assert seen[-1] == 1


@engines
@pytest.mark.parametrize("threads", [1, 3])
def test_what_progress_raises_ends_the_selection_and_its_threads(threads: int, compiled: bool) -> None:
    before = set(threading.enumerate())
    calls = 0

    def stop(_: float) -> None:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise InvalidInput("enough")

    with pytest.raises(InvalidInput, match="enough"):
        select_coreset(
            clustered(20_000, 32, 20, seed=0), 0.3, progress=stop, threads=threads, compiled=compiled
        )
    assert calls == 6
    assert set(threading.enumerate()) == before


@engines
def test_selection_needs_no_table_of_rows_and_centres(compiled: bool) -> None:
    rows = clustered(20_000, 32, 40, seed=7)
    select_coreset(rows[:1000], 0.05, compiled=compiled)
    tracemalloc.start()
    select_coreset(rows, 0.05, compiled=compiled)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * 2**20, "the table of 20,000 x 1,000 would be 76 MiB"


@engines
def test_selection_holds_no_copy_of_the_rows(compiled: bool) -> None:
    rows = clustered(40_000, 384, 40, seed=7) + 1
    select_coreset(rows[:1000], 0.01, compiled=compiled)
    tracemalloc.start()
    select_coreset(rows, 0.002, compiled=compiled)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.8 * rows.nbytes


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.01, math.nan, math.inf])
def test_a_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(InvalidInput, match="coreset rate"):
        select_coreset(clustered(5, 4, 1, seed=0), rate)


@pytest.mark.parametrize(
    "rows",
    [
        np.empty((0, 4), np.float32),
        np.ones(4, np.float32),
        np.full((3, 4), np.nan, np.float32),
        np.full((3, 4), np.inf, np.float32),
        np.full((3, 4), 3e38, np.float32),
    ],
)
def test_rows_without_a_distance_are_refused(rows: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="coreset"):
        select_coreset(rows, 0.5)


def test_a_cover_by_nothing_is_refused() -> None:
    with pytest.raises(InvalidInput, match="cover radius"):
        cover_radius(clustered(5, 4, 1, seed=0), np.empty(0, dtype=np.int64))


@settings(deadline=None, max_examples=30)
@given(
    m=st.integers(1, 20),
    n=st.integers(1, 60),
    dim=st.integers(1, 4),
    reach=st.integers(0, 4),
    share=st.floats(0, 1),
    seed=st.integers(0, 100),
)
def test_whole_number_rows_extend_centres_in_the_order_of_plain_greedy(
    m: int, n: int, dim: int, reach: int, share: float, seed: int
) -> None:
    drawn = np.random.default_rng(seed).integers(-reach, reach + 1, (m + n, dim)).astype(np.float32)
    centres, rows, count = drawn[:m], drawn[m:], round(share * n)
    expected = greedy_extension(centres, rows, count)
    for compiled in ENGINES:
        assert extend_coreset(centres, rows, count, compiled=compiled).tolist() == expected


@engines
@pytest.mark.parametrize("clusters", [1, 40])
def test_clustered_rows_extend_centres_as_by_plain_greedy(clusters: int, compiled: bool) -> None:
    drawn = clustered(4000, 48, clusters, seed=clusters)
    centres, rows = drawn[:1500], drawn[1500:]
    expected = greedy_extension(centres, rows, 200)
    for threads in (1, 2):
        selected = extend_coreset(centres, rows, 200, threads=threads, compiled=compiled)
        assert set(selected.tolist()) == set(expected)


@engines
def test_rows_that_equal_centres_come_last_from_the_lowest(compiled: bool) -> None:
    centres = clustered(30, 64, 30, seed=2)
    rows = np.concatenate([centres, clustered(3, 64, 3, seed=9), centres])
    selected = extend_coreset(centres, rows, 10, compiled=compiled).tolist()
    assert set(selected[:3]) == {30, 31, 32}
    assert selected[3:] == list(range(7))


def test_extending_the_first_picks_gives_the_next_ones() -> None:
    rows = clustered(3000, 24, 30, seed=6)
    selected = select_coreset(rows, 0.1)
    assert extend_coreset(rows[selected[:100]], rows, 200).tolist() == selected[100:].tolist()


@pytest.mark.parametrize(
    ("centres", "rows", "count"),
    [
        (np.ones((0, 4)), np.ones((5, 4)), 1),
        (np.ones((5, 4)), np.ones((0, 4)), 0),
        (np.ones((5, 4)), np.ones((5, 3)), 1),
        (np.ones((5, 4)), np.ones((5, 4)), 6),
        (np.ones((5, 4)), np.ones((5, 4)), -1),
        (np.full((5, 4), np.nan), np.ones((5, 4)), 1),
        (np.ones((5, 4)), np.full((5, 4), np.inf), 1),
    ],
)
def test_an_extension_that_cannot_be_is_refused(centres: np.ndarray, rows: np.ndarray, count: int) -> None:
    with pytest.raises(InvalidInput, match="coreset"):
        extend_coreset(centres.astype(np.float32), rows.astype(np.float32), count)


@pytest.mark.parametrize("dim", [8, 384, 1536, 4096])
def test_what_rounding_is_allowed_for_covers_the_worst_of_sums(dim: int) -> None:
    # Each addition to a sum of D equal terms may be off by half a unit in its last place, and always the same way.
    worst = (1 + 2.0**-24) ** dim - 1
    assert rounding(dim) >= worst
    assert rounding(dim) == np.float32(5e-5) if dim <= 384 else rounding(dim) >= 1.9 * worst
