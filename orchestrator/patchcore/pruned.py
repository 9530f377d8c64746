"""A cover that skips most pairs: a bound from few dimensions says which of them can matter.

The rows are rotated once onto the leading principal axes of a sample; of a rotated row only the first P numbers and
the length of the rest, the tail, are kept. By Cauchy–Schwarz <x, y> <= <x_P, y_P> + |x_tail| |y_tail|, which bounds
the distance from below. Where the bound does not prune, on rows without structure, the same test runs on whole
matrix products. Which of the two is decided by counting on a fixed sample of tiles, never by time: results repeat.

Source: the bound is classical (e.g. Weber & Blott 1998, partial distances; here after a Karhunen-Loève rotation).
"""

from __future__ import annotations

import numpy as np

import orchestrator.patchcore.pruned_loops as loops
from orchestrator.domain.arrays import FloatArray, IndexArray
from orchestrator.patchcore.blocks import Blocks, row_blocks
from orchestrator.patchcore.cover import Between, Spread, rounding

TILE = loops.TILE
_RETAINED = 0.8
_MIN_PREFIX, _MAX_PREFIX = 16, 64
_UNROLLED = loops.UNROLLED
# An exact difference costs about five products' share of a pair: beyond this share of pairs products are cheaper.
_PRUNE_PAYS = 0.2
_PROBES = 8
_PROBED_CENTRES = 4
_BATCH = 256
_PAIRS_A_JOB = 1 << 21


class PrunedCover:
    """Compiled, in tiles of rows. Needs Numba."""

    def __init__(self, spread: Spread, blocks: Blocks) -> None:
        n = len(spread.rows)
        self.distances: FloatArray = np.full(n, np.inf, dtype=np.float32)
        self._spread = spread
        self._blocks = blocks
        self._rounding = rounding(spread.rows.shape[1])
        self._axes = _principal_axes(spread)
        tiles = -(-n // TILE)
        # A tile is (P, TILE): its rows lie side by side, for vectors of rows.
        self._prefixes: FloatArray = np.zeros((tiles, len(self._axes), TILE), dtype=np.float32)
        self._tails: FloatArray = np.zeros(n, dtype=np.float32)
        blocks.each(self._rotate, row_blocks(n, TILE))
        self._probes: IndexArray = np.unique(np.linspace(0, tiles - 1, _PROBES).astype(np.int64))

    def add(self, centres: FloatArray, between: Between) -> None:
        for part in row_blocks(len(centres), _BATCH):
            self._add(np.ascontiguousarray(centres[part]), between)

    def pick(self, block: IndexArray, bound: np.float32, limit: int) -> IndexArray:
        # Both are copies.
        rows, distances = self._spread.rows[block], self.distances[block]
        picks: IndexArray = np.empty(min(limit, len(block)), dtype=np.int64)
        return picks[: loops.pick(rows, distances, self._spread.zero, bound, picks)]

    def _rotate(self, part: slice) -> None:
        moved = self._spread.rows[part] - self._spread.mean
        tile = self._prefixes[part.start // TILE, :, : len(moved)]
        tile[:] = self._axes @ moved.T
        self._tails[part] = _tails(
            self._spread.norms[part], np.einsum("pn,pn->n", tile, tile), self._rounding
        )

    def _add(self, centres: FloatArray, between: Between) -> None:
        spread = self._spread
        moved = centres - spread.mean
        norms: FloatArray = np.einsum("bd,bd->b", moved, moved)
        prefixes: FloatArray = np.ascontiguousarray(moved @ self._axes.T)
        tails = _tails(norms, np.einsum("bp,bp->b", prefixes, prefixes), self._rounding)
        margin = self._rounding * np.float32(max(spread.norms.max(), norms.max()))

        def prune(part: slice) -> None:
            tiles = slice(part.start // TILE, -(-part.stop // TILE))
            loops.prune(
                self._prefixes[tiles],
                self._tails[part],
                spread.norms[part],
                self.distances[part],
                spread.rows[part],
                prefixes,
                tails,
                norms,
                centres,
                spread.zero,
                margin,
            )

        def multiply(part: slice) -> None:
            for tile in row_blocks(part.stop - part.start, TILE):
                rows = slice(part.start + tile.start, part.start + tile.stop)
                products = moved @ (spread.rows[rows] - spread.mean).T
                loops.settle(
                    products,
                    spread.norms[rows],
                    self.distances[rows],
                    spread.rows[rows],
                    norms,
                    centres,
                    spread.zero,
                    margin,
                )

        step = TILE * max(1, _PAIRS_A_JOB // (len(centres) * TILE))
        share = self._share_left(prefixes, tails, norms, margin)
        job = prune if share <= _PRUNE_PAYS else multiply
        self._blocks.each(job, row_blocks(len(spread.rows), step), between)

    def _share_left(
        self, prefixes: FloatArray, tails: FloatArray, norms: FloatArray, margin: np.float32
    ) -> float:
        left = pairs = 0
        few = slice(None, None, _PROBED_CENTRES)
        prefixes, tails, norms = (np.ascontiguousarray(of) for of in (prefixes[few], tails[few], norms[few]))
        for tile in self._probes.tolist():
            part = slice(tile * TILE, min((tile + 1) * TILE, len(self.distances)))
            left += loops.count(
                self._prefixes[tile],
                self._tails[part],
                self._spread.norms[part],
                self.distances[part],
                prefixes,
                tails,
                norms,
                margin,
            )
            pairs += (part.stop - part.start) * len(norms)
        return left / pairs


def _principal_axes(spread: Spread) -> FloatArray:
    """Give the leading axes (P, D) that keep most of the sample's variance; P is padded with rows of zeros."""
    sample = spread.rows[spread.sample].astype(np.float64) - spread.mean
    variances, axes = np.linalg.eigh(sample.T @ sample)
    kept = np.cumsum(variances[::-1]) / max(float(variances.sum()), np.finfo(np.float64).tiny)
    wanted = min(max(int(np.searchsorted(kept, _RETAINED)) + 1, _MIN_PREFIX), _MAX_PREFIX)
    padded = -(-wanted // _UNROLLED) * _UNROLLED
    found = axes.T[::-1][:padded]
    result = np.zeros((padded, sample.shape[1]), dtype=np.float32)
    result[: len(found)] = found
    return result


def _tails(norms: FloatArray, prefix_norms: FloatArray, off: np.float32) -> FloatArray:
    # Never shorter than the true tail: the rotation rounds too.
    tails: FloatArray = np.sqrt(np.maximum(norms - prefix_norms, 0) + off * norms)
    return tails
