"""Greedy k-center selection, exact, as blocks of matrix products.

A row's distance to its nearest centre only falls, so a stale distance is an upper bound. The rows that are
farthest now form a block; greedy runs inside it for as long as its best row is beyond every stale distance
outside, which proves each pick; one matrix product then brings all rows up to date with all of these centres.

Source: Gonzalez 1985 (greedy k-center); Roth et al. 2022, "Towards Total Recall in Industrial Anomaly
Detection", Alg. 1. The lazy bound is that of Minoux 1978 (accelerated greedy).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from orchestrator.domain.arrays import FloatArray, IndexArray
from orchestrator.errors import InvalidInput
from orchestrator.patchcore.neighbors import nearest_rows

# Squared distances below this share of the largest squared norm are rounding: those rows are duplicates.
_DUPLICATE = 2e-6
_FAR_MEAN = 0.9
_SELECTED = np.float32(-1.0)
_MIN_BLOCK, _MAX_BLOCK = 256, 2048
_SCRATCH_FLOATS = 1 << 20


def select_coreset(
    embeddings: FloatArray,
    rate: float,
    *,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> IndexArray:
    """Pick the rows that cover the set, by greedy k-center selection.

    embeddings: (N, D) float32, of any norm. rate: 0 < rate <= 1. progress: called with the share done.
    Returns (max(1, ceil(rate * N)),) int64 in order of selection, distinct; ties go to the lowest row, and
    the same seed gives the same rows. At rate 1 that is every row, in its own order.

    Raises InvalidInput where N is 0, the rate is out of range or a row is not finite.
    """
    rows, norms = _centred(embeddings)
    n = len(rows)
    if not 0 < rate <= 1:
        raise InvalidInput(f"coreset rate: {rate!r} is out of range; give 0 < rate <= 1")
    count = min(n, max(1, math.ceil(n * rate)))
    if count == n:
        selected = np.arange(n, dtype=np.int64)
    else:
        selected = _Greedy(rows, norms, count, progress).run(int(np.random.default_rng(seed).integers(0, n)))
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
    rows, norms = _centred(embeddings)
    squared, _ = nearest_rows(rows, rows[selected], norms[selected])
    return math.sqrt(float(squared.max()))


def _centred(embeddings: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Check the rows and give them with their squared norms, moved to 0 where they lie far from it."""
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise InvalidInput(f"coreset: embeddings of shape {embeddings.shape} are not (N, D) with N, D >= 1")
    norms = np.einsum("nd,nd->n", embeddings, embeddings)
    if not np.isfinite(norms).all():
        raise InvalidInput("coreset: every embedding must be finite")
    mean = embeddings.mean(axis=0)
    if float(mean @ mean) <= _FAR_MEAN * float(norms.mean()):
        return embeddings, norms
    # |x|^2 - 2 x.y + |y|^2 would lose the small differences between long, nearly parallel rows. The new
    # origin is a row, not the mean, so that whole numbers stay whole and equal distances equal.
    rows = embeddings - embeddings[int(np.argmin(norms - 2 * (embeddings @ mean)))]
    return rows, np.einsum("nd,nd->n", rows, rows)


class _Greedy:
    """The state of one selection: every row's squared distance to its nearest centre, -1 once selected."""

    def __init__(
        self, rows: FloatArray, norms: FloatArray, count: int, progress: Callable[[float], None] | None
    ) -> None:
        self.rows = rows
        self.norms = norms
        self.zero = np.float32(_DUPLICATE * float(norms.max()))
        self.distances = np.full(len(rows), np.inf, dtype=np.float32)
        self.selected = np.empty(count, dtype=np.int64)
        self.done = 0
        self.progress = progress

    def run(self, first: int) -> IndexArray:
        self._add(np.array([first], dtype=np.int64))
        return self.extend()

    def extend(self) -> IndexArray:
        count = len(self.selected)
        size = _MIN_BLOCK
        while self.done < count:
            if float(self.distances.max()) <= 0:
                self._fill_with_duplicates()
                break
            block, bound = self._farthest(size)
            picks = self._pick(block, bound)
            self._add(block[picks])
            size = _next_size(size, len(picks))
            if self.progress is not None:
                self.progress(self.done / count)
        return self.selected

    def _farthest(self, size: int) -> tuple[IndexArray, np.float32]:
        n = len(self.rows)
        if size >= n:
            return np.arange(n, dtype=np.int64), _SELECTED
        order = np.argpartition(self.distances, n - size - 1)
        # With argmax the first pick is the lowest of equals, whichever of them the partition took.
        block = np.union1d(order[n - size :], [self.distances.argmax()])
        return block, self.distances[order[n - size - 1]]

    def _pick(self, block: IndexArray, bound: np.float32) -> list[int]:
        rows, norms, distances = self.rows[block], self.norms[block], self.distances[block]
        products = rows @ rows.T
        picks: list[int] = []
        while self.done + len(picks) < len(self.selected):
            best = int(distances.argmax())
            value = distances[best]
            # A row outside that is as far as the best one may have a lower index: the next round decides.
            if value <= 0 or (picks and value <= bound):
                break
            picks.append(best)
            to_best = norms - 2 * products[best] + norms[best]
            to_best[to_best <= self.zero] = 0
            np.minimum(distances, to_best, out=distances)
            distances[best] = _SELECTED
        return picks

    def _add(self, centres: IndexArray) -> None:
        self.selected[self.done : self.done + len(centres)] = centres
        self.done += len(centres)
        vectors = self.rows[centres]
        half_norms = (self.norms[centres] / 2)[:, None]
        step = max(1, _SCRATCH_FLOATS // len(centres))
        scratch = np.empty(len(centres) * min(step, len(self.rows)), dtype=np.float32)
        for low in range(0, len(self.rows), step):
            part = slice(low, min(low + step, len(self.rows)))
            products = scratch[: len(centres) * (part.stop - low)].reshape(len(centres), -1)
            np.matmul(vectors, self.rows[part].T, out=products)
            products -= half_norms
            nearest = self.norms[part] - 2 * products.max(axis=0)
            nearest[nearest <= self.zero] = 0
            np.minimum(self.distances[part], nearest, out=self.distances[part])
        self.distances[self.selected[: self.done]] = _SELECTED

    def _fill_with_duplicates(self) -> None:
        rest = np.flatnonzero(self.distances > _SELECTED)
        self.selected[self.done :] = rest[: len(self.selected) - self.done]
        self.done = len(self.selected)


def _next_size(size: int, picked: int) -> int:
    # The block's own product costs size^2 for `picked` rows of n each: a block mostly picked is too small.
    if picked > size // 4:
        return min(_MAX_BLOCK, size * 2)
    return max(_MIN_BLOCK, size // 2) if picked < size // 32 else size


def extend_coreset(
    centres: FloatArray,
    rows: FloatArray,
    count: int,
    *,
    progress: Callable[[float], None] | None = None,
    threads: int = 1,
) -> IndexArray:
    """Pick the rows that cover the set best beside centres that are given, by greedy k-center selection.

    centres: (M, D) float32, M >= 1. rows: (N, D) float32. count: 0 <= count <= N. progress: called with the share
    done. threads: at most this many work at once; they change no result.
    Returns (count,) int64 places in rows, distinct, in order of selection; ties go to the lowest row.

    Raises InvalidInput where an array is empty or not finite, the dimensions differ, or the count is out of range.
    """
    if centres.ndim != 2 or rows.ndim != 2 or 0 in centres.shape or centres.shape[1] != rows.shape[1]:
        raise InvalidInput(
            f"coreset: centres {centres.shape} and rows {rows.shape} are not (M, D) and (N, D)"
        )
    if not 0 <= count <= len(rows):
        raise InvalidInput(f"coreset: cannot pick {count} of {len(rows)} rows")
    if count == 0:
        return np.empty(0, dtype=np.int64)
    # Moved together, so that distances between the two stay what they are.
    both, norms = _centred(np.concatenate([centres, rows]))
    m = len(centres)
    greedy = _Greedy(both[m:], norms[m:], count, progress)

    def bring_up_to_date(part: slice) -> None:
        squared, _ = nearest_rows(greedy.rows[part], both[:m], norms[:m])
        squared[squared <= greedy.zero] = 0
        greedy.distances[part] = squared

    step = math.ceil(len(rows) / threads)
    with ThreadPoolExecutor(threads) as workers:
        list(workers.map(bring_up_to_date, (slice(low, low + step) for low in range(0, len(rows), step))))
    selected = greedy.extend()
    if progress is not None:
        progress(1.0)
    return selected
