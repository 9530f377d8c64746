"""Greedy k-center selection, exact, in rounds.

A row's distance to its nearest centre only falls, so a stale distance is an upper bound. The rows that are
farthest now form a block; greedy runs inside it for as long as its best row is beyond every stale distance
outside, which proves each pick; then all rows are brought up to date with all of these centres at once. How that is
done is the business of a `Cover`.

Source: Gonzalez 1985 (greedy k-center); Roth et al. 2022, "Towards Total Recall in Industrial Anomaly
Detection", Alg. 1. The lazy bound is that of Minoux 1978 (accelerated greedy).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from orchestrator.domain.arrays import FloatArray, IndexArray
from orchestrator.errors import InvalidInput
from orchestrator.patchcore.blocks import Blocks, open_blocks
from orchestrator.patchcore.cover import SELECTED, Cover, PlainCover, Spread, measure_spread
from orchestrator.patchcore.neighbors import nearest_rows

_MIN_BLOCK, _MAX_BLOCK = 256, 2048
# Products below which loading the compiled loops costs more than they save.
_WORTH_COMPILING = 1 << 33
_COVERED_ROWS = 1 << 14


def select_coreset(
    embeddings: FloatArray,
    rate: float,
    *,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    threads: int = 1,
    compiled: bool | None = None,
) -> IndexArray:
    """Pick the rows that cover the set, by greedy k-center selection.

    embeddings: (N, D) float32, of any norm; not copied. rate: 0 < rate <= 1. progress: called with the share done;
    what it raises ends the selection. threads: to compute on; any number gives the same rows. compiled: whether the
    loops that Numba compiles are used, by default where there is enough to do; without Numba they never are.
    Returns (max(1, ceil(rate * N)),) int64 in order of selection, distinct; ties go to the lowest row, and
    the same seed gives the same rows. At rate 1 that is every row, in its own order.

    Raises InvalidInput where N is 0, the rate is out of range or a row is not finite.
    """
    rows = _checked(embeddings)
    if not 0 < rate <= 1:
        raise InvalidInput(f"coreset rate: {rate!r} is out of range; give 0 < rate <= 1")
    count = max(1, math.ceil(len(rows) * rate))
    return k_centers(rows, count, seed=seed, progress=progress, threads=threads, compiled=compiled).selected


@dataclass(frozen=True, slots=True, eq=False)
class KCenters:
    """selected: (K,) int64 rows in order of selection. radius: the farthest row's distance to its nearest of them."""

    selected: IndexArray
    radius: float


def k_centers(
    embeddings: FloatArray,
    count: int,
    *,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    threads: int = 1,
    compiled: bool | None = None,
) -> KCenters:
    """Pick `count` rows, all where there are fewer; otherwise as `select_coreset`.

    Raises InvalidInput where N is 0, the count is below 1 or a row is not finite.
    """
    rows = _checked(embeddings)
    n = len(rows)
    if count < 1:
        raise InvalidInput(f"coreset: {count} rows cannot be picked; give at least 1")
    with open_blocks(threads) as blocks:
        spread = measure_spread(rows, None, blocks)
        if count >= n:
            found = KCenters(np.arange(n, dtype=np.int64), 0.0)
        else:
            greedy = _Greedy(_cover(spread, count, blocks, compiled), count, progress)
            found = greedy.run_from(rows, int(np.random.default_rng(seed).integers(0, n)))
    if progress is not None:
        progress(1.0)
    return found


def extend_coreset(
    centres: FloatArray,
    rows: FloatArray,
    count: int,
    *,
    progress: Callable[[float], None] | None = None,
    threads: int = 1,
    compiled: bool | None = None,
) -> IndexArray:
    """Pick the rows that best go on from centres there already are, by greedy k-center selection.

    centres: (M, D) float32. rows: (N, D) float32. count: 0 <= count <= N. progress, threads, compiled: as of
    `select_coreset`. Returns (count,) int64 places in `rows`, distinct, in order of selection: each is the row
    farthest from all centres and all picks before it, ties to the lowest. Once every row left equals a centre or a
    pick, the lowest of them follow.

    Raises InvalidInput where M or N is 0, dimensions differ, the count is out of range or a row is not finite.
    """
    there, rows = _checked(centres), _checked(rows)
    if there.shape[1] != rows.shape[1]:
        raise InvalidInput(f"coreset: centres of shape {there.shape} do not fit rows of shape {rows.shape}")
    if not 0 <= count <= len(rows):
        raise InvalidInput(f"coreset: {count} rows of {len(rows)} cannot be picked; give 0 to {len(rows)}")
    with open_blocks(threads) as blocks:
        spread = measure_spread(rows, there, blocks)
        selected = np.empty(0, dtype=np.int64)
        if count > 0:
            greedy = _Greedy(_cover(spread, len(there) + count, blocks, compiled), count, progress)
            selected = greedy.run_after(there, rows).selected
    if progress is not None:
        progress(1.0)
    return selected


def cover_radius(embeddings: FloatArray, selected: IndexArray) -> float:
    """Give the largest Euclidean distance of a row to its nearest selected row.

    embeddings: (N, D) float32. selected: (K,) rows of it, K >= 1.

    Raises InvalidInput where either is empty or a row is not finite.
    """
    if len(selected) == 0:
        raise InvalidInput("cover radius: no row is selected; select at least one")
    rows = _checked(embeddings)
    with open_blocks(1) as blocks:
        spread = measure_spread(rows, None, blocks)
    # Around the mean, so that products of rows far from 0 keep the small differences.
    centres = rows[selected] - spread.mean
    norms = np.einsum("kd,kd->k", centres, centres)
    farthest = 0.0
    for low in range(0, len(rows), _COVERED_ROWS):
        squared, _ = nearest_rows(rows[low : low + _COVERED_ROWS] - spread.mean, centres, norms)
        farthest = max(farthest, float(squared.max()))
    return math.sqrt(farthest)


def _checked(embeddings: FloatArray) -> FloatArray:
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise InvalidInput(f"coreset: embeddings of shape {embeddings.shape} are not (N, D) with N, D >= 1")
    return np.ascontiguousarray(embeddings, dtype=np.float32)


def _cover(spread: Spread, centres: int, blocks: Blocks, compiled: bool | None) -> Cover:
    n, dim = spread.rows.shape
    if compiled if compiled is not None else n * centres * dim >= _WORTH_COMPILING:
        try:
            # Only here: importing Numba costs more than a small selection.
            from orchestrator.patchcore.pruned import PrunedCover
        except ImportError:
            return PlainCover(spread, blocks)
        return PrunedCover(spread, blocks)
    return PlainCover(spread, blocks)


class _Greedy:
    """One selection over a cover."""

    def __init__(self, cover: Cover, count: int, progress: Callable[[float], None] | None) -> None:
        self.cover = cover
        self.selected = np.empty(count, dtype=np.int64)
        self.done = 0
        self.progress = progress

    def run_from(self, rows: FloatArray, first: int) -> KCenters:
        self.selected[0] = first
        self._cover_with(rows, self.selected[:1])
        return self._run(rows)

    def run_after(self, centres: FloatArray, rows: FloatArray) -> KCenters:
        self.cover.add(centres, self._report)
        return self._run(rows)

    def _run(self, rows: FloatArray) -> KCenters:
        count = len(self.selected)
        distances = self.cover.distances
        size = _MIN_BLOCK
        while self.done < count:
            if float(distances.max()) <= 0:
                self._fill_with_duplicates()
                break
            block, bound = _farthest(distances, size)
            picks = block[self.cover.pick(block, bound, count - self.done)]
            self.selected[self.done : self.done + len(picks)] = picks
            self._cover_with(rows, picks)
            size = _next_size(size, len(picks))
        return KCenters(self.selected, math.sqrt(max(0.0, float(distances.max()))))

    def _cover_with(self, rows: FloatArray, picks: IndexArray) -> None:
        self.cover.add(rows[picks], self._report)
        self.done += len(picks)
        self.cover.distances[self.selected[: self.done]] = SELECTED
        self._report()

    def _report(self) -> None:
        if self.progress is not None:
            self.progress(self.done / len(self.selected))

    def _fill_with_duplicates(self) -> None:
        rest = np.flatnonzero(self.cover.distances > SELECTED)
        self.selected[self.done :] = rest[: len(self.selected) - self.done]
        self.done = len(self.selected)


def _farthest(distances: FloatArray, size: int) -> tuple[IndexArray, np.float32]:
    n = len(distances)
    if size >= n:
        return np.arange(n, dtype=np.int64), SELECTED
    order = np.argpartition(distances, n - size - 1)
    # With argmax the first pick is the lowest of equals, whichever of them the partition took.
    block = np.union1d(order[n - size :], [distances.argmax()])
    return block, distances[order[n - size - 1]]


def _next_size(size: int, picked: int) -> int:
    # The block itself costs size for each of `picked`, beside n: a block mostly picked is too small.
    if picked > size // 4:
        return min(_MAX_BLOCK, size * 2)
    return max(_MIN_BLOCK, size // 2) if picked < size // 32 else size
