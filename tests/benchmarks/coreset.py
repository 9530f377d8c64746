"""The coreset against anomalib's, against a bare matrix product of the same size, and against the naive loop.

Every side runs on the same rows and threads. anomalib's is timed around its own call with its default projection; its
cover radius is taken in the rows' own space.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, TypeAlias

import numpy as np
from threadpoolctl import threadpool_limits

from orchestrator.domain.arrays import FloatArray, IndexArray
from orchestrator.patchcore.coreset import cover_radius, extend_coreset, select_coreset
from tests.benchmarks.anomalib_peer import ANOMALIB, AnomalibPeer, anomalib_peer
from tests.benchmarks.coreset_memory import draw
from tests.benchmarks.photographs import real_data, real_rows
from tests.benchmarks.rows import ROOT, Figures, Row, Shape
from tests.benchmarks.servers import Plan

DIM = 384
RATES = (0.01, 0.1)
CLUSTERS = 40
_PEER = f"anomalib {ANOMALIB}"
_BLOCK = 1024
Tokens: TypeAlias = Literal["real", "synthetic"]


def run(
    plan: Plan,
    *,
    n: int = 50_000,
    large: int = 248_000,
    huge: int = 1_000_000,
    bank: int = 100_000,
    added: int = 51_200,
    peer: bool = True,
) -> list[Row]:
    """Measure. n: rows beside the peer. large: real rows at 10 %. huge: rows at 1 % in a process of their own.

    bank, added: rows of a bank at 10 %, and those that a tenth of is then added. peer: whether anomalib is measured,
    in an environment that the first run makes.
    """
    sets: dict[Tokens, FloatArray] = {"synthetic": draw(n, DIM, clusters=CLUSTERS)}
    real = real_data(plan) is not None
    if real:
        sets = {"real": real_rows(plan, n), **sets}
    else:
        sys.stderr.write("coreset: no real photographs; synthetic tokens only\n")
    # Compiled once, outside every clock.
    select_coreset(draw(2000, DIM, clusters=4), 0.1, compiled=True)
    rows: list[Row] = []
    with ExitStack() as stack:
        beside = anomalib_peer(plan.repository.parent) if peer else None
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="patchlight-bench-")))
        for tokens, embeddings in sets.items():
            np.save(folder / f"{tokens}.npy", embeddings)
            for rate in RATES:
                rows += _against(plan, embeddings, tokens, rate, beside, folder / f"{tokens}.npy")
            rows.append(_against_the_loop(plan, embeddings, tokens))
    if real:
        rows += _alone(plan, real_rows(plan, large), "real")
        rows += _extended(plan, real_rows(plan, bank + added), "real", bank)
    else:
        rows += _extended(plan, draw(bank + added, DIM, clusters=CLUSTERS), "synthetic", bank)
    return [*rows, *_in_its_own_process(plan, huge)]


def _against(
    plan: Plan, rows: FloatArray, tokens: Tokens, rate: float, peer: AnomalibPeer | None, path: Path
) -> list[Row]:
    n, count = len(rows), math.ceil(len(rows) * rate)
    # At 10 % anomalib takes minutes: fully on real tokens, by its first picks on synthetic ones.
    whole = tokens == "real" or rate < RATES[-1]
    timed = _figures(plan, f"{tokens} {n:,} → {rate:.0%}", "s", _shape(n, count, tokens), peer)
    timed.extrapolated = peer is not None and not whole
    radii = _figures(plan, f"{tokens} {n:,} → {rate:.0%}: radius", "distance", _shape(n, count, tokens), peer)
    for repeat in range(plan.repeats):
        theirs = their_radius = None
        if peer is not None and whole:
            found = peer.select(path, count, threads=plan.threads, seed=repeat)
            theirs, their_radius = found.seconds, cover_radius(rows, np.array(found.selected))
        elif peer is not None:
            theirs = _first_picks(peer, path, count, plan.threads, repeat)
        floor = bare_product(rows, count, plan.threads)
        seconds, selected = _timed(lambda: select_coreset(rows, rate, threads=plan.threads))
        timed.add(seconds, theirs, floor=floor)
        if peer is None or whole:
            radii.add(cover_radius(rows, selected), their_radius)
    return [timed.row(), radii.row()] if radii.ours else [timed.row()]


def _first_picks(peer: AnomalibPeer, path: Path, count: int, threads: int, seed: int) -> float:
    # Every pick costs the same: two lengths give what the projection costs and what a pick does.
    short, long = max(2, count // 20), max(3, count // 10)
    at_short = peer.select(path, short, threads=threads, seed=seed).seconds
    at_long = peer.select(path, long, threads=threads, seed=seed).seconds
    return at_long + (at_long - at_short) * (count - long) / (long - short)


def _against_the_loop(plan: Plan, rows: FloatArray, tokens: Tokens) -> Row:
    n, count = len(rows), math.ceil(len(rows) * RATES[0])
    figures = _figures(
        plan, f"{tokens} {n:,} → {RATES[0]:.0%}: rows the naive loop lacks", "rows", _shape(n, count, tokens)
    )
    selected = select_coreset(rows, RATES[0], threads=plan.threads)
    figures.add(len(set(selected.tolist()) - set(naive_loop(rows, count, int(selected[0])))))
    return figures.row()


def _alone(plan: Plan, rows: FloatArray, tokens: Tokens) -> list[Row]:
    n, count = len(rows), math.ceil(len(rows) * RATES[-1])
    figures = _figures(plan, f"{tokens} {n:,} → {RATES[-1]:.0%}", "s", _shape(n, count, tokens))
    for _ in range(plan.repeats):
        floor = bare_product(rows, count, plan.threads)
        seconds, _ = _timed(lambda: select_coreset(rows, RATES[-1], threads=plan.threads))
        figures.add(seconds, floor=floor)
    return [figures.row()]


def _extended(plan: Plan, rows: FloatArray, tokens: Tokens, bank: int) -> list[Row]:
    centres = rows[select_coreset(rows[:bank], RATES[-1], threads=plan.threads)]
    added = rows[bank:]
    count = math.ceil(len(added) * RATES[-1])
    figures = _figures(
        plan,
        f"{tokens} {len(added):,} rows onto a bank of {len(centres):,}",
        "s",
        _shape(len(added), len(centres), tokens),
    )
    figures.peer = f"our coreset of all {len(rows):,}"
    figures.notes = f"floor: the product of new rows and bank, without the {count:,} picks"
    for _ in range(plan.repeats):
        anew, _ = _timed(lambda: select_coreset(rows, RATES[-1], threads=plan.threads))
        floor = bare_product(added, len(centres), plan.threads, others=centres)
        seconds, _ = _timed(lambda: extend_coreset(centres, added, count, threads=plan.threads))
        figures.add(seconds, anew, floor=floor)
    return [figures.row()]


def _in_its_own_process(plan: Plan, n: int) -> list[Row]:
    count = math.ceil(n * RATES[0])
    shape = _shape(n, count, "synthetic")
    timed = _figures(plan, f"synthetic {n:,} → {RATES[0]:.0%}", "s", shape)
    memory = _figures(plan, f"synthetic {n:,} → {RATES[0]:.0%}: peak RSS", "x raw", shape)
    arguments = [sys.executable, "-m", "tests.benchmarks.coreset_memory"]
    arguments += [str(number) for number in (n, DIM, count, plan.threads)]
    said = json.loads(subprocess.run(arguments, cwd=ROOT, capture_output=True, check=True).stdout)
    timed.add(said["seconds"])
    memory.add(said["peak_bytes"] / said["raw_bytes"])
    return [timed.row(), memory.row()]


def bare_product(rows: FloatArray, count: int, threads: int, *, others: FloatArray | None = None) -> float:
    """Time the product of all rows with `count` of them, or of the others, in blocks that stay in the cache."""
    centres = (rows if others is None else others)[:count]
    out = np.empty(_BLOCK * 2 * _BLOCK, dtype=np.float32)

    def multiply() -> None:
        for low in range(0, len(rows), 2 * _BLOCK):
            part = rows[low : low + 2 * _BLOCK]
            for first in range(0, len(centres), _BLOCK):
                few = centres[first : first + _BLOCK]
                np.matmul(few, part.T, out=out[: len(few) * len(part)].reshape(len(few), len(part)))

    with threadpool_limits(limits=threads, user_api="blas"):
        return _timed(multiply)[0]


def naive_loop(rows: FloatArray, count: int, first: int) -> list[int]:
    """Select as the textbook does, one centre and one pass over all rows at a time, in float64."""
    selected = [first]
    distances = np.full(len(rows), np.inf)
    while True:
        centre = rows[selected[-1]].astype(np.float64)
        # In blocks, for the cache only.
        for low in range(0, len(rows), _BLOCK):
            difference = rows[low : low + _BLOCK] - centre
            part = distances[low : low + _BLOCK]
            np.minimum(part, np.einsum("nd,nd->n", difference, difference), out=part)
        distances[selected] = -1
        if len(selected) == count:
            return selected
        selected.append(int(distances.argmax()))


def _figures(plan: Plan, case: str, unit: str, shape: Shape, peer: AnomalibPeer | None = None) -> Figures:
    figures = Figures("coreset", case, unit, "lower", 1, plan.threads, shape=shape)
    if peer is not None:
        figures.peer, figures.peer_versions = _PEER, peer.versions
    return figures


def _shape(n: int, k: int, tokens: Tokens) -> Shape:
    return Shape(n=n, d=DIM, k=k, tokens=tokens, seeds=(0,))


def _timed(call: Callable[[], IndexArray | None]) -> tuple[float, IndexArray]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result if result is not None else np.empty(0, dtype=np.int64)
