"""A bank that changes by what is new: 50 photographs added to one of 10,000 rows, and one photograph taken out.

Peer: our own selection among all rows anew, on as many threads. Floor of an addition: the bare matrix product of the
new rows with the bank, by as many threads too. The cover radius of either way, over all rows, is a row of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from orchestrator.domain.arrays import FloatArray
from orchestrator.domain.bank import BankMetadata, BankRecord
from orchestrator.domain.letterbox import Letterbox
from orchestrator.patchcore.memory_bank import MemoryBank, l2_normalise
from orchestrator.patchcore.neighbors import nearest
from orchestrator.services.banks import LoadedBank
from orchestrator.services.cover import Work, extended, without
from orchestrator.services.embed import Embedded
from orchestrator.services.folds import build_memory
from orchestrator.services.score import Scoring
from tests.benchmarks.photographs import real_data, real_set, sets_present
from tests.benchmarks.rows import Figures, Row, Shape
from tests.benchmarks.servers import Plan
from tests.reference import clustered

T = TypeVar("T")
RATE = 0.1
GRID = (32, 32)
DIM = 384
_SUITE = "incremental"
_BLOCK = 1024


def run(plan: Plan, *, held: int = 98, added: int = 50, grid: tuple[int, int] = GRID) -> list[Row]:
    """Measure. held, added: photographs, of `grid` tokens each where they are synthetic."""
    real = _real(plan, held + added)
    kind: Literal["real", "synthetic"] = "real" if real else "synthetic"
    photographs = real or _drawn(held + added, grid)
    old, new = photographs[:held], photographs[held:]
    with threadpool_limits(plan.threads, user_api="blas"):
        return [
            *_addition(plan, old, new, kind),
            *_removal(plan, old, kind),
        ]


def _addition(
    plan: Plan, old: Sequence[Embedded], new: Sequence[Embedded], kind: Literal["real", "synthetic"]
) -> list[Row]:
    bank, everything = _fitted(old, plan.threads), [*old, *new]
    fresh, centres = _stack(new), bank.search.memory.embeddings
    case = f"{len(new)} photographs into {len(centres)} rows"
    shape = Shape(n=len(fresh), d=fresh.shape[1], k=len(centres), tokens=kind, seeds=(0,))
    timed = Figures(_SUITE, case, "s", "lower", 1, plan.threads, peer="selection among all anew", shape=shape)
    added, grown, anew = {e.sha256: e for e in new}, bank, bank
    for _ in range(plan.repeats):
        ours, grown = _timed(lambda: _loaded(extended(bank, added, {}, Work(threads=plan.threads))))
        theirs, anew = _timed(lambda: _fitted(everything, plan.threads))
        floor = _timed(lambda: _products(fresh, centres))[0]
        timed.add(ours, theirs, floor=floor)
    timed.notes = (
        f"bank of {len(old)} photographs at rate {RATE}; floor: bare products, {_BLOCK} rows a block"
    )
    return [timed.row(), _radii(f"cover radius, {case}", everything, grown, anew, shape, plan)]


def _removal(plan: Plan, held: Sequence[Embedded], kind: Literal["real", "synthetic"]) -> list[Row]:
    bank = _fitted(held, plan.threads)
    owners = np.bincount(bank.record.row_sample, minlength=len(held))
    # The one that a bank misses most visibly where holes are not filled: it holds the median of rows.
    place = int(np.argsort(owners)[len(held) // 2])
    others: Mapping[str, Embedded] = {e.sha256: e for i, e in enumerate(held) if i != place}
    left = list(others.values())
    case = f"1 photograph out of {len(bank.record.embeddings)} rows"
    n = sum(int(e.patches.sum()) for e in left)
    shape = Shape(n=n, d=held[0].tokens.shape[1], k=len(bank.record.embeddings), tokens=kind, seeds=(0,))
    timed = Figures(_SUITE, case, "s", "lower", 1, plan.threads, peer="selection among all anew", shape=shape)
    less, anew = bank, bank
    for _ in range(plan.repeats):
        ours, less = _timed(
            lambda: _loaded(without(bank, held[place].sha256, others, Work(threads=plan.threads)))
        )
        theirs, anew = _timed(lambda: _fitted(left, plan.threads))
        timed.add(ours, theirs)
    return [timed.row(), _radii(f"cover radius, {case}", left, less, anew, shape, plan)]


def _radii(
    case: str, photographs: Sequence[Embedded], ours: LoadedBank, anew: LoadedBank, shape: Shape, plan: Plan
) -> Row:
    rows = _stack(photographs)
    figures = Figures(
        _SUITE, case, "distance", "lower", 1, plan.threads, peer="selection among all anew", shape=shape
    )
    figures.add(*(float(nearest(rows, bank.search.memory)[0].max()) for bank in (ours, anew)))
    return figures.row()


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def _products(rows: FloatArray, centres: FloatArray) -> FloatArray:
    scratch = np.empty((_BLOCK, len(centres)), dtype=np.float32)
    for low in range(0, len(rows), _BLOCK):
        block = rows[low : low + _BLOCK]
        np.matmul(block, centres.T, out=scratch[: len(block)])
    return scratch


def _real(plan: Plan, count: int) -> list[Embedded] | None:
    data = real_data(plan)
    for name in sets_present(data) if data is not None else ():
        good = real_set(plan, name).good
        if len(good) >= count:
            return good[:count]
    return None


def _drawn(count: int, grid: tuple[int, int]) -> list[Embedded]:
    size = grid[0] * 14, grid[1] * 14
    box, patches = Letterbox.fit(size, size), np.ones(grid, dtype=np.bool_)
    rows = clustered(count * grid[0] * grid[1], DIM, 200, seed=0)
    tokens = rows.astype(np.float16).reshape(count, grid[0] * grid[1], -1)
    mask = np.ones(size, dtype=np.bool_)
    return [Embedded(t, box, mask, patches, f"{i:064d}") for i, t in enumerate(tokens)]


def _stack(photographs: Sequence[Embedded]) -> FloatArray:
    return l2_normalise(np.concatenate([e.rows for e in photographs]))


def _fitted(photographs: Sequence[Embedded], threads: int) -> LoadedBank:
    memory, kept, n = build_memory(photographs, RATE, threads=threads)
    counts = [int(e.patches.sum()) for e in photographs]
    sample_of = np.repeat(np.arange(len(photographs)), counts)
    patch_of = np.concatenate([np.flatnonzero(e.patches) for e in photographs])
    metadata = BankMetadata(
        generation=1,
        backbone="bench",
        backbone_version=1,
        fingerprint="0" * 64,
        n_embeddings=n,
        coreset_rate_requested=RATE,
        coreset_rate_applied=RATE,
        mm_per_px=None,
        fit_started_at=None,
        fit_duration_s=0.0,
        sample_sha256=tuple(e.sha256 for e in photographs),
    )
    rows = memory.embeddings.astype(np.float16)
    return _loaded(BankRecord(rows, memory.grid, metadata, sample_of[kept], patch_of[kept]))


def _loaded(record: BankRecord) -> LoadedBank:
    memory = MemoryBank(l2_normalise(record.embeddings), record.grid)
    return LoadedBank(record, Scoring("euclidean", 1.0).search(memory))
