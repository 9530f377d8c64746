"""A bank's projection: few numbers a row that bound its inner product with any query from above.

x.y <= P x . P y + |x - P x| |y - P y| (Cauchy-Schwarz), with P onto the bank's leading principal directions: the
bound is itself an inner product of p + 1 numbers. Knows when a bank's bounds are worth having; searches nothing.

Source: Seidl and Kriegel 1998 (optimal multi-step k-NN search); Teflioudi et al. 2015, "LEMP" (this bound).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.domain.arrays import FloatArray

Directions: TypeAlias = NDArray[np.float64]

MIN_ROWS = 2048
"""Below this a whole search takes some ten milliseconds, less than looking for a projection."""

_WIDTHS = (32, 48, 64, 96, 128, 192)
_SAMPLE_ROWS, _SAMPLE_QUERIES, _SAMPLE_BLOCK = 4096, 64, 4096
# Each block is held in float64 while it is projected.
_BLOCK = 256
# Costs a pair in columns of a matrix product, measured on an AVX-512 core: going over its bound, and comparing it
# where the bound fails. The running best is looser than the last, hence twice a comparison's own cost.
_SCAN_COST, _COMPARE_COST = 30, 4000
_WORTH = 0.85


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """directions: (D, p) float64, orthonormal. bounds: (M, p + 1) float32, of the bank's rows."""

    directions: Directions
    bounds: FloatArray


def project(rows: FloatArray, directions: Directions) -> FloatArray:
    """Give the numbers whose inner product bounds the rows' own: (N, p + 1) float32, correctly rounded.

    rows: (N, D) float32. directions: (D, p) float64, orthonormal.
    """
    projected = np.empty((len(rows), directions.shape[1] + 1), dtype=np.float32)
    for low in range(0, len(rows), _BLOCK):
        exact = rows[low : low + _BLOCK].astype(np.float64)
        leading = exact @ directions
        rest = np.einsum("nd,nd->n", exact, exact) - np.einsum("np,np->n", leading, leading)
        projected[low : low + _BLOCK, :-1] = leading
        projected[low : low + _BLOCK, -1] = np.sqrt(np.maximum(rest, 0))
    return projected


def find_projection(rows: FloatArray, squared_norms: FloatArray) -> Projection | None:
    """Find the projection that makes searching these rows cheapest; None where none is worth it.

    rows: (M, D) float32. squared_norms: (M,). The choice is made by counting, on a sample of the rows, how many pairs
    each width would leave to compare: the same bank always gives the same choice, and no choice changes an answer.
    """
    m, dim = rows.shape
    widths = [width for width in _WIDTHS if width <= dim // 2]
    if m < MIN_ROWS or not widths:
        return None
    sample = np.ascontiguousarray(rows[_spread(m, _SAMPLE_ROWS)])
    exact = sample.astype(np.float64)
    directions = np.linalg.eigh(exact.T @ exact)[1][:, ::-1]
    asked = _spread(m, _SAMPLE_QUERIES)
    nearest = _nearest_others(rows, squared_norms, asked)
    projected = project(sample, directions[:, : widths[-1]]).astype(np.float64)
    queries = project(rows[asked], directions[:, : widths[-1]]).astype(np.float64)
    sample_norms = np.einsum("md,md->m", exact, exact)
    query_norms = squared_norms[asked].astype(np.float64)

    def cost(width: int) -> float:
        p = width - 1
        products = queries[:, :p] @ projected[:, :p].T
        products += np.outer(_rest(query_norms, queries[:, :p]), _rest(sample_norms, projected[:, :p]))
        distances = query_norms[:, None] + sample_norms - 2 * products
        return width + _COMPARE_COST * float((distances < nearest[:, None]).mean())

    costs = {width: cost(width) for width in widths}
    best = min(costs, key=lambda width: costs[width])
    if costs[best] + _SCAN_COST > _WORTH * (dim + _SCAN_COST):
        return None
    chosen = np.ascontiguousarray(directions[:, : best - 1])
    return Projection(chosen, project(rows, chosen))


def _rest(norms: NDArray[np.float64], leading: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.maximum(norms - np.einsum("np,np->n", leading, leading), 0)))


def _spread(m: int, count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, m - 1, min(m, count)).astype(np.int64))


def _nearest_others(
    rows: FloatArray, squared_norms: FloatArray, asked: NDArray[np.int64]
) -> NDArray[np.float64]:
    nearest = np.full(len(asked), np.inf)
    for low in range(0, len(rows), _SAMPLE_BLOCK):
        part = slice(low, low + _SAMPLE_BLOCK)
        squared = squared_norms[asked][:, None] + squared_norms[part] - 2 * (rows[asked] @ rows[part].T)
        inside = (asked >= low) & (asked < low + _SAMPLE_BLOCK)
        squared[np.flatnonzero(inside), asked[inside] - low] = np.inf
        nearest = np.minimum(nearest, squared.min(axis=1))
    return nearest
