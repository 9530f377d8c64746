"""Fits, calibrates and inspects a folder of photographs with the product's own services, and says how well it did.

Knows the use cases, not how they are served. Calibration sees good photographs only: the bad ones are for judging.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from orchestrator.demo.metrics import ErrorRates, false_reject_and_escape, hits, image_auroc
from orchestrator.demo.photographs import Photograph, PhotographFolder
from orchestrator.demo.sheet import SheetRow, contact_sheet
from orchestrator.domain.arrays import MaskArray
from orchestrator.domain.calibration import Calibration
from orchestrator.domain.identity import Target
from orchestrator.domain.samples import LABELS
from orchestrator.domain.shapes import parse_shape
from orchestrator.features.base import CallContext, Priority
from orchestrator.features.preprocess import ImageLimits, decode_image
from orchestrator.patchcore.masks import rasterise
from orchestrator.runtime import Runtime
from orchestrator.services.embed import Photograph as Posted
from orchestrator.services.evidence import Recipe
from orchestrator.services.fit import FitRequest, FitResult
from orchestrator.services.verdict import Inspection, Verdict

RECIPE = "demo"
ROLE = "Demo"
MM_PER_PX = 0.1
SCORE_PERCENTILE = 99.0
SHEET_GOOD, SHEET_BAD = 8, 16
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Judged:
    """One inspected photograph. mask: the true defect, where it is drawn; hit: whether the map's maximum is in it."""

    photograph: Photograph
    truth: Literal["good", "bad"]
    verdict: Verdict
    mask: MaskArray | None
    hit: bool | None

    @property
    def is_wrong(self) -> bool:
        """Say whether the decision is not the truth."""
        return (self.verdict.decision == "ng") != (self.truth == "bad")


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demo found. localisation: share of drawn defects that the map's maximum falls into, None without masks.

    inspect_ms: median time of one inspection.
    """

    target: Target
    fit: FitResult
    calibration: Calibration
    judged: list[Judged]
    auroc: float
    rates: ErrorRates
    localisation: float | None
    inspect_ms: float
    fit_s: float
    calibrate_s: float
    sheet: Path


def demo_target(name: str) -> Target:
    """Name a demo's target: recipe `demo`, a plain form of the name as ROI."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "part"
    return Target.of(RECIPE, ROLE, name[:64])


async def run_demo(
    runtime: Runtime,
    target: Target,
    folder: PhotographFolder,
    sheet: Path,
    progress: Progress,
    *,
    title: str,
    roi: dict[str, Any] | None = None,
) -> DemoReport:
    """Fit on `good`, calibrate by K-fold on the same, inspect `good_test` and `bad`, draw the sheet.

    roi: a shape that masks every photograph, as on the wire. Raises what the services raise.
    """
    for label in LABELS:
        # An earlier demo of this name must not leak its photographs into this one's calibration.
        await asyncio.to_thread(runtime.datasets.clear, target.part, label)
    fit_s, fit = await _fit(runtime, target, folder, progress, roi)
    progress("calibrate", 0.0)
    started = time.perf_counter()
    recipe = Recipe(SCORE_PERCENTILE, runtime.settings.area_mm2_thr, MM_PER_PX)
    context = CallContext(str(uuid.uuid4()), runtime.settings.fit_timeout_s, Priority.FIT)
    calibration = await runtime.calibrator.from_dataset(target, recipe, context, require_ng=False)
    calibrate_s = time.perf_counter() - started
    progress("calibrate", 1.0)
    judged = await _inspect(runtime, target, folder, progress, roi)
    good = [j.verdict.score for j in judged if j.truth == "good"]
    bad = [j.verdict.score for j in judged if j.truth == "bad"]
    located = [j for j in judged if j.hit is not None]
    times = sorted(j.verdict.elapsed_ms for j in judged)
    report = DemoReport(
        target=target,
        fit=fit,
        calibration=calibration,
        judged=judged,
        auroc=image_auroc(good, bad),
        rates=false_reject_and_escape(good, bad, calibration.threshold),
        localisation=sum(bool(j.hit) for j in located) / len(located) if located else None,
        inspect_ms=times[len(times) // 2],
        fit_s=fit_s,
        calibrate_s=calibrate_s,
        sheet=sheet,
    )
    progress("draw", 0.0)
    await asyncio.to_thread(_draw, report, sheet, title, good, bad)
    progress("draw", 1.0)
    return report


async def _fit(
    runtime: Runtime, target: Target, folder: PhotographFolder, progress: Progress, roi: dict[str, Any] | None
) -> tuple[float, FitResult]:
    progress("fit", 0.0)
    started = time.perf_counter()
    posted = [Posted(p.read(), p.name) for p in folder.good]
    context = CallContext(str(uuid.uuid4()), runtime.settings.fit_timeout_s, Priority.FIT)
    task = asyncio.create_task(runtime.fitter.fit(FitRequest(target, MM_PER_PX, posted, shape=roi), context))
    while not task.done():
        await asyncio.wait([task], timeout=0.5)
        activity = await asyncio.to_thread(runtime.states.activity)
        progress("fit", activity.progress or 0.0)
    progress("fit", 1.0)
    return time.perf_counter() - started, task.result()


async def _inspect(
    runtime: Runtime, target: Target, folder: PhotographFolder, progress: Progress, roi: dict[str, Any] | None
) -> list[Judged]:
    wanted: list[tuple[Photograph, Literal["good", "bad"]]] = [(p, "good") for p in folder.good_test]
    wanted += [(p, "bad") for p in folder.bad]
    judged: list[Judged] = []
    for photograph, truth in wanted:
        posted = Posted(await asyncio.to_thread(photograph.read), photograph.name, roi)
        context = CallContext(str(uuid.uuid4()), runtime.settings.request_timeout_s)
        inspection = Inspection(target, posted, MM_PER_PX, keep_map=True)
        verdict = await runtime.inspector.inspect(inspection, context)
        judged.append(await asyncio.to_thread(_compare, photograph, truth, verdict, roi))
        progress("inspect", len(judged) / len(wanted))
    return judged


def _compare(
    photograph: Photograph, truth: Literal["good", "bad"], verdict: Verdict, roi: dict[str, Any] | None
) -> Judged:
    assert verdict.anomaly is not None
    size = verdict.anomaly.shape[0], verdict.anomaly.shape[1]
    inside = rasterise(parse_shape(roi, size), size)
    # What lies outside the ROI is drawn, but was never judged.
    judged_map = np.where(inside, verdict.anomaly, verdict.anomaly[inside].min())
    mask = photograph.read_mask(size)
    usable = mask is not None and bool(mask.any())
    hit = hits(judged_map, mask) if usable and mask is not None else None
    return Judged(photograph, truth, replace(verdict, anomaly=judged_map), mask if usable else None, hit)


def _draw(report: DemoReport, sheet: Path, title: str, good: list[float], bad: list[float]) -> None:
    sheet.parent.mkdir(parents=True, exist_ok=True)
    rows, rate = [_row(j) for j in pick(report.judged)], report.calibration.false_reject
    notes = [
        f"backbone {report.fit.record.metadata.model_version}",
        f"image AUROC {report.auroc:.3f}   false rejects {report.rates.false_reject:.1%}   "
        f"escapes {report.rates.escape:.1%}",
        f"guaranteed: false rejects <= {rate.upper_bound:.1%} with {rate.confidence:.0%} confidence (n = {rate.n_ok})",
    ]
    contact_sheet(rows, sheet, title=title, notes=notes, ok_scores=good, ng_scores=bad)


def pick(judged: list[Judged]) -> list[Judged]:
    """Choose what the sheet shows: wrong verdicts first, then spread evenly over the scores."""
    chosen: list[Judged] = []
    for truth, most in (("bad", SHEET_BAD), ("good", SHEET_GOOD)):
        group = sorted((j for j in judged if j.truth == truth), key=lambda j: -j.verdict.score)
        wrong = [j for j in group if j.is_wrong][: most // 2]
        right = [j for j in group if not j.is_wrong]
        room = most - len(wrong)
        step = max(1.0, len(right) / max(1, room))
        chosen += wrong + [right[int(i * step)] for i in range(min(room, len(right)))]
    return chosen


def _row(judged: Judged) -> SheetRow:
    verdict = judged.verdict
    data = judged.photograph.read()
    # The service has decoded these very bytes already: no limit is needed twice.
    pixels = decode_image(data, ImageLimits(len(data), 1 << 62), judged.photograph.name).pixels
    return SheetRow(
        name=judged.photograph.name,
        image=pixels,
        anomaly_map=verdict.anomaly,
        contours=[region.contour for region in verdict.regions],
        score=verdict.score,
        threshold=verdict.threshold,
        decision=verdict.decision,
        truth=judged.truth,
        mask=judged.mask,
    )
