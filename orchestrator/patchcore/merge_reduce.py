"""A coreset of more rows than fit in memory: centres of chunks first, then centres of those centres.

Not the same rows as greedy over everything, but within a constant of the best cover there is. Nothing chooses it by
itself: `coreset.py` is exact and holds all rows.

Source: Guha et al. 2003, "Clustering Data Streams"; Malkomes et al. 2015, "Fast Distributed k-Center Clustering".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from orchestrator.domain.arrays import FloatArray, IndexArray
from orchestrator.errors import InvalidInput
from orchestrator.patchcore.blocks import one_blas_thread
from orchestrator.patchcore.coreset import k_centers


@dataclass(frozen=True, slots=True, eq=False)
class MergedCoreset:
    """selected: (K,) int64 rows, counted through all chunks. radius_bound: no row is farther from its nearest."""

    selected: IndexArray
    radius_bound: float


def merge_reduce_coreset(
    chunks: FloatArray | Sequence[FloatArray],
    count: int,
    *,
    chunk_rows: int = 1 << 16,
    kept_per_chunk: int | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    threads: int = 1,
) -> MergedCoreset:
    """Pick `count` rows that cover all chunks, with one chunk and the centres of all chunks in memory.

    chunks: (n, D) arrays, each read once, or one (N, D) array, memory-mapped say, that is cut into chunk_rows each.
    count: K >= 1; all rows where there are fewer. kept_per_chunk: centres of a chunk, K by default. progress: called
    with the share of chunks done; what it raises ends the selection. threads: any number gives the same rows.

    How well it covers: a row is within r_i of its chunk's centres and those are within r of the selected, so by the
    triangle inequality every row is within max r_i + r, which is `radius_bound`, whatever kept_per_chunk is. With K
    centres a chunk, and be R the radius of the best K centres of all rows, that is at most 4 R: were a greedy radius
    above 2 R, its K centres and the farthest row would be K + 1 rows with more than 2 R between any two, but two of
    them share one of the best centres and lie within 2 R. So r_i <= 2 R, and r <= 2 R because the centres are rows
    too. (Greedy over everything is within 2 R by the same argument.) With fewer centres a chunk the 4 is lost.

    Raises InvalidInput where there are no rows, dimensions differ, a number is below 1 or a row is not finite.
    """
    kept = count if kept_per_chunk is None else kept_per_chunk
    if min(count, kept, chunk_rows) < 1:
        raise InvalidInput("coreset: count, chunk_rows and kept_per_chunk must be at least 1")
    parts = _cut(chunks, chunk_rows) if isinstance(chunks, np.ndarray) else chunks
    if len(parts) == 0:
        raise InvalidInput("coreset: there are no chunks; give at least one row")
    # Held throughout, so that it isn't set anew for every chunk.
    with one_blas_thread():
        return _merge(parts, count, kept, seed, progress, threads)


def _merge(
    parts: Sequence[FloatArray],
    count: int,
    kept: int,
    seed: int,
    progress: Callable[[float], None] | None,
    threads: int,
) -> MergedCoreset:
    def report(share: float, done: int) -> None:
        if progress is not None:
            progress((done + share) / (len(parts) + 1))

    centres: list[FloatArray] = []
    places: list[IndexArray] = []
    before, farthest = 0, 0.0
    for number, part in enumerate(parts):
        rows: FloatArray = np.ascontiguousarray(part, dtype=np.float32)
        if centres and rows.ndim == 2 and rows.shape[1] != centres[0].shape[1]:
            raise InvalidInput(
                f"coreset: a chunk of shape {rows.shape} does not fit (n, {centres[0].shape[1]})"
            )
        found = k_centers(rows, kept, seed=seed, progress=partial(report, done=number), threads=threads)
        centres.append(rows[found.selected])
        places.append(before + found.selected)
        before += len(rows)
        farthest = max(farthest, found.radius)
    merged = np.concatenate(centres)
    centres.clear()
    reduced = k_centers(merged, count, seed=seed, progress=partial(report, done=len(parts)), threads=threads)
    return MergedCoreset(np.concatenate(places)[reduced.selected], farthest + reduced.radius)


def _cut(rows: FloatArray, step: int) -> Sequence[FloatArray]:
    return [rows[low : low + step] for low in range(0, len(rows), step)]
