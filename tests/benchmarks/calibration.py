"""Whether calibrations keep what they promise, and what K-fold costs beside one fit.

Three parts. Simulated: scores of a known law, so that every calibration's true false-reject rate is known. Drawn: the
demo's part at 64 px and the `tiny` backbone of random weights, from a pool of photographs; every repetition takes other
ones to calibrate with and disjoint ones to judge, and goes the product's way from tokens to a threshold. Real: 60
photographs' tokens at rate 0.10.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from orchestrator.demo.drawing import draw_part
from orchestrator.demo.photographs import read_folder
from orchestrator.domain.arrays import FloatArray
from orchestrator.domain.calibration import Rule
from orchestrator.domain.letterbox import Letterbox
from orchestrator.domain.memory_options import MemoryOptions
from orchestrator.patchcore.calibration import false_reject_rate
from orchestrator.patchcore.conformal import conformal_threshold
from orchestrator.patchcore.scoring import anomaly_map
from orchestrator.patchcore.thresholds import choose
from orchestrator.services.embed import Embedded, prepare
from orchestrator.services.embed import Photograph as Posted
from orchestrator.services.folds import build_memory, groups_of, plan_folds, score_fold
from orchestrator.services.pool import NumericsPool
from orchestrator.services.score import Scoring, score_against
from tests.benchmarks.exported import export_once
from tests.benchmarks.photographs import LIMITS, RESNET, real_backbone, real_data, real_set, tokens_of
from tests.benchmarks.rows import Figures, Row, Shape
from tests.benchmarks.servers import Plan
from tests.reference import clustered

RATE, CONFIDENCE, PERCENTILE, CORESET = 0.05, 0.95, 99.0, 0.10
SIDE = 64
RULE = Rule("conformal", PERCENTILE, RATE, CONFIDENCE)
PLAIN = MemoryOptions()
SCORING = Scoring("euclidean", 1.0)
KFOLD_SET = "casting"

Floats = NDArray[np.float64]
Draw = FloatArray


def run(
    plan: Plan,
    *,
    simulations: int = 1000,
    sizes: Sequence[int] = (10, 30, 60),
    pool: int = 3000,
    fresh: int = 2000,
    repetitions: int = 200,
    backbone: str = "tiny",
    kfold_images: int = 60,
) -> list[Row]:
    """Run all three parts; where there are no real photographs, K-fold is timed on synthetic tokens."""
    rows = [_simulated(plan, n, simulations) for n in (10, 30, 60, 100, 300)]
    drawn = _drawn_tokens(plan, pool, backbone)
    draw = _check_drawing(drawn)
    for n in sizes:
        rows += _drawn(plan, n, drawn, draw, fresh, repetitions)
    return rows + _kfold(plan, kfold_images)


def _simulated(plan: Plan, n: int, simulations: int) -> Row:
    """Scores are uniform on [0, 1]: the true rate of a threshold t is 1 - t."""
    rng = np.random.default_rng([0, n])
    true, bound = np.empty(simulations), np.empty(simulations)
    for i in range(simulations):
        ok = rng.random(n).tolist()
        threshold = conformal_threshold(ok, RATE, CONFIDENCE).threshold
        true[i] = 1 - threshold
        bound[i] = false_reject_rate(ok, threshold, confidence=CONFIDENCE).upper_bound
    share = float((true <= bound).mean())
    return _share_row(
        plan,
        f"simulated, n={n}: share of calibrations within their bound",
        share,
        simulations,
        Shape(n=n, seeds=(0, n)),
        f"uniform scores; bound {bound[0]:.4f}, mean true rate {true.mean():.4f}",
    )


def _drawn(
    plan: Plan, n: int, drawn: Sequence[Embedded], draw: Draw, fresh: int, repetitions: int
) -> list[Row]:
    """Fit on n, calibrate by K-fold on the same n, judge `fresh` others by the full bank."""
    with ThreadPoolExecutor(plan.threads) as threads:
        outcomes = list(
            threads.map(partial(_repeat, n=n, drawn=drawn, draw=draw, fresh=fresh), range(repetitions))
        )
    realised = np.array([o.realised for o in outcomes])
    expected = np.array([o.expected for o in outcomes])
    bound = np.array([o.bound for o in outcomes])
    independent = np.mean([o.independent for o in outcomes])
    shape = Shape(n=n, k=min(5, n), tokens="synthetic", seeds=(1, n))
    note = (
        f"drawn parts, {SIDE} px, random weights; {fresh} fresh parts a repetition, from {len(drawn)}; "
        f"{independent:.1f} of {n} independent; median bound {np.median(bound):.4f}"
    )
    rate = Figures(
        "calibration",
        f"drawn, n={n}: realised false-reject rate, beside the stated mean",
        "share",
        "lower",
        samples=repetitions,
        threads=plan.threads,
        peer="Beta law",
        shape=shape,
        notes=note,
    )
    rate.add(float(realised.mean()), float(expected.mean()))
    share = float((realised <= bound).mean())
    return [
        rate.row(),
        _share_row(
            plan, f"drawn, n={n}: share of calibrations within their bound", share, repetitions, shape, note
        ),
    ]


def _share_row(plan: Plan, case: str, share: float, count: int, shape: Shape, note: str) -> Row:
    least = CONFIDENCE - 3 * (CONFIDENCE * (1 - CONFIDENCE) / count) ** 0.5
    figures = Figures(
        "calibration",
        case,
        "share",
        "higher",
        samples=count,
        threads=plan.threads,
        peer=f"{CONFIDENCE} - 3 SE",
        shape=shape,
        notes=note,
    )
    figures.add(share, least)
    return figures.row()


@dataclass(frozen=True, slots=True)
class _Outcome:
    realised: float
    expected: float
    bound: float
    independent: int


def _repeat(repetition: int, *, n: int, drawn: Sequence[Embedded], draw: Draw, fresh: int) -> _Outcome:
    order = np.random.default_rng([1, n, repetition]).permutation(len(drawn))
    fitted = [drawn[i] for i in order[:n]]
    groups = groups_of(fitted)
    splits, _ = plan_folds(fitted, [], groups)
    scores = {
        k: v for split in splits for k, v in score_fold(split, CORESET, SCORING, PERCENTILE, PLAIN).items()
    }
    choice = choose([scores[p.sha256] for p in fitted], (), RULE, groups.tolist())
    judged = _score_all([drawn[i] for i in order[n : n + fresh]], fitted, draw)
    rate = choice.false_reject
    return _Outcome(
        float((judged >= choice.summary.threshold).mean()), rate.expected, rate.upper_bound, rate.n_ok
    )


def _score_all(photographs: Sequence[Embedded], fitted: Sequence[Embedded], draw: Draw) -> Floats:
    """Score many photographs of one size by the bank of the fitted ones: as the product, but in one product."""
    search = SCORING.search(build_memory(fitted, CORESET)[0])
    distances, _ = search.nearest(np.concatenate([p.queries for p in photographs]))
    maps = distances.reshape(len(photographs), -1) @ draw.T
    return np.asarray(np.percentile(maps, PERCENTILE, axis=1), dtype=np.float64)


def _check_drawing(drawn: Sequence[Embedded]) -> Draw:
    """Give the (H W, R C) matrix from patch distances to a map, once it gives the product's own scores."""
    first = drawn[0]
    cells = first.patches.size
    unit = np.eye(cells, dtype=np.float32).reshape(cells, *first.patches.shape)
    columns = [anomaly_map(u, first.patches, first.box, sigma=SCORING.blur_sigma).reshape(-1) for u in unit]
    draw: Draw = np.ascontiguousarray(np.stack(columns, axis=1))
    assert all(p.patches.all() and p.mask.all() for p in drawn)
    fitted, others = drawn[:5], drawn[5:13]
    search = SCORING.search(build_memory(fitted, CORESET)[0])
    own = [score_against(p, search, SCORING, PERCENTILE, "percentile", None) for p in others]
    np.testing.assert_allclose(_score_all(others, fitted, draw), own, rtol=1e-4)
    return draw


def _drawn_tokens(plan: Plan, count: int, backbone: str) -> list[Embedded]:
    spec = export_once(plan.repository, backbone)
    folder = plan.repository.parent / "tokens" / spec.fingerprint[:12]
    path = folder / f"drawn-{SIDE}-{count}.npy"
    seeds = [int(s) for s in np.random.SeedSequence(7).generate_state(count, np.uint64)]
    box = Letterbox.fit((SIDE, SIDE), spec.input_size)
    if not path.is_file():
        sys.stderr.write(f"drawing and embedding {count} parts by {spec.label}\n")
        folder.mkdir(parents=True, exist_ok=True)
        prepared = []
        for seed in seeds:
            image = draw_part(seed, size=(SIDE, SIDE)).image
            data = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
            prepared.append(prepare(Posted(data, str(seed)), spec, LIMITS))
        np.save(path, asyncio.run(tokens_of(plan, prepared, spec)))
    tokens = np.load(path)
    mask, patches = np.ones((SIDE, SIDE), np.bool_), np.ones(spec.grid, np.bool_)
    return [Embedded(t, box, mask, patches, f"{s:064x}") for t, s in zip(tokens, seeds, strict=True)]


def _kfold(plan: Plan, images: int) -> list[Row]:
    data = real_data(plan)
    if data is None:
        sys.stderr.write("calibration: no real photographs; K-fold is timed on synthetic tokens\n")
        photographs, features_s = _synthetic(images), 0.0
    else:
        good = real_set(plan, KFOLD_SET, backbone=RESNET).good[:images]
        photographs = [replace(p, tokens=np.array(p.tokens)) for p in good]
        features_s = _extraction_s(plan, data, images)
    shape = Shape(
        n=images,
        d=photographs[0].tokens.shape[1],
        k=5,
        tokens="real" if data else "synthetic",
        seeds=() if data else (0,),
    )

    def figures(case: str, threads: int, notes: str = "") -> Figures:
        name = f"K-fold of {images} beside one fit, {case}"
        return Figures("calibration", name, "s", "lower", images, threads, notes, peer="one fit", shape=shape)

    alone, served = figures("one thread each", 1), figures("as served", plan.threads)
    whole = figures("as served, with features", plan.threads, "features extracted once, added to both sides")
    for _ in range(plan.repeats):
        alone_s = _timed(lambda: build_memory(photographs, CORESET))
        fit_s = _timed(lambda: build_memory(photographs, CORESET, threads=plan.threads))
        one_s = asyncio.run(_folds_s(photographs, 1))
        all_s = asyncio.run(_folds_s(photographs, plan.threads))
        alone.add(one_s, alone_s)
        served.add(all_s, fit_s)
        whole.add(all_s + features_s, fit_s + features_s)
    return [alone.row(), served.row()] + ([whole.row()] if data else [])


def _synthetic(images: int) -> list[Embedded]:
    box, mask = Letterbox.fit((448, 448), (448, 448)), np.ones((448, 448), np.bool_)
    patches = np.ones((32, 32), np.bool_)
    rows = clustered(images * patches.size, 384, 200, seed=0).astype(np.float16)
    return [
        Embedded(r, box, mask, patches, f"{i:064x}")
        for i, r in enumerate(rows.reshape(images, patches.size, 384))
    ]


def _extraction_s(plan: Plan, data: Path, images: int) -> float:
    """Time the features of the same photographs, from their bytes, the model's start included."""
    spec = real_backbone(plan, data, RESNET)
    photographs = [Posted(p.read(), p.name) for p in read_folder(data / KFOLD_SET).good[:images]]
    started = time.perf_counter()
    asyncio.run(tokens_of(plan, [prepare(p, spec, LIMITS) for p in photographs], spec))
    return time.perf_counter() - started


async def _folds_s(photographs: Sequence[Embedded], threads: int) -> float:
    pool = NumericsPool(threads)
    try:
        started = time.perf_counter()
        groups = await pool.run_fit(groups_of, photographs)
        splits, _ = plan_folds(photographs, [], groups)
        folds = await asyncio.gather(
            *(pool.run_fit(score_fold, split, CORESET, SCORING, PERCENTILE, PLAIN) for split in splits)
        )
        scores = {k: v for fold in folds for k, v in fold.items()}
        choose([scores[p.sha256] for p in photographs], (), RULE, groups.tolist())
        return time.perf_counter() - started
    finally:
        pool.close()


def _timed(function: Callable[[], object]) -> float:
    pool = NumericsPool(1)
    try:
        started = time.perf_counter()
        function()
        return time.perf_counter() - started
    finally:
        pool.close()
