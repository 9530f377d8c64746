"""The inner loop of exact search in NumPy, for where there is no Numba: the same answers, more slowly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.domain.arrays import FloatArray, IndexArray

_PAIRS = 2048


def narrow(
    bounds: FloatArray,
    queries: FloatArray,
    rows: FloatArray,
    half_norms: FloatArray,
    first_row: int,
    query_norms: NDArray[np.float64],
    bound_slack: NDArray[np.float64],
    product_slack: NDArray[np.float64],  # noqa: ARG001 - the compiled loop's second bound
    pruned: bool,  # noqa: ARG001
    squared: NDArray[np.float64],
    index: IndexArray,
) -> None:
    """Merge one block of rows into every query's K nearest so far. Arguments are those of `search_kernel.narrow`."""
    brackets = bounds - half_norms
    # The rows that look nearest first: they leave few others to compare.
    k = min(squared.shape[1], brackets.shape[1])
    query = np.repeat(np.arange(len(queries)), k)
    row = np.argpartition(brackets, -k, axis=1)[:, -k:].reshape(-1)
    _compare(queries, rows, query, row, first_row, squared, index)
    brackets[query, row] = -np.inf
    cut = ((query_norms - squared[:, -1]) / 2 - bound_slack).astype(np.float32)
    # What was compared lies below any number, where a place is still free too.
    query, row = np.nonzero(brackets >= np.maximum(cut, np.finfo(np.float32).min)[:, None])
    _compare(queries, rows, query, row, first_row, squared, index)


def _compare(
    queries: FloatArray,
    rows: FloatArray,
    query: IndexArray,
    row: IndexArray,
    first_row: int,
    squared: NDArray[np.float64],
    index: IndexArray,
) -> None:
    """Merge pairs into the K nearest of their queries. query, row: (P,) of the pairs, queries in rising order."""
    distances = np.empty(len(query))
    for low in range(0, len(query), _PAIRS):
        part = slice(low, low + _PAIRS)
        difference = queries[query[part]].astype(np.float64)
        difference -= rows[row[part]]
        distances[part] = np.einsum("pd,pd->p", difference, difference)
    places, starts = np.unique(query, return_index=True)
    for i, start, stop in zip(places, starts, [*starts[1:], len(query)], strict=False):
        all_found = np.concatenate([squared[i], distances[start:stop]])
        all_numbers = np.concatenate([index[i], row[start:stop] + first_row])
        # Nearest first, of equals the lowest row; a place that is free is infinitely far.
        kept = np.lexsort((all_numbers, all_found))[: squared.shape[1]]
        squared[i], index[i] = all_found[kept], all_numbers[kept]
