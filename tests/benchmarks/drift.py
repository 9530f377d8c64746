"""The drift alarm's promises: how seldom it is false, how soon it is true, and what it costs `/infer`.

Streams are judged by the product's own replay, a process a core. False alarms: the share of unchanged streams that
ever alarm, beside alpha and three standard errors of that share. Delays: parts from a shift by one standard deviation
to the alarm; a stream that alarmed before the shift or not within the tail counts as an infinite delay. Cost: requests
per second of a server that counts and of one that does not, which take turns.
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from orchestrator.domain.drift import DriftTrack, Rules, Stream
from orchestrator.domain.identity import Target
from tests.benchmarks.exported import export_once
from tests.benchmarks.load import Client, draw_pngs, fit_body, infer_body, throughput
from tests.benchmarks.rows import Figures, Row, Shape
from tests.benchmarks.servers import Plan, serve_in_process

ALPHA = 0.01
SHIFTS_AFTER = (60, 500, 3000)
DELAY_BAR = 100.0
_TAIL = 1000
_CLIENTS = 4


def run(
    plan: Plan,
    *,
    streams: int = 2000,
    parts: int = 10_000,
    shifted: int = 500,
    requests: int = 32,
    rounds: int = 20,
) -> list[Row]:
    """Measure. rounds: pairs of throughput runs in one repeat, of `requests` each; short, to share their neighbours."""
    return [
        _false_alarms(plan, streams, parts),
        *(_delay(plan, shifted, after) for after in SHIFTS_AFTER),
        _cost(plan, requests, rounds),
    ]


def alarm_of(seed: int, *, parts: int, shift_at: int | None = None) -> int | None:
    """Draw a stream of normal scores, one standard deviation higher after `shift_at`; give the part that alarms."""
    scores = np.random.default_rng(seed).normal(size=parts)
    if shift_at is not None:
        scores[shift_at:] += 1.0
    target = Target.of("bench", "stream", str(seed))
    track = DriftTrack(Stream(target, 1, ""), 0, Rules(ALPHA, 0))
    track.extend(scores.tolist())
    return track.state().alarm_at


def _false_alarms(plan: Plan, streams: int, parts: int) -> Row:
    alarms = _alarms(plan, range(streams), parts=parts)
    share = sum(a is not None for a in alarms) / streams
    bar = ALPHA + 3 * (ALPHA * (1 - ALPHA) / streams) ** 0.5
    figures = Figures(
        "drift",
        "false alarms",
        "share",
        "lower",
        streams,
        plan.threads,
        f"unchanged streams of {parts} parts that ever alarm at alpha {ALPHA}; the bar: alpha + 3 standard errors",
        peer="bar",
        shape=Shape(n=parts, k=streams, tokens="synthetic", seeds=(0, streams - 1)),
    )
    figures.add(share, bar)
    return figures.row()


def _delay(plan: Plan, streams: int, after: int) -> Row:
    # Seeds of their own, apart from the unchanged streams'.
    first = 1_000_000 + after * 1000
    alarms = _alarms(plan, range(first, first + streams), parts=after + _TAIL, shift_at=after)
    delays = [float("inf") if a is None or a <= after else float(a - after) for a in alarms]
    false = sum(a is not None and a <= after for a in alarms)
    missed = sum(a is None for a in alarms)
    figures = Figures(
        "drift",
        f"delay, shift after {after}",
        "parts",
        "lower",
        streams,
        plan.threads,
        f"median over {streams} streams; {missed} found nothing within {_TAIL} parts, {false} had alarmed before; "
        f"90 % within {np.quantile(delays, 0.9, method='higher'):g}",
        peer="bar",
        shape=Shape(n=after, k=streams, tokens="synthetic", seeds=(first, first + streams - 1)),
    )
    figures.add(statistics.median_high(delays), DELAY_BAR)
    return figures.row()


def _alarms(plan: Plan, seeds: Sequence[int], *, parts: int, shift_at: int | None = None) -> list[int | None]:
    judge = partial(alarm_of, parts=parts, shift_at=shift_at)
    if plan.threads == 1:
        return [judge(seed) for seed in seeds]
    # Spawned: a fork would inherit the locks of whatever threads there are.
    with ProcessPoolExecutor(plan.threads, multiprocessing.get_context("spawn")) as processes:
        return list(processes.map(judge, seeds, chunksize=20))


def _cost(plan: Plan, requests: int, rounds: int) -> Row:
    export_once(plan.repository, "tiny")
    pngs = draw_pngs(8, first_seed=1000)
    bodies = [infer_body(pngs[i % len(pngs)]) for i in range(requests)]
    figures = Figures(
        "drift",
        "/infer, counting",
        "requests/s",
        "higher",
        requests,
        plan.threads,
        f"{_CLIENTS} clients, tiny backbone in process; peer: the same server with BDI_DRIFT=false",
        peer="not counting",
    )
    with (
        TemporaryDirectory(prefix="patchlight-bench-") as folder,
        serve_in_process(plan, "tiny", Path(folder) / "on", BDI_DRIFT="true") as counting,
        serve_in_process(plan, "tiny", Path(folder) / "off", BDI_DRIFT="false") as silent,
    ):
        for url in (counting, silent):
            with Client(url) as client:
                client.post("/fit_ok", fit_body(draw_pngs(10, first_seed=0)))
            throughput(url, bodies[:40], clients=_CLIENTS)
        for turn in range(plan.repeats * rounds):
            order = (counting, silent) if turn % 2 else (silent, counting)
            speed = {url: throughput(url, bodies, clients=_CLIENTS) for url in order}
            figures.add(speed[counting], speed[silent])
    return figures.row()
