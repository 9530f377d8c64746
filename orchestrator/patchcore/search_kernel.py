"""The compiled inner loop of exact search: bounds in, nearest rows out; makes no bound itself.

A block of matrix products gives every pair an upper bound on its inner product. Only the pairs whose bound reaches
the K-th best distance so far are compared, by difference, in float64: what is returned never depends on how the bounds
were rounded, on the BLAS, or on its threads. Importing this module imports Numba; it is compiled at its first call.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.patchcore.compiled import compiled

_CHUNK = 32
_REORDERED = {"reassoc", "contract", "nsz"}


def _squared_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    total = 0.0
    for i in range(a.shape[0]):
        difference = np.float64(a[i]) - np.float64(b[i])
        total += difference * difference
    return total


def _product(a: NDArray[np.float32], b: NDArray[np.float32]) -> np.float32:
    total = np.float32(0)
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


def _highest(bounds: NDArray[np.float32], half_norms: NDArray[np.float32], low: int, high: int) -> np.float32:
    top = np.float32(-np.inf)
    for j in range(low, high):
        value = bounds[j] - half_norms[j]
        top = value if value > top else top
    return top


# One compilation of each sum for all its callers: the same pair always gives the same bits.
_squared_distance = compiled(_squared_distance, fastmath=_REORDERED, inline="never")
_product = compiled(_product, fastmath=_REORDERED, inline="never")
_highest = compiled(_highest, inline="always")


def _narrow(
    bounds: NDArray[np.float32],
    queries: NDArray[np.float32],
    rows: NDArray[np.float32],
    half_norms: NDArray[np.float32],
    first_row: int,
    query_norms: NDArray[np.float64],
    bound_slack: NDArray[np.float64],
    product_slack: NDArray[np.float64],
    pruned: bool,
    squared: NDArray[np.float64],
    index: NDArray[np.int64],
) -> None:
    """Merge one block of rows into every query's K nearest so far.

    bounds: (N, M) upper bounds on inner products. queries: (N, D). rows: (M, D). half_norms: (M,), |row|^2 / 2.
    first_row: the number of the block's first row; blocks come in rising order. query_norms: (N,), |query|^2.
    bound_slack, product_slack: (N,), what `bounds` and a float32 product may be short by through rounding. pruned:
    whether the bounds are less than the product itself. squared, index: (N, K), ascending, changed in place; a place
    that is free holds infinity.
    """
    n, m = bounds.shape
    k = squared.shape[1]
    for i in range(n):
        worst = squared[i, k - 1]
        # |x - y|^2 = |x|^2 - 2 (x.y - |y|^2 / 2) <= worst needs a bracket of at least this.
        needed = (query_norms[i] - worst) * 0.5
        cut, product_cut = np.float32(needed - bound_slack[i]), np.float32(needed - product_slack[i])
        for start in range(0, m, _CHUNK):
            stop = min(start + _CHUNK, m)
            # The constant length of a whole chunk lets the compiler unroll it.
            if start + _CHUNK <= m:
                top = _highest(bounds[i], half_norms, start, start + _CHUNK)
            else:
                top = _highest(bounds[i], half_norms, start, m)
            if top < cut:
                continue
            for j in range(start, stop):
                if bounds[i, j] - half_norms[j] < cut:
                    continue
                if pruned and _product(queries[i], rows[j]) - half_norms[j] < product_cut:
                    continue
                distance = _squared_distance(queries[i], rows[j])
                if distance < worst:
                    place = k - 1
                    while place > 0 and squared[i, place - 1] > distance:
                        squared[i, place] = squared[i, place - 1]
                        index[i, place] = index[i, place - 1]
                        place -= 1
                    squared[i, place] = distance
                    index[i, place] = first_row + j
                    worst = squared[i, k - 1]
                    needed = (query_norms[i] - worst) * 0.5
                    cut = np.float32(needed - bound_slack[i])
                    product_cut = np.float32(needed - product_slack[i])


narrow = compiled(_narrow)
