"""Quality on real photographs: every score rule beside anomalib's scoring of the same tokens against the same bank.

Image AUROC with a paired bootstrap over the test photographs; false rejects and escapes at the threshold that a fit
sets; pixel AUROC and AUPRO of the map. All good photographs, and 1, 4, 16 of them by five seeds. `quality_table` draws
the rows as Markdown.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from typing import get_args

from threadpoolctl import threadpool_limits

from tests.benchmarks.anomalib_verification import verify
from tests.benchmarks.paired import Floats
from tests.benchmarks.photographs import RESNET, real_data, sets_present
from tests.benchmarks.quality_evaluation import Evaluation, Fit, Part, evaluate
from tests.benchmarks.quality_options import OPTIONS, PLAIN
from tests.benchmarks.quality_rows import Group, chosen_rows, mean_rows, set_rows
from tests.benchmarks.quality_subjects import SYNTHETIC
from tests.benchmarks.rows import Row
from tests.benchmarks.servers import Plan

BACKBONES = (RESNET, "scattering")
SEEDS = (0, 1, 2, 3, 4)
DEFAULT_RATE = 0.10
SHOTS = ((1, DEFAULT_RATE), (4, DEFAULT_RATE), (16, DEFAULT_RATE))
# Views and windows multiply the rows, and what a coreset costs grows with their square.
OPTION_SHOTS = ((4, DEFAULT_RATE),)


def run(
    plan: Plan,
    *,
    sets: Sequence[str] = (),
    backbones: Sequence[str] = BACKBONES,
    shots: Sequence[tuple[int, float]] = SHOTS,
    seeds: Sequence[int] = SEEDS,
) -> list[Row]:
    """Measure. sets: all that are there by default. shots: beside all good photographs, with their coreset rates."""
    data = real_data(plan)
    if data is None:
        sys.stderr.write("quality: no real photographs, see --data; synthetic tokens prove nothing\n")
        sets, backbones = (SYNTHETIC,), (SYNTHETIC,)
    elif not sets:
        sets = sets_present(data)
    fits = list(_fits(plan, sets, backbones, shots, seeds))
    checked = verify(plan, sets, backbones)
    groups = _grouped(_evaluate_all(plan, fits), plan)
    rows = [row for group in groups for row in set_rows(plan, group)]
    for key in dict.fromkeys(group.key for group in groups):
        peers = [group for group in groups if group.key == key]
        rows += mean_rows(plan, peers)
        rows += chosen_rows(plan, peers)
    return rows + checked


def _fits(
    plan: Plan,
    sets: Sequence[str],
    backbones: Sequence[str],
    shots: Sequence[tuple[int, float]],
    seeds: Sequence[int],
) -> Iterator[Fit]:
    for backbone in backbones:
        for set_name in sets:
            for option, how in OPTIONS.items():
                plain = option == PLAIN
                if not plain and (set_name == SYNTHETIC or not how.suits(plan, set_name, backbone)):
                    continue
                whole = Fit(set_name, backbone, option, None, DEFAULT_RATE, 0, pixels=plain)
                if plain:
                    yield whole
                for few, rate in shots if plain else OPTION_SHOTS:
                    for seed in seeds:
                        yield replace(
                            whole, shots=few, rate=rate, seed=seed, pixels=plain and rate == DEFAULT_RATE
                        )


def _evaluate_all(plan: Plan, fits: Sequence[Fit]) -> dict[Fit, Evaluation]:
    """Evaluate side by side: what is cut off has whole figures of all good photographs, then of whole seeds."""
    started = time.monotonic()
    done: dict[tuple[Fit, Part], Mapping[str, Floats]] = {}
    parts = [(fit, part) for part in get_args(Part) for fit in fits]
    order = sorted(parts, key=lambda p: (p[0].shots is not None, p[0].seed))

    def note(fit: Fit, part: Part, scored: Mapping[str, Floats]) -> None:
        done[fit, part] = scored
        sys.stderr.write(
            f"quality: {len(done)}/{len(parts)} after {time.monotonic() - started:.0f} s: {fit.set_name}, "
            f"{fit.backbone}, {fit.option}, {fit.shots or 'all'} good, seed {fit.seed}, {part}\n"
        )

    if plan.threads == 1:
        for fit, part in order:
            note(fit, part, evaluate(plan, fit, part))
    else:
        # Not forked: a BLAS that has started its threads does not survive it.
        with ProcessPoolExecutor(plan.threads, get_context("spawn"), initializer=_one_thread) as pool:
            waiting = {pool.submit(evaluate, plan, fit, part): (fit, part) for fit, part in order}
            for finished in as_completed(waiting):
                note(*waiting[finished], finished.result())
    return {fit: Evaluation(**done[fit, "tested"], **done[fit, "held_out"]) for fit in fits}


def _one_thread() -> None:
    threadpool_limits(1)


def _grouped(done: dict[Fit, Evaluation], plan: Plan) -> list[Group]:
    """Put the fits that differ by their seed alone together."""
    groups: dict[Fit, list[Fit]] = {}
    for fit in done:
        groups.setdefault(replace(fit, seed=0), []).append(fit)
    tokens = "synthetic" if real_data(plan) is None else "real"
    return [
        Group(members[0], tuple(f.seed for f in members), tuple(done[f] for f in members), tokens)  # type: ignore[arg-type]
        for members in (sorted(found, key=lambda f: f.seed) for found in groups.values())
    ]
