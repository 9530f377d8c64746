"""How far every row is from its nearest centre, kept while centres are added.

`Cover` is what greedy selection needs; `PlainCover` does it in NumPy and is the reference, `PrunedCover` in
`pruned.py` skips most of the work. Both give a distance as the sum of squared differences: matrix products only say
which pairs are worth it, so that rows far from 0 and close together lose nothing to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from orchestrator.domain.arrays import FloatArray, IndexArray
from orchestrator.errors import InvalidInput
from orchestrator.patchcore.blocks import Blocks, row_blocks

Between: TypeAlias = Callable[[], None]

SELECTED = np.float32(-1.0)
"""The distance of a row that is itself a centre."""
# Squared distances below this share of the largest squared norm are rounding: those rows are duplicates.
_DUPLICATE = 2e-6
_SAMPLE = 4096
_NORM_BLOCK = 4096
_SCRATCH_FLOATS = 1 << 20
_PAIRS = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """Rows and how they lie. mean: (D,) of a seeded sample. norms: (N,) squared distances to it.

    sample: (S,) places of the sampled rows. zero: squared distances up to here are duplicates.
    """

    rows: FloatArray
    mean: FloatArray
    norms: FloatArray
    sample: IndexArray
    zero: np.float32


class Cover(Protocol):
    """Squared distances (N,) float32 of the rows to their nearest centre, inf before the first centre."""

    distances: FloatArray

    def add(self, centres: FloatArray, between: Between) -> None:
        """Add centres (B, D); `between` is called now and then and may raise."""
        ...

    def pick(self, block: IndexArray, bound: np.float32, limit: int) -> IndexArray:
        """Run greedy selection inside a block for as long as its best row is beyond `bound`.

        Returns places in the block, at most `limit`; at least one where a row is not covered. The cover is not changed.
        """
        ...


def rounding(dim: int) -> np.float32:
    """Give more than float32 products and rotations are off, as a share of the largest squared norm.

    A sum of D products is off by up to D roundings of 2^-24 each; there are two, the rotation's and the product's.
    """
    return np.float32(max(5e-5, 2 * dim * 2.0**-24))


def measure_spread(rows: FloatArray, others: FloatArray | None, blocks: Blocks) -> Spread:
    """Check the rows, and other centres where there are some, and see how they lie.

    Raises InvalidInput where a row is not finite or so long that its square is not.
    """
    places = np.sort(np.random.default_rng(0).integers(0, len(rows), min(len(rows), _SAMPLE)))
    with np.errstate(over="ignore", invalid="ignore"):
        mean = rows[places].mean(axis=0, dtype=np.float64).astype(np.float32)
        norms = squared_norms(rows, mean, blocks)
        lengths = [float(mean @ mean), float(norms.max())]
        if others is not None:
            lengths.append(float(squared_norms(others, mean, blocks).max()))
    if not np.isfinite(lengths).all():
        raise InvalidInput("coreset: every embedding must be finite")
    return Spread(rows, mean, norms, places, np.float32(_DUPLICATE * max(lengths[1:])))


def squared_norms(rows: FloatArray, origin: FloatArray, blocks: Blocks) -> FloatArray:
    """Give the rows' squared distances (N,) float32 to one point, without a copy of the rows."""
    norms = np.empty(len(rows), dtype=np.float32)

    def fill(part: slice) -> None:
        # NumPy keeps the floating-point state per thread.
        with np.errstate(over="ignore", invalid="ignore"):
            moved = rows[part] - origin
            norms[part] = np.einsum("nd,nd->n", moved, moved)

    blocks.each(fill, row_blocks(len(rows), _NORM_BLOCK))
    return norms


class PlainCover:
    """In NumPy: one matrix product a block, then the differences of the pairs that it does not exclude."""

    def __init__(self, spread: Spread, blocks: Blocks) -> None:
        self.distances: FloatArray = np.full(len(spread.rows), np.inf, dtype=np.float32)
        self._rows = spread.rows
        self._zero = spread.zero
        self._rounding = rounding(spread.rows.shape[1])
        self._blocks = blocks
        # A row as the origin, not the mean: whole numbers stay whole, and equal distances equal.
        self._origin = spread.rows[int(np.argmin(spread.norms))]
        self._norms = squared_norms(spread.rows, self._origin, blocks)

    def add(self, centres: FloatArray, between: Between) -> None:
        moved = centres - self._origin
        half_norms = np.einsum("bd,bd->b", moved, moved) / 2
        margin = self._rounding * max(self._norms.max(), 2 * half_norms.max())

        def update(part: slice) -> None:
            rows, norms, distances = self._rows[part], self._norms[part], self.distances[part]

            def settle(row: IndexArray, centre: IndexArray) -> None:
                for low in range(0, len(row), _PAIRS):
                    few = row[low : low + _PAIRS]
                    # A fancy index copies: (len(few), D).
                    difference = rows[few]
                    difference -= centres[centre[low : low + _PAIRS]]
                    np.minimum.at(distances, few, _sums_of_squares(difference, self._zero))

            products = (rows - self._origin) @ moved.T
            products -= half_norms
            # The centre that looks nearest first: it leaves few others to try.
            each, nearest = np.arange(len(rows)), products.argmax(axis=1)
            closer = products[each, nearest] > (norms - distances - margin) / 2
            settle(each[closer], nearest[closer])
            products[each, nearest] = -np.inf
            settle(*np.nonzero(products > ((norms - distances - margin) / 2)[:, None]))

        step = min(2048, max(64, _SCRATCH_FLOATS // len(centres)))
        self._blocks.each(update, row_blocks(len(self._rows), step), between)

    def pick(self, block: IndexArray, bound: np.float32, limit: int) -> IndexArray:
        rows, norms, distances = self._rows[block], self._norms[block], self.distances[block]
        moved = rows - self._origin
        products = moved @ moved.T
        margin = self._rounding * norms.max()
        picks: list[int] = []
        while len(picks) < limit:
            best = int(distances.argmax())
            # A row outside that is as far as the best one may have a lower index: the next round decides.
            if distances[best] <= 0 or (picks and distances[best] <= bound):
                break
            picks.append(best)
            bounds = norms - 2 * products[best] + (norms[best] - margin)
            closer = np.flatnonzero(bounds < distances)
            squared = _sums_of_squares(rows[closer] - rows[best], self._zero)
            distances[closer] = np.minimum(distances[closer], squared)
            distances[best] = SELECTED
        return np.array(picks, dtype=np.int64)


def _sums_of_squares(difference: FloatArray, zero: np.float32) -> FloatArray:
    squared: FloatArray = np.einsum("nd,nd->n", difference, difference)
    squared[squared <= zero] = 0
    return squared
