from __future__ import annotations

import faiss
import numpy as np
import pytest

from orchestrator.errors import StoreCorrupt
from orchestrator.patchcore.inverted_file import InvertedFile, InvertedFileSearch, build_inverted_file
from orchestrator.patchcore.memory_bank import MemoryBank
from orchestrator.patchcore.search import ExactSearch
from tests.reference import clustered


def test_the_same_bank_gives_the_same_bytes_on_any_number_of_threads() -> None:
    bank = MemoryBank(clustered(2000, 16, 30, seed=0), (1, 1))
    first = build_inverted_file(bank)
    faiss.omp_set_num_threads(2)
    assert build_inverted_file(bank).data == first.data
    assert (first.nlist, first.nprobe, len(first.sha256)) == (179, 16, 64)


def test_nearly_every_nearest_row_is_found_and_no_distance_is_too_small() -> None:
    bank = MemoryBank(clustered(20_000, 32, 200, seed=1), (1, 1))
    queries = clustered(512, 32, 200, seed=1, spread=0.6)
    distances, rows = InvertedFileSearch(bank, build_inverted_file(bank), "euclidean").nearest(queries)
    exact, nearest = ExactSearch(bank, "euclidean").nearest(queries)
    assert (rows == nearest).mean() >= 0.99
    assert (distances >= exact).all()
    np.testing.assert_array_equal(distances[rows == nearest], exact[rows == nearest])


def test_equal_rows_found_together_answer_with_the_lowest() -> None:
    rows = clustered(100, 8, 5, seed=2)
    rows[[30, 70]] = rows[10]
    bank = MemoryBank(rows, (1, 1))
    search = InvertedFileSearch(bank, build_inverted_file(bank), "euclidean")
    assert search.nearest_k(rows[10:11].copy(), 3)[1].tolist() == [[10, 30, 70]]


@pytest.mark.parametrize("data", [b"", b"no index", None])
def test_bytes_that_are_no_index_of_the_bank_are_refused(data: bytes | None) -> None:
    bank = MemoryBank(clustered(50, 8, 5, seed=3), (1, 1))
    other = build_inverted_file(MemoryBank(clustered(60, 8, 5, seed=3), (1, 1))).data
    with pytest.raises(StoreCorrupt, match="index"):
        InvertedFileSearch(bank, InvertedFile(other if data is None else data, 4, 2), "euclidean")
