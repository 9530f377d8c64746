"""Exact nearest neighbours by blocked matrix products; never holds an (N, M) matrix.

Exact to the last bit: a block of products only rules pairs out, with all of its rounding allowed for; what is left is
compared by difference in float64. A pair of equal vectors is at distance 0, ties go to the lowest row, and the answer
is the same for any number of threads, with a projection and without.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.domain.arrays import FloatArray, IndexArray
from orchestrator.errors import InvalidInput
from orchestrator.patchcore.memory_bank import MemoryBank
from orchestrator.patchcore.projection import Projection, project

Metric: TypeAlias = Literal["euclidean", "cosine"]
Squared: TypeAlias = NDArray[np.float64]

# One block of products is 1 MiB of float32: it stays in the cache until it has been gone over.
QUERY_BLOCK = 512
ROW_BLOCK = 512
_ROUNDING = 2.0**-24


def nearest(
    queries: FloatArray,
    bank: MemoryBank,
    *,
    metric: Metric = "euclidean",
    projection: Projection | None = None,
) -> tuple[FloatArray, IndexArray]:
    """Find each query's nearest bank row.

    queries: (N, D) float32, L2-normalised. Returns the distances (N,) float32 in [0, 2] and the rows (N,)
    int64. "cosine" is 1 - cos, which for unit rows is half the squared Euclidean distance: the same row wins.
    projection: of this bank; it makes the search faster and changes nothing else.

    Raises InvalidInput where the dimensions differ or a query is not finite.
    """
    distances, rows = nearest_k(queries, bank, 1, metric=metric, projection=projection)
    return distances[:, 0], rows[:, 0]


def nearest_k(
    queries: FloatArray,
    bank: MemoryBank,
    k: int,
    *,
    metric: Metric = "euclidean",
    projection: Projection | None = None,
) -> tuple[FloatArray, IndexArray]:
    """Find each query's k nearest bank rows.

    As `nearest`, with distances and rows (N, K), nearest first; rows at equal distance in rising order.

    Raises InvalidInput, also where k is less than 1 or more than the bank's rows.
    """
    check_queries(queries, bank, k)
    squared, rows = _nearest_rows(queries, bank.embeddings, bank.squared_norms, k, projection)
    return as_distances(squared, metric), rows


def nearest_rows(
    queries: FloatArray, rows: FloatArray, squared_norms: FloatArray
) -> tuple[Squared, IndexArray]:
    """Find each query's nearest row among rows of any norm.

    queries: (N, D) float32. rows: (M, D) float32, M >= 1. squared_norms: (M,) of the rows, finite.
    Returns the squared distances (N,) float64 and the rows (N,) int64; ties go to the lowest row.
    """
    squared, index = _nearest_rows(queries, rows, squared_norms, 1, None)
    return squared[:, 0], index[:, 0]


def warm_up() -> None:
    """Compile, or load, what searches run on, so that no request waits for it."""
    rows = np.eye(2, dtype=np.float32)
    nearest_rows(rows, rows, np.ones(2, dtype=np.float32))


def check_queries(queries: FloatArray, bank: MemoryBank, k: int) -> None:
    """Refuse what cannot be searched for.

    Raises InvalidInput.
    """
    m, dim = bank.embeddings.shape
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise InvalidInput(f"search: queries of shape {queries.shape} do not fit a bank of shape {(m, dim)}")
    if not 1 <= k <= m:
        raise InvalidInput(f"search: k = {k} neighbours of a bank of {m} rows; give 1 <= k <= {m}")
    if not np.isfinite(np.einsum("nd,nd->n", queries, queries)).all():
        raise InvalidInput("search: queries must be finite")


def as_distances(squared: Squared, metric: Metric) -> FloatArray:
    """Give the metric's distances between unit vectors, as float32 in [0, 2], from squared Euclidean ones."""
    distances = squared / 2 if metric == "cosine" else np.sqrt(squared)
    return np.minimum(distances, 2).astype(np.float32)


class _Narrow(Protocol):
    """Merges one block of rows into every query's K nearest so far; see `search_kernel`."""

    def __call__(
        self,
        bounds: FloatArray,
        queries: FloatArray,
        rows: FloatArray,
        half_norms: FloatArray,
        first_row: int,
        query_norms: Squared,
        bound_slack: Squared,
        product_slack: Squared,
        pruned: bool,
        squared: Squared,
        index: IndexArray,
    ) -> None: ...


@cache
def _narrowing() -> _Narrow:
    try:
        # Only here: importing Numba takes longer than everything else together.
        from orchestrator.patchcore.search_kernel import narrow
    except ImportError:
        from orchestrator.patchcore.plain_kernel import narrow
    return narrow


def _nearest_rows(
    queries: FloatArray, rows: FloatArray, squared_norms: FloatArray, k: int, projection: Projection | None
) -> tuple[Squared, IndexArray]:
    n, m = len(queries), len(rows)
    narrow = _narrowing()
    squared = np.full((n, k), np.inf)
    index = np.zeros((n, k), dtype=np.int64)
    half_norms = squared_norms * np.float32(0.5)
    largest = float(squared_norms.max())
    row_bounds = rows if projection is None else projection.bounds
    scratch = np.empty(min(n, QUERY_BLOCK) * min(m, ROW_BLOCK), dtype=np.float32)
    for start in range(0, n, QUERY_BLOCK):
        block: FloatArray = np.ascontiguousarray(queries[start : start + QUERY_BLOCK])
        query_bounds = block if projection is None else project(block, projection.directions)
        norms = np.einsum("nd,nd->n", block, block, dtype=np.float64)
        product_slack = _slack(norms, largest, rows.shape[1], rows.shape[1])
        bound_slack = _slack(norms, largest, query_bounds.shape[1], rows.shape[1])
        for low in range(0, m, ROW_BLOCK):
            part = slice(low, min(low + ROW_BLOCK, m))
            products = scratch[: len(block) * (part.stop - low)].reshape(len(block), -1)
            np.matmul(query_bounds, row_bounds[part].T, out=products)
            narrow(
                products,
                block,
                rows[part],
                half_norms[part],
                low,
                norms,
                bound_slack,
                product_slack,
                projection is not None,
                squared[start : start + QUERY_BLOCK],
                index[start : start + QUERY_BLOCK],
            )
    return squared, index


def _slack(query_norms: Squared, largest: float, terms: int, dim: int) -> Squared:
    """Bound what float32 may lose of x.y - |y|^2 / 2, whatever the order of the sum.

    terms: of the product. dim: of the rows, whose norms are sums of as many squares. largest: squared norm of a row.
    Source: Higham 2002, "Accuracy and Stability of Numerical Algorithms", sect. 3.1.
    """
    product = (terms + 12) * np.sqrt(query_norms * largest)
    return np.asarray(_ROUNDING * (product + (dim + 12) / 2 * largest + 4 * query_norms))
