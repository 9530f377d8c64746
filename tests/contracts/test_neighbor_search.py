"""What every search of a bank must do, whatever its index."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from orchestrator.errors import GpuUnavailable, InvalidInput
from orchestrator.patchcore.gpu_search import GpuFlatSearch
from orchestrator.patchcore.inverted_file import InvertedFileSearch, build_inverted_file
from orchestrator.patchcore.memory_bank import MemoryBank
from orchestrator.patchcore.neighbors import Metric
from orchestrator.patchcore.search import ExactSearch, NeighborSearch
from tests.reference import clustered, nearest_neighbours

Make = Callable[..., NeighborSearch]


@pytest.fixture(params=["exact", "ivf", "gpu_flat"])
def make(request: pytest.FixtureRequest) -> Make:
    """Give what makes a bank searchable."""

    def make_one(rows: np.ndarray, metric: Metric = "euclidean") -> NeighborSearch:
        bank = MemoryBank(rows, (1, 1))
        match request.param:
            case "exact":
                return ExactSearch(bank, metric)
            case "ivf":
                return InvertedFileSearch(bank, build_inverted_file(bank), metric)
            case _:
                try:
                    return GpuFlatSearch(bank, metric)
                except GpuUnavailable as error:
                    pytest.skip(error.message)

    return make_one


def test_the_nearest_rows_of_a_small_bank_are_those_of_brute_force(make: Make) -> None:
    rows, queries = clustered(60, 16, 6, seed=0), clustered(40, 16, 6, seed=1)
    search = make(rows)
    # So few lists that all of them are looked into.
    squared, index = nearest_neighbours(queries, rows, 3)
    distances, found = search.nearest_k(queries, 3)
    np.testing.assert_array_equal(found, index)
    np.testing.assert_allclose(distances, np.sqrt(squared), rtol=1e-6)
    first, row = search.nearest(queries)
    np.testing.assert_array_equal(first, distances[:, 0])
    np.testing.assert_array_equal(row, found[:, 0])


def test_a_distance_is_the_found_row_s_own(make: Make) -> None:
    rows, queries = clustered(3000, 24, 50, seed=2), clustered(200, 24, 50, seed=3)
    search = make(rows)
    for metric, expected in (("euclidean", 1.0), ("cosine", 0.5)):
        distances, found = make(rows, metric).nearest_k(queries, 4)
        difference = queries[:, None].astype(np.float64) - rows[found]
        squared = (difference**2).sum(axis=2)
        own = np.sqrt(squared) if metric == "euclidean" else squared * expected
        np.testing.assert_allclose(distances, own, rtol=1e-6, atol=1e-7)
        assert (np.diff(distances, axis=1) >= 0).all()
        assert all(len(set(row)) == 4 for row in found.tolist())
    assert search.nbytes >= rows.nbytes
    assert search.memory.embeddings is rows


def test_every_row_can_be_asked_for_and_no_more(make: Make) -> None:
    rows = clustered(300, 8, 4, seed=4)
    search = make(rows)
    distances, found = search.nearest_k(rows[:5].copy(), 300)
    assert all(sorted(row) == list(range(300)) for row in found.tolist())
    assert np.isfinite(distances).all()
    with pytest.raises(InvalidInput, match="k = 301"):
        search.nearest_k(rows[:5], 301)
    with pytest.raises(InvalidInput, match="finite"):
        search.nearest(np.full((1, 8), np.nan, np.float32))
    with pytest.raises(InvalidInput, match="do not fit"):
        search.nearest(np.ones((1, 7), np.float32))


def test_patches_without_content_and_banks_of_one_row_are_no_exception(make: Make) -> None:
    one = clustered(1, 8, 1, seed=5)
    assert make(one).nearest(one)[1].tolist() == [0]
    rows = np.zeros((50, 8), dtype=np.float32)
    distances, found = make(rows).nearest_k(rows[:2].copy(), 3)
    assert distances.max() == 0
    assert found.tolist()[0] == found.tolist()[1]


def test_threads_get_the_same_answers(make: Make) -> None:
    rows, queries = clustered(4000, 32, 60, seed=6), clustered(256, 32, 60, seed=7)
    search = make(rows)
    answers = []
    askers = [threading.Thread(target=lambda: answers.append(search.nearest_k(queries, 2))) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    answers.append(make(rows).nearest_k(queries, 2))
    assert len(answers) == 5
    for distances, found in answers:
        np.testing.assert_array_equal(distances, answers[0][0])
        np.testing.assert_array_equal(found, answers[0][1])
