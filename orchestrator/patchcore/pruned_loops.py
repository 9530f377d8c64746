"""The compiled loops of `pruned.py`: bound, test and exact distance of tiles of rows, in one pass.

Importing this module compiles them, or reads them from Numba's cache: seconds and milliseconds. They release the
interpreter lock. Rows that may be read-only are declared so: one compiled version serves every caller.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numba import types

from orchestrator.domain.arrays import FloatArray, IndexArray
from orchestrator.patchcore.compiled import Function, compiled

TILE = 256
"""Rows that are bounded together: a prefix tile stays in the first caches."""
UNROLLED = 4
"""Dimensions, and centres, that are multiplied in one go."""

_FUSED = {"contract"}
_REORDERED = {"contract", "reassoc", "nsz", "arcp"}

_scalar = types.float32
_read1 = types.Array(types.float32, 1, "C", readonly=True)
_read2 = types.Array(types.float32, 2, "C", readonly=True)
_read3 = types.Array(types.float32, 3, "C", readonly=True)
_write1 = types.float32[::1]


def _compiled(signature: Any, fastmath: set[str]) -> Callable[[Function], Function]:
    return partial(compiled, signature=signature, fastmath=fastmath, boundscheck=False)


@_compiled(_scalar(_read1, _read1, _scalar), _REORDERED)
def _squared_distance(row: FloatArray, centre: FloatArray, zero: np.float32) -> np.float32:
    total = np.float32(0)
    for k in range(len(row)):
        difference = row[k] - centre[k]
        total += difference * difference
    return total if total > zero else np.float32(0)


@_compiled(types.void(types.float32[:, ::1], _read2, _read2, types.int64), _FUSED)
def _multiply_prefixes(products: FloatArray, tile: FloatArray, prefixes: FloatArray, first: int) -> None:
    # Four centres by four dimensions at once: a number that is loaded is used four times, a sum kept for four terms.
    # Beyond the last centre it is that one again.
    last = len(prefixes) - 1
    second, third, fourth = min(first + 1, last), min(first + 2, last), min(first + 3, last)
    products[:] = 0
    for k in range(0, len(tile), UNROLLED):
        a0, a1 = prefixes[first, k], prefixes[first, k + 1]
        a2, a3 = prefixes[first, k + 2], prefixes[first, k + 3]
        b0, b1 = prefixes[second, k], prefixes[second, k + 1]
        b2, b3 = prefixes[second, k + 2], prefixes[second, k + 3]
        c0, c1 = prefixes[third, k], prefixes[third, k + 1]
        c2, c3 = prefixes[third, k + 2], prefixes[third, k + 3]
        d0, d1 = prefixes[fourth, k], prefixes[fourth, k + 1]
        d2, d3 = prefixes[fourth, k + 2], prefixes[fourth, k + 3]
        for j in range(TILE):
            x0, x1, x2, x3 = tile[k, j], tile[k + 1, j], tile[k + 2, j], tile[k + 3, j]
            products[0, j] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
            products[1, j] += b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3
            products[2, j] += c0 * x0 + c1 * x1 + c2 * x2 + c3 * x3
            products[3, j] += d0 * x0 + d1 * x1 + d2 * x2 + d3 * x3


@_compiled(types.void(_write1, _read1, _read1, _scalar), _FUSED)
def _set_limits(limits: FloatArray, norms: FloatArray, distances: FloatArray, margin: np.float32) -> None:
    # |x - y|^2 < d  <=>  <x, y> - |y|^2 / 2 > (|x|^2 - d) / 2
    for j in range(len(norms)):
        limits[j] = (norms[j] - distances[j] - margin) * np.float32(0.5)


@_compiled(types.int64(_read1, _read1, _scalar), _FUSED)
def _count_beyond(products: FloatArray, limits: FloatArray, half_norm: np.float32) -> int:
    beyond = 0
    for j in range(len(limits)):
        beyond += products[j] - limits[j] > half_norm
    return beyond


@_compiled(types.void(_read1, _write1, _write1, _read2, _read1, _scalar, _read1, _scalar, _scalar), _FUSED)
def _settle_centre(
    products: FloatArray,
    limits: FloatArray,
    distances: FloatArray,
    rows: FloatArray,
    norms: FloatArray,
    half_norm: np.float32,
    centre: FloatArray,
    zero: np.float32,
    margin: np.float32,
) -> None:
    for j in range(len(limits)):
        if products[j] - limits[j] > half_norm:
            squared = _squared_distance(rows[j], centre, zero)
            if squared < distances[j]:
                distances[j] = squared
                limits[j] = (norms[j] - squared - margin) * np.float32(0.5)


@_compiled(
    types.void(_read3, _read1, _read1, _write1, _read2, _read2, _read1, _read1, _read2, _scalar, _scalar),
    _FUSED,
)
def prune(
    tiles: FloatArray,
    tails: FloatArray,
    norms: FloatArray,
    distances: FloatArray,
    rows: FloatArray,
    centre_prefixes: FloatArray,
    centre_tails: FloatArray,
    centre_norms: FloatArray,
    centres: FloatArray,
    zero: np.float32,
    margin: np.float32,
) -> None:
    """Bring the distances of rows up to date with centres, computing only pairs that a prefix does not exclude.

    tiles: (T, P, TILE) prefixes, rows beyond N are padding. tails, norms, distances: (N,). rows: (N, D).
    centre_prefixes: (B, P). centre_tails, centre_norms: (B,). centres: (B, D). zero: squared distances up to here
    become 0. margin: what the bound may be off. P is a multiple of UNROLLED.
    """
    bounds = np.empty((UNROLLED, TILE), dtype=np.float32)
    limits = np.empty(TILE, dtype=np.float32)
    for t in range(len(tiles)):
        low = t * TILE
        high = min(low + TILE, len(norms))
        inside = limits[: high - low]
        _set_limits(inside, norms[low:high], distances[low:high], margin)
        for first in range(0, len(centres), UNROLLED):
            _multiply_prefixes(bounds, tiles[t], centre_prefixes, first)
            for b in range(first, min(first + UNROLLED, len(centres))):
                bound = bounds[b - first]
                for j in range(high - low):
                    bound[j] += centre_tails[b] * tails[low + j]
                half_norm = centre_norms[b] * np.float32(0.5)
                if _count_beyond(bound, inside, half_norm) > 0:
                    _settle_centre(
                        bound,
                        inside,
                        distances[low:high],
                        rows[low:high],
                        norms[low:high],
                        half_norm,
                        centres[b],
                        zero,
                        margin,
                    )


@_compiled(types.int64(_read2, _read1, _read1, _read1, _read2, _read1, _read1, _scalar), _FUSED)
def count(
    tile: FloatArray,
    tails: FloatArray,
    norms: FloatArray,
    distances: FloatArray,
    centre_prefixes: FloatArray,
    centre_tails: FloatArray,
    centre_norms: FloatArray,
    margin: np.float32,
) -> int:
    """Count the pairs of one tile that the prefix does not exclude. Shapes as in `prune`."""
    bounds = np.empty((UNROLLED, TILE), dtype=np.float32)
    limits = np.empty(len(norms), dtype=np.float32)
    _set_limits(limits, norms, distances, margin)
    left = 0
    for first in range(0, len(centre_norms), UNROLLED):
        _multiply_prefixes(bounds, tile, centre_prefixes, first)
        for b in range(first, min(first + UNROLLED, len(centre_norms))):
            bound = bounds[b - first]
            for j in range(len(norms)):
                bound[j] += centre_tails[b] * tails[j]
            left += _count_beyond(bound, limits, centre_norms[b] * np.float32(0.5))
    return left


@_compiled(types.void(_read2, _read1, _write1, _read2, _read1, _read2, _scalar, _scalar), _FUSED)
def settle(
    products: FloatArray,
    norms: FloatArray,
    distances: FloatArray,
    rows: FloatArray,
    centre_norms: FloatArray,
    centres: FloatArray,
    zero: np.float32,
    margin: np.float32,
) -> None:
    """Bring the distances of one tile up to date, given the whole products (B, n) of centres and rows."""
    limits = np.empty(len(norms), dtype=np.float32)
    _set_limits(limits, norms, distances, margin)
    for b in range(len(centres)):
        half_norm = centre_norms[b] * np.float32(0.5)
        if _count_beyond(products[b], limits, half_norm) > 0:
            _settle_centre(products[b], limits, distances, rows, norms, half_norm, centres[b], zero, margin)


@_compiled(types.int64(_read2, _write1, _scalar, _scalar, types.int64[::1]), _FUSED)
def pick(
    rows: FloatArray, distances: FloatArray, zero: np.float32, bound: np.float32, picks: IndexArray
) -> int:
    """Run greedy selection inside a block, into `picks`, while its best row is beyond `bound`; gives how many.

    rows: (m, D). distances: (m,), brought up to date. Ties go to the lowest row.
    """
    picked = 0
    while picked < len(picks):
        best = 0
        for j in range(len(distances)):
            if distances[j] > distances[best]:
                best = j
        # A row outside that is as far as the best one may have a lower index: the next round decides.
        if distances[best] <= 0 or (picked > 0 and distances[best] <= bound):
            break
        picks[picked] = best
        picked += 1
        for j in range(len(distances)):
            if distances[j] > 0:
                squared = _squared_distance(rows[j], rows[best], zero)
                if squared < distances[j]:
                    distances[j] = squared
        distances[best] = np.float32(-1)
    return picked
