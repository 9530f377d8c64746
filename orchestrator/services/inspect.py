"""A part's verdict: score, decision, heat map, regions, with features of the version its bank was built with."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np

from orchestrator.domain.arrays import FloatArray
from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.calibration import Calibration
from orchestrator.domain.identity import Target
from orchestrator.errors import CalibrationMissing, Overloaded, PatchlightError
from orchestrator.features.base import CallContext
from orchestrator.patchcore.conformal import p_value
from orchestrator.patchcore.regions import Region, find_regions
from orchestrator.patchcore.scoring import heat_map, image_score
from orchestrator.services.backbones import Backbones
from orchestrator.services.banks import Banks, LoadedBank, check_grid
from orchestrator.services.commit import Committer
from orchestrator.services.embed import Embedded, Embedder, Photograph, Prepared
from orchestrator.services.score import Scoring, crop_map, patch_distances


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds where no calibration is in force."""

    score_percentile: float
    area_mm2_thr: float
    require_calibration: bool


@dataclass(frozen=True, slots=True)
class Inspection:
    """One photograph to be judged.

    lock_scale: whether its mm_per_px is held against the recipe's lock. keep_map: whether the verdict carries the map.
    """

    target: Target
    photograph: Photograph
    mm_per_px: float
    include_heatmap: bool = True
    lock_scale: bool = True
    keep_map: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found. threshold, decision: None without a calibration in force. heatmap_png: None unless asked for.

    anomaly: (H, W) float32 distances in the crop's frame, if kept. timings_ms: by stage. p_value: the chance that a
    good part scores this high, None without the OK scores of a calibration.
    """

    score: float
    threshold: float | None
    decision: Literal["ok", "ng"] | None
    token_shape: tuple[int, int]
    heatmap_png: bytes | None
    regions: list[Region]
    mm_per_px: float
    blur_sigma: float
    score_percentile: float
    area_mm2_thr: float
    elapsed_ms: float
    timings_ms: dict[str, float]
    model_version: str
    bank_generation: int
    input_size: tuple[int, int]
    anomaly: FloatArray | None
    p_value: float | None = None


@dataclass(frozen=True, slots=True)
class _Ready:
    bank: LoadedBank
    calibration: Calibration | None
    spec: BackboneSpec
    prepared: Prepared
    decode_ms: float


class Inspector:
    """Judges photographs, one or many."""

    def __init__(
        self,
        embedder: Embedder,
        backbones: Backbones,
        banks: Banks,
        committer: Committer,
        scoring: Scoring,
        defaults: Defaults,
        max_inflight: int,
    ) -> None:
        self._embedder = embedder
        self._pool = embedder.pool
        self._backbones = backbones
        self._banks = banks
        self._committer = committer
        self._scoring = scoring
        self._defaults = defaults
        self._permits = asyncio.Semaphore(max_inflight)

    @property
    def batch_size(self) -> int:
        """Photographs judged together."""
        return self._embedder.batch_size

    async def inspect(self, inspection: Inspection, context: CallContext) -> Verdict:
        """Judge one photograph.

        Raises MemoryNotFitted, CalibrationMissing, BackboneMismatch, BackboneVersionGone, InvalidImage, TooLarge,
        InvalidInput, MmPerPxMismatch, Overloaded, and what the extractor raises.
        """
        async with self.admitted():
            started = time.perf_counter()
            ready = await self._pool.run(self._ready, inspection)
            before = time.perf_counter()
            (embedded,) = await self._embedder.extract([ready.prepared], ready.spec, context)
            features_ms = (time.perf_counter() - before) * 1e3
            verdict = await self._pool.run(self._judge, inspection, ready, embedded, features_ms)
            return replace(verdict, elapsed_ms=(time.perf_counter() - started) * 1e3)

    @contextlib.asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Hold one slot for a whole request of many photographs.

        Raises Overloaded at once where none is free.
        """
        if self._permits.locked():
            raise Overloaded("all inspection slots are taken; try again in a second.")
        async with self._permits:
            yield

    async def inspect_many(
        self, inspections: Sequence[Inspection], context: CallContext
    ) -> list[Verdict | PatchlightError]:
        """Judge a batch in order, with one feature call a backbone version; a bad photograph fails alone.

        The caller holds the request's slot (`admitted`). Raises what the extractor raises: then no photograph could
        be judged.
        """
        results: list[Verdict | PatchlightError | None] = [None] * len(inspections)
        attempts = await asyncio.gather(*(self._try_ready(i) for i in inspections))
        by_spec: dict[BackboneSpec, list[int]] = {}
        for index, attempt in enumerate(attempts):
            if isinstance(attempt, PatchlightError):
                results[index] = attempt
            else:
                by_spec.setdefault(attempt.spec, []).append(index)
        for spec, indices in by_spec.items():
            ready = [r for r in (attempts[i] for i in indices) if isinstance(r, _Ready)]
            before = time.perf_counter()
            embedded = await self._embedder.extract([r.prepared for r in ready], spec, context)
            features_ms = (time.perf_counter() - before) * 1e3 / len(ready)
            judged = await asyncio.gather(
                *(
                    self._try_judge(inspections[i], r, e, features_ms)
                    for i, r, e in zip(indices, ready, embedded, strict=True)
                )
            )
            for index, verdict in zip(indices, judged, strict=True):
                results[index] = verdict
        return [r for r in results if r is not None]

    async def _try_ready(self, inspection: Inspection) -> _Ready | PatchlightError:
        try:
            return await self._pool.run(self._ready, inspection)
        except PatchlightError as error:
            return error

    async def _try_judge(
        self, inspection: Inspection, ready: _Ready, embedded: Embedded, features_ms: float
    ) -> Verdict | PatchlightError:
        try:
            verdict = await self._pool.run(self._judge, inspection, ready, embedded, features_ms)
        except PatchlightError as error:
            return error
        return replace(verdict, elapsed_ms=sum(verdict.timings_ms.values()))

    def check_any(self, targets: Sequence[Target]) -> None:
        """Refuse early where not one of the targets could be judged; the others' photographs fail alone.

        Raises what `check` raises for the first target.
        """
        failures: list[PatchlightError] = []
        for target in dict.fromkeys(targets):
            try:
                self.check(target)
            except PatchlightError as error:
                failures.append(error)
            else:
                return
        raise failures[0]

    def lock_scale(self, recipe_id: str, mm_per_px: float) -> None:
        """Lock the recipe's scale, or compare with its lock.

        Raises MmPerPxMismatch, StoreUnavailable.
        """
        self._committer.scale(recipe_id, mm_per_px)

    def check(self, target: Target) -> None:
        """Refuse early what no photograph of this target could be judged with.

        Raises as `inspect`.
        """
        bank, calibration = self._banks.snapshot(target)
        if calibration is None:
            self._require_none(target)
        check_grid(bank, self._backbones.for_bank(bank.record).grid)

    def _ready(self, inspection: Inspection) -> _Ready:
        bank, calibration = self._banks.snapshot(inspection.target)
        if calibration is None:
            self._require_none(inspection.target)
        spec = self._backbones.for_bank(bank.record)
        check_grid(bank, spec.grid)
        if inspection.lock_scale:
            self._committer.check_scale(inspection.target.part.recipe_id, inspection.mm_per_px)
        started = time.perf_counter()
        prepared = self._embedder.prepare_now(inspection.photograph, spec)
        return _Ready(bank, calibration, spec, prepared, (time.perf_counter() - started) * 1e3)

    def _require_none(self, target: Target) -> None:
        if self._defaults.require_calibration:
            raise CalibrationMissing(
                f"calibration_missing: {target.part.label} has no calibration in force; "
                "run /calibrate_ng or /calibrate_dataset first."
            )

    def _judge(
        self, inspection: Inspection, ready: _Ready, embedded: Embedded, features_ms: float
    ) -> Verdict:
        calibration, defaults = ready.calibration, self._defaults
        percentile = calibration.score_percentile if calibration else defaults.score_percentile
        area_mm2_thr = calibration.area_mm2_thr if calibration else defaults.area_mm2_thr
        threshold = calibration.threshold if calibration else None
        clock = [time.perf_counter()]

        def lap() -> float:
            clock.append(time.perf_counter())
            return (clock[-1] - clock[-2]) * 1e3

        found = patch_distances(embedded, ready.bank.search)
        search_ms = lap()
        anomaly = crop_map(found, embedded, self._scoring)
        score = image_score(anomaly, embedded.mask, percentile)
        regions = (
            find_regions(
                anomaly,
                embedded.mask,
                threshold,
                mm_per_px=inspection.mm_per_px,
                area_mm2_thr=area_mm2_thr,
            )
            if threshold is not None
            else []
        )
        map_ms = lap()
        png = _encode(heat_map(anomaly, embedded.mask)) if inspection.include_heatmap else None
        encode_ms = lap()
        if inspection.lock_scale:
            self._committer.scale(inspection.target.part.recipe_id, inspection.mm_per_px)
        return Verdict(
            score=score,
            threshold=threshold,
            decision=None if threshold is None else ("ng" if score >= threshold else "ok"),
            token_shape=ready.spec.grid,
            heatmap_png=png,
            regions=regions,
            mm_per_px=inspection.mm_per_px,
            blur_sigma=self._scoring.blur_sigma,
            score_percentile=percentile,
            area_mm2_thr=area_mm2_thr,
            elapsed_ms=0.0,
            timings_ms={
                "decode": ready.decode_ms,
                "features": features_ms,
                "search": search_ms,
                "map": map_ms,
                "encode": encode_ms,
            },
            model_version=ready.spec.label,
            bank_generation=ready.bank.generation,
            input_size=ready.spec.input_size,
            anomaly=anomaly if inspection.keep_map else None,
            p_value=p_value(score, calibration.independent_ok_scores) if calibration else None,
        )


def _encode(heat: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    # Level 1: a heat map is smooth, and the line waits for the answer.
    return cv2.imencode(".png", heat, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
