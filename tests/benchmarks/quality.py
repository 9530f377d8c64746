"""Quality on real photographs: every score rule beside anomalib's scoring of the same tokens against the same bank.

Image AUROC with a paired bootstrap over the test photographs; false rejects and escapes at the threshold that a fit
sets; pixel AUROC and AUPRO of the map. All good photographs, and 1, 4, 16 of them by five seeds. `quality_table` draws
the rows as Markdown.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context

from threadpoolctl import threadpool_limits

from tests.benchmarks.anomalib_verification import verify
from tests.benchmarks.photographs import RESNET, real_data, sets_present
from tests.benchmarks.quality_evaluation import Evaluation, Fit, evaluate
from tests.benchmarks.quality_options import OPTIONS
from tests.benchmarks.quality_rows import Group, chosen_rows, mean_rows, set_rows
from tests.benchmarks.quality_subjects import SYNTHETIC
from tests.benchmarks.rows import Row
from tests.benchmarks.servers import Plan

BACKBONES = (RESNET, "scattering")
SEEDS = (0, 1, 2, 3, 4)
DEFAULT_RATE = 0.10
# A tenth of one photograph is few rows: beside the default rate, the smallest fits keep every row.
SHOTS = ((1, DEFAULT_RATE), (4, DEFAULT_RATE), (16, DEFAULT_RATE), (1, 1.0), (4, 1.0))


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
    fits = list(_fits(sets, backbones, shots, seeds))
    checked = verify(plan, sets, backbones)
    groups = _grouped(_evaluate_all(plan, fits), plan)
    rows = [row for group in groups for row in set_rows(plan, group)]
    for key in dict.fromkeys(group.key for group in groups):
        peers = [group for group in groups if group.key == key]
        rows += mean_rows(plan, peers)
        rows += chosen_rows(plan, peers)
    return rows + checked


def _fits(
    sets: Sequence[str], backbones: Sequence[str], shots: Sequence[tuple[int, float]], seeds: Sequence[int]
) -> Iterator[Fit]:
    for backbone in backbones:
        for set_name in sets:
            for option in OPTIONS:
                whole = Fit(set_name, backbone, option, None, DEFAULT_RATE, 0, pixels=True)
                yield whole
                for few, rate in shots:
                    for seed in seeds:
                        yield replace(whole, shots=few, rate=rate, seed=seed, pixels=rate == DEFAULT_RATE)


def _evaluate_all(plan: Plan, fits: Sequence[Fit]) -> dict[Fit, Evaluation]:
    """Evaluate side by side: the largest first, then seed by seed, so that what is cut off has whole seeds."""
    done: dict[Fit, Evaluation] = {}
    if plan.threads == 1:
        return {fit: evaluate(plan, fit) for fit in fits}
    started = time.monotonic()
    order = sorted(fits, key=lambda fit: (fit.shots is not None, fit.seed, fits.index(fit)))
    # Not forked: a BLAS that has started its threads does not survive it.
    context = get_context("spawn")
    with ProcessPoolExecutor(plan.threads, mp_context=context, initializer=_one_thread) as pool:
        waiting = {pool.submit(evaluate, plan, fit): fit for fit in order}
        for finished in as_completed(waiting):
            fit = waiting[finished]
            done[fit] = finished.result()
            sys.stderr.write(
                f"quality: {len(done)}/{len(fits)} after {time.monotonic() - started:.0f} s: {fit.set_name}, "
                f"{fit.backbone}, {fit.option}, {fit.shots or 'all'} good, seed {fit.seed}\n"
            )
    return done


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
