"""A part's verdict: score, decision, heat map, regions, with features of the version its bank was built with."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import cv2
import numpy as np

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.calibration import Calibration
from orchestrator.domain.drift import Stream
from orchestrator.domain.identity import Target
from orchestrator.errors import CalibrationMissing, Overloaded, PatchlightError
from orchestrator.features.base import CallContext
from orchestrator.patchcore.conformal import p_value
from orchestrator.patchcore.regions import find_regions
from orchestrator.patchcore.scoring import heat_map
from orchestrator.services.backbones import Backbones
from orchestrator.services.banks import Banks, check_grid
from orchestrator.services.commit import Committer
from orchestrator.services.embed import Embedded, Embedder
from orchestrator.services.explain import Explainer
from orchestrator.services.law import score_law
from orchestrator.services.score import Scoring, crop_map, measure, score_of
from orchestrator.services.verdict import Defaults, Inspection, Ready, Verdict

# Photographs in windows judged together: up to 256 canvases each, as much as two batches of others.
_IN_WINDOWS = 2


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
        explainer: Explainer,
    ) -> None:
        self._embedder = embedder
        self._pool = embedder.pool
        self._backbones = backbones
        self._banks = banks
        self._committer = committer
        self._scoring = scoring
        self._defaults = defaults
        self._explainer = explainer
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

        Those that come in windows are judged two at a time: no more pixels are held. The caller holds the request's
        slot (`admitted`). Raises what the extractor raises: then no photograph could be judged.
        """
        in_windows = await asyncio.to_thread(self._in_windows, [i.target for i in inspections])
        whole = [place for place, i in enumerate(inspections) if i.target not in in_windows]
        large = [place for place, i in enumerate(inspections) if i.target in in_windows]
        pairs = [large[start : start + _IN_WINDOWS] for start in range(0, len(large), _IN_WINDOWS)]
        judged: dict[int, Verdict | PatchlightError] = {}
        for places in (whole, *pairs):
            verdicts = await self._judge_together([inspections[p] for p in places], context)
            judged |= zip(places, verdicts, strict=True)
        return [judged[place] for place in range(len(inspections))]

    async def _judge_together(
        self, inspections: Sequence[Inspection], context: CallContext
    ) -> list[Verdict | PatchlightError]:
        results: list[Verdict | PatchlightError | None] = [None] * len(inspections)
        attempts = await asyncio.gather(*(self._try_ready(i) for i in inspections))
        by_spec: dict[BackboneSpec, list[int]] = {}
        for index, attempt in enumerate(attempts):
            if isinstance(attempt, PatchlightError):
                results[index] = attempt
            else:
                by_spec.setdefault(attempt.spec, []).append(index)
        for spec, indices in by_spec.items():
            ready = [r for r in (attempts[i] for i in indices) if isinstance(r, Ready)]
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

    def _in_windows(self, targets: Sequence[Target]) -> set[Target]:
        found = set()
        for target in set(targets):
            # What keeps a bank from being read is its photographs' own outcome, later.
            with contextlib.suppress(PatchlightError):
                if self._banks.load(target).record.metadata.options.tiling is not None:
                    found.add(target)
        return found

    async def _try_ready(self, inspection: Inspection) -> Ready | PatchlightError:
        try:
            return await self._pool.run(self._ready, inspection)
        except PatchlightError as error:
            return error

    async def _try_judge(
        self, inspection: Inspection, ready: Ready, embedded: Embedded, features_ms: float
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

    def stream(self, target: Target) -> Stream:
        """Name the stream that the target's next part belongs to.

        Raises MemoryNotFitted, BackboneMismatch, BackboneVersionGone, FeaturesUnavailable.
        """
        bank, calibration = self._banks.snapshot(target)
        metadata = bank.record.metadata
        # The bank's own version, which it names itself; only a legacy bank takes the one in force.
        model = metadata.model_version or self._backbones.for_bank(bank.record).label
        law = score_law(bank, self._scoring, self._percentile(calibration), model)
        return Stream(target, bank.generation, metadata.fit_started_at or "", law)

    def _percentile(self, calibration: Calibration | None) -> float:
        return calibration.score_percentile if calibration else self._defaults.score_percentile

    def _ready(self, inspection: Inspection) -> Ready:
        bank, calibration = self._banks.snapshot(inspection.target)
        if calibration is None:
            self._require_none(inspection.target)
        spec = self._backbones.for_bank(bank.record)
        check_grid(bank, spec.grid)
        if inspection.lock_scale:
            self._committer.check_scale(inspection.target.part.recipe_id, inspection.mm_per_px)
        started = time.perf_counter()
        prepared = self._embedder.prepare_now(
            inspection.photograph, spec, bank.record.metadata.options.tiling
        )
        return Ready(bank, calibration, spec, prepared, (time.perf_counter() - started) * 1e3)

    def _require_none(self, target: Target) -> None:
        if self._defaults.require_calibration:
            raise CalibrationMissing(
                f"calibration_missing: {target.part.label} has no calibration in force; "
                "run /calibrate_ng or /calibrate_dataset first."
            )

    def _judge(self, inspection: Inspection, ready: Ready, embedded: Embedded, features_ms: float) -> Verdict:
        calibration, defaults = ready.calibration, self._defaults
        percentile = self._percentile(calibration)
        area_mm2_thr = calibration.area_mm2_thr if calibration else defaults.area_mm2_thr
        threshold = calibration.threshold if calibration else None
        clock = [time.perf_counter()]

        def lap() -> float:
            clock.append(time.perf_counter())
            return (clock[-1] - clock[-2]) * 1e3

        record, rule = ready.bank.record, ready.bank.record.metadata.options.score_rule
        embedded, found = measure(embedded, ready.bank.search, self._scoring, record.foreground)
        explanation = (
            self._explainer.explain(inspection.target.part, found, embedded, ready.bank, ready.spec)
            if inspection.explain
            else None
        )
        search_ms = lap()
        anomaly = crop_map(found, embedded, self._scoring)
        score = score_of(found, anomaly, embedded, ready.bank.search, percentile, rule)
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
            token_shape=(embedded.patches.shape[0], embedded.patches.shape[1]),
            heatmap_png=png,
            regions=regions,
            mm_per_px=inspection.mm_per_px,
            blur_sigma=self._scoring.blur_sigma,
            score_percentile=percentile,
            score_rule=rule,
            has_foreground=embedded.has_foreground,
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
            explanation=explanation,
            fitted_at=ready.bank.record.metadata.fit_started_at,
            p_value=p_value(score, calibration.independent_ok_scores) if calibration else None,
            score_law=score_law(
                ready.bank, self._scoring, percentile, record.metadata.model_version or ready.spec.label
            ),
        )


def _encode(heat: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    # Level 1: a heat map is smooth, and the line waits for the answer.
    return cv2.imencode(".png", heat, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
