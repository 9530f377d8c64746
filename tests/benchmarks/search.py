"""Nearest-neighbour search: against a bare matrix product of the same shape, FAISS, and the index for large banks.

The floor is one `np.matmul` of queries and rows, into memory that is there already: the least that any search without
bounds has to compute. Everything runs on one thread, as a request does, but for the case that says otherwise.
"""

from __future__ import annotations

import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from orchestrator.domain.arrays import FloatArray
from orchestrator.patchcore.inverted_file import InvertedFileSearch, build_inverted_file
from orchestrator.patchcore.memory_bank import MemoryBank, l2_normalise
from orchestrator.patchcore.neighbors import nearest_k
from orchestrator.patchcore.search import ExactSearch
from tests.benchmarks.photographs import real_data, real_rows
from tests.benchmarks.rows import Figures, Row, Shape
from tests.benchmarks.servers import Plan

SUITE = "search"
FLAT = "faiss IndexFlatL2"
Tokens = Literal["real", "synthetic"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is measured. banks: rows of the exact and the indexed search. large, requests: of the scratch case."""

    queries: int = 1024
    rows: int = 10_000
    dim: int = 384
    banks: tuple[int, ...] = (1000, 5000, 10_000, 20_000, 50_000, 90_000)
    large: int = 100_000
    requests: int = 16
    samples: int = 5


def run(plan: Plan, sizes: Sizes | None = None) -> list[Row]:
    """Measure. Without photographs, or at sizes of one's own, on synthetic rows alone."""
    chosen = sizes or Sizes()
    drawn = _synthetic(chosen.queries + max(chosen.rows, *chosen.banks), chosen.dim)
    sources: dict[Tokens, FloatArray] = {"synthetic": drawn}
    if sizes is None and real_data(plan) is not None:
        sources["real"] = real_rows(plan, chosen.queries + max(chosen.banks))
    rows = []
    with _one_thread():
        for tokens, source in sources.items():
            rows += _against_the_product(plan, chosen, source, tokens)
        tokens = "real" if "real" in sources else "synthetic"
        for count in chosen.banks:
            rows += _through_the_index(plan, chosen, sources[tokens], tokens, count)
    return [*rows, _scratch(plan, chosen)]


def _synthetic(n: int, dim: int) -> FloatArray:
    # Alike in every direction: nothing can be pruned, which no photographs are.
    return l2_normalise(np.random.default_rng(0).standard_normal((n, dim), dtype=np.float32))


def _against_the_product(plan: Plan, sizes: Sizes, source: FloatArray, tokens: Tokens) -> list[Row]:
    queries, bank = _split(source, sizes, sizes.rows)
    search, flat = ExactSearch(bank, "euclidean"), _flat(bank)
    products = np.empty((len(queries), sizes.rows), dtype=np.float32)
    transposed = bank.embeddings.T

    def floor() -> object:
        return np.matmul(queries, transposed, out=products)

    def figures(case: str, k: int, notes: str) -> Figures:
        shape = Shape(n=sizes.rows, d=sizes.dim, k=k, tokens=tokens, seeds=(0,))
        return Figures(SUITE, case, "ms", "lower", sizes.samples, 1, notes, FLAT, shape)

    floor_note = "floor: one np.matmul of the whole shape, 1 thread; "
    cases = []
    for k, name in ((1, "1-NN"), (9, "9-NN")):
        whole = figures(
            f"{name} of {sizes.rows} rows, {tokens}", k, floor_note + "with a projection where it pays"
        )
        plain = figures(
            f"{name} of {sizes.rows} rows, {tokens}, every product", k, floor_note + "no projection"
        )
        for _ in range(plan.repeats):
            ours, products_only, theirs, least = _interleaved(
                sizes.samples,
                lambda: search.nearest_k(queries, k),  # noqa: B023 - called before k changes
                lambda: nearest_k(queries, bank, k),  # noqa: B023
                lambda: flat.search(queries, k),  # noqa: B023
                floor,
            )
            whole.add(ours, theirs, floor=least)
            plain.add(products_only, theirs, floor=least)
        cases += [whole.row(), plain.row()]
    return [*cases, _two_requests(plan, sizes, queries, search, floor, tokens)]


def _two_requests(
    plan: Plan,
    sizes: Sizes,
    queries: FloatArray,
    search: ExactSearch,
    floor: Callable[[], object],
    tokens: Tokens,
) -> Row:
    shape = Shape(n=sizes.rows, d=sizes.dim, k=1, tokens=tokens, seeds=(0,))
    notes = "floor: two matrix products of the shape, one after the other, on 2 threads"
    case = f"two 1-NN requests at once, {sizes.rows} rows, {tokens}"
    figures = Figures(SUITE, case, "ms", "lower", sizes.samples, 2, notes, shape=shape)

    def both() -> None:
        _at_once(2, lambda: search.nearest(queries))

    def two_products() -> None:
        floor()
        floor()

    for _ in range(plan.repeats):
        both()
        ours, least = list[float](), list[float]()
        for _ in range(sizes.samples):
            ours.append(_clocked(both))
            # Setting a limit costs as much as a small product: outside the clock, and the first product with it.
            with threadpool_limits(2, user_api="blas"):
                floor()
                least.append(_clocked(two_products))
        figures.add(statistics.median(ours), floor=statistics.median(least))
    return figures.row()


def _through_the_index(plan: Plan, sizes: Sizes, source: FloatArray, tokens: Tokens, count: int) -> list[Row]:
    queries, bank = _split(source, sizes, count)
    exact, flat = ExactSearch(bank, "euclidean"), _flat(bank)
    started = time.perf_counter()
    index = build_inverted_file(bank)
    built_s = time.perf_counter() - started
    approximate = InvertedFileSearch(bank, index, "euclidean")
    shape = Shape(n=count, d=sizes.dim, k=1, tokens=tokens, seeds=(0,))

    def figures(case: str, peer: str | None, notes: str = "", unit: str = "ms") -> Figures:
        better: Literal["higher", "lower"] = "lower" if unit == "ms" else "higher"
        return Figures(SUITE, case, unit, better, sizes.samples, 1, notes, peer, shape)

    notes = (
        f"nlist {index.nlist}, nprobe {index.nprobe}, built in {built_s:.1f} s, {len(index.data) >> 20} MiB"
    )
    whole = figures(f"exact 1-NN, {count} rows", FLAT)
    part = figures(f"1-NN through the index, {count} rows", "our exact search", notes)
    for _ in range(plan.repeats):
        ours, theirs, indexed = _interleaved(
            sizes.samples,
            lambda: exact.nearest(queries),
            lambda: flat.search(queries, 1),
            lambda: approximate.nearest(queries),
        )
        whole.add(ours, theirs)
        part.add(indexed, ours)
    (distances, found), (least, nearest) = approximate.nearest(queries), exact.nearest(queries)
    excess = float(np.mean(distances / np.maximum(least, 1e-9))) - 1
    recall = figures(
        f"recall@1 through the index, {count} rows", None, f"distances {excess:.3%} too large", "share"
    )
    recall.add(float((found == nearest).mean()))
    return [whole.row(), part.row(), recall.row()]


def _scratch(plan: Plan, sizes: Sizes) -> Row:
    case = f"scratch of {sizes.requests} searches at once, {sizes.large} rows"
    shape = Shape(n=sizes.large, d=sizes.dim, k=1, tokens="synthetic", seeds=(0,))
    notes = "growth of the process's peak resident memory, the BLAS's own buffers and the stacks included"
    figures = Figures(SUITE, case, "MB", "lower", sizes.requests, sizes.requests, notes, shape=shape)
    for _ in range(plan.repeats):
        # A process of its own: memory that an earlier case gave back would hide what this one takes.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            figures.add(pool.apply(_peak_growth_mb, (sizes,)))
    return figures.row()


def _peak_growth_mb(sizes: Sizes) -> float:
    with _one_thread():
        queries, bank = _split(_synthetic(sizes.queries + sizes.large, sizes.dim), sizes, sizes.large)
        search = ExactSearch(bank, "euclidean")
        search.nearest(queries[:1])
        # Sets the peak back to what is resident now.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = _status_kb("VmHWM")
        _at_once(sizes.requests, lambda: search.nearest(queries))
        return (_status_kb("VmHWM") - before) * 1024 / 1e6


def _status_kb(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _split(source: FloatArray, sizes: Sizes, rows: int) -> tuple[FloatArray, MemoryBank]:
    bank = np.ascontiguousarray(source[:rows])
    return np.ascontiguousarray(source[-sizes.queries :]), MemoryBank(bank, (1, 1))


def _flat(bank: MemoryBank) -> faiss.IndexFlatL2:
    index = faiss.IndexFlatL2(bank.embeddings.shape[1])
    index.add(bank.embeddings)
    return index


def _interleaved(samples: int, *functions: Callable[[], object]) -> list[float]:
    """Give the median time of each, in ms: all of them saw the same neighbours on the machine."""
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(samples):
        for function, measured in zip(functions, times, strict=True):
            measured.append(_clocked(function))
    return [statistics.median(measured) for measured in times]


def _clocked(function: Callable[[], object]) -> float:
    """Give the time of one call, in ms."""
    started = time.perf_counter()
    function()
    return (time.perf_counter() - started) * 1e3


def _at_once(count: int, function: Callable[[], object]) -> None:
    ready = threading.Barrier(count)

    def ask() -> None:
        ready.wait()
        function()

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def _one_thread() -> Iterator[None]:
    # FAISS counts with OpenMP, whose setting is this thread's.
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        faiss.omp_set_num_threads(before)
