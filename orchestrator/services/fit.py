"""Fitting: from OK photographs to a new generation of a target's memory bank."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.bank import BankMetadata, BankRecord
from orchestrator.domain.calibration import Calibration
from orchestrator.domain.identity import Target
from orchestrator.domain.memory_options import MemoryOptions
from orchestrator.domain.samples import NewSample, StoredSample
from orchestrator.errors import (
    Conflict,
    FeatureContractBroken,
    NotEnoughSamples,
    PatchlightError,
    StoreCorrupt,
)
from orchestrator.features.base import CallContext
from orchestrator.features.preprocess import sniff_format
from orchestrator.features.views import check_views
from orchestrator.services.backbones import Backbones
from orchestrator.services.banks import Banks, memory_of
from orchestrator.services.calibrate import Calibrator, Recipe
from orchestrator.services.commit import CALIBRATED_MEANWHILE, Committer
from orchestrator.services.embed import Embedded, Embedder, Photograph, RawShape, check_one_grid
from orchestrator.services.folds import build_memory
from orchestrator.services.foreground import check_foreground, find_foreground, keep_foreground
from orchestrator.services.gate import FitGate, FitProgress
from orchestrator.services.indexing import index_bank
from orchestrator.services.samples import ReadSample, SampleReader
from orchestrator.services.score import Scoring
from orchestrator.storage.activity import ActivityStore

if TYPE_CHECKING:
    from orchestrator.patchcore.inverted_file import InvertedFile

_log = structlog.get_logger()

_TRIES = 3


@dataclass(frozen=True, slots=True)
class FitRequest:
    """What to fit from. memory_fit keeps every patch; shape, if given, stands above the samples' own.

    options: of the new bank, whatever the old one's were.
    """

    target: Target
    mm_per_px: float
    images: Sequence[Photograph] = ()
    use_dataset: bool = False
    memory_fit: bool = False
    shape: RawShape = None
    operator_id: str | None = None
    notes: str | None = None
    options: MemoryOptions = field(default_factory=MemoryOptions)


@dataclass(frozen=True, slots=True)
class FitResult:
    """The committed generation."""

    record: BankRecord
    samples: list[StoredSample]
    recalibrated: bool
    calibration: Calibration | None


class Fitter:
    """Builds memory banks."""

    def __init__(
        self,
        embedder: Embedder,
        backbones: Backbones,
        banks: Banks,
        reader: SampleReader,
        committer: Committer,
        calibrator: Calibrator,
        activity: ActivityStore,
        gate: FitGate,
        scoring: Scoring,
        *,
        coreset_rate: float,
        min_ok_samples: int,
    ) -> None:
        self._embedder = embedder
        self._backbones = backbones
        self._banks = banks
        self._reader = reader
        self._committer = committer
        self._calibrator = calibrator
        self._activity = activity
        self._gate = gate
        self._scoring = scoring
        self._coreset_rate = coreset_rate
        self._min_ok_samples = min_ok_samples

    async def fit(self, request: FitRequest, context: CallContext) -> FitResult:
        """Fit and commit; nothing changes unless it succeeds.

        Raises InvalidInput, InvalidImage, TooLarge, NotEnoughSamples, MmPerPxMismatch, Overloaded, and what the
        extractor and the store raise.
        """
        if not request.images and not request.use_dataset:
            raise NotEnoughSamples("images: No images provided; post at least one, or send use_dataset=true.")
        await asyncio.to_thread(self._committer.check_scale, request.target.part.recipe_id, request.mm_per_px)
        async with self._gate.enter(request.target.part.label) as progress:
            return await self._fit(request, context, progress)

    async def _fit(self, request: FitRequest, context: CallContext, progress: FitProgress) -> FitResult:
        started_at, started = datetime.now(UTC), time.perf_counter()
        spec = await asyncio.to_thread(self._backbones.current)
        check_views(request.options.augmentation, spec)
        posted = await self._embedder.pool.run(_posted, request)
        photographs, digests = await asyncio.to_thread(self._gather, request, posted)
        embedded = await self._embedder.embed(
            photographs,
            spec,
            context,
            lambda share: progress.part(0.0, 0.5, share),
            options=request.options,
            for_bank=True,
        )
        check_one_grid(photographs, embedded)
        rate = 1.0 if request.memory_fit else self._coreset_rate

        def on_coreset(share: float) -> None:
            self._embedder.pool.keep_going()
            progress.part(0.5, 0.9, share)

        record = await self._embedder.pool.run_fit(
            _build,
            request,
            spec,
            embedded,
            digests,
            rate,
            self._coreset_rate,
            started_at,
            started,
            on_coreset,
            self._embedder.pool.threads,
        )
        record, index = await self._embedder.pool.run_fit(index_bank, record, self._scoring)
        shapes = [p.shape for p in photographs]
        known = dict(zip(digests, zip(shapes, embedded, strict=True), strict=True))
        for attempt in range(_TRIES):
            try:
                committed, calibration, samples = await self._commit(
                    request, record, index, spec, posted, known, context
                )
                break
            except Conflict as error:
                if error.code != CALIBRATED_MEANWHILE or attempt + 1 == _TRIES:
                    raise
        finished_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        await asyncio.to_thread(self._announce, finished_at, len(committed.embeddings))
        return FitResult(committed, samples, calibration is not None, calibration)

    async def _commit(
        self,
        request: FitRequest,
        record: BankRecord,
        index: InvertedFile | None,
        spec: BackboneSpec,
        posted: Sequence[NewSample],
        known: Mapping[str, tuple[RawShape, Embedded]],
        context: CallContext,
    ) -> tuple[BankRecord, Calibration | None, list[StoredSample]]:
        before = await asyncio.to_thread(self._in_force, request.target)
        evidence = None
        if before is not None:
            recipe = _same_recipe(before, request)
            pending = [
                ReadSample(Photograph(image.data, image.name, recipe.shape), image.name, sample.sha256, None)
                for image, sample in zip(request.images, posted, strict=True)
            ]
            search = await self._embedder.pool.run_fit(self._scoring.search, memory_of(record), index)
            evidence = await self._calibrator.evidence(
                request.target, record, search, spec, recipe, context, pending=pending, known=known
            )

        chosen = None if evidence is None else await asyncio.to_thread(evidence.at, 0)

        def calibrate(generation: int) -> Calibration | None:
            return None if chosen is None else replace(chosen, bank_generation=generation)

        return await asyncio.to_thread(
            self._committer.fit,
            request.target,
            record,
            posted,
            calibrate,
            before=before,
            index=index.data if index is not None else None,
        )

    def _announce(self, finished_at: str, coreset_size: int) -> None:
        # The bank is committed: a fit must not fail for what people read beside it.
        try:
            self._activity.completed(finished_at, coreset_size)
        except PatchlightError as error:
            _log.warning("activity.not_written", error=error.message)

    def _gather(self, request: FitRequest, posted: Sequence[NewSample]) -> tuple[list[Photograph], list[str]]:
        photographs: dict[str, Photograph] = {}
        if request.use_dataset:
            for stored in self._reader.all(request.target.part, "ok", request.shape):
                photographs.setdefault(stored.sha256, stored.photograph)
        for image, sample in zip(request.images, posted, strict=True):
            photographs.setdefault(sample.sha256, Photograph(image.data, image.name, request.shape))
        if request.use_dataset and len(photographs) < self._min_ok_samples:
            raise NotEnoughSamples(
                f"Insufficient OK samples: need at least {self._min_ok_samples}, found {len(photographs)}. "
                "Upload more with /datasets/ok/upload."
            )
        return list(photographs.values()), list(photographs)

    def _in_force(self, target: Target) -> Calibration | None:
        try:
            bank, calibration = self._banks.find_snapshot(target)
            if bank is not None and calibration is None:
                # One that only lost its index: the new bank brings another, and a threshold that came through it.
                calibration = self._banks.of_generation(target, bank)
        except StoreCorrupt:
            # What this fit replaces: a damaged bank has no calibration in force.
            return None
        return calibration if calibration is not None and calibration.threshold > 0 else None


def _same_recipe(calibration: Calibration, request: FitRequest) -> Recipe:
    return Recipe(
        calibration.score_percentile,
        calibration.area_mm2_thr,
        calibration.mm_per_px,
        operator_id=calibration.operator_id,
        notes=calibration.notes,
        shape=request.shape if request.shape is not None else calibration.shape,
        method=calibration.method,
        max_false_reject_rate=calibration.max_false_reject_rate,
        confidence=calibration.false_reject.confidence,
        costs=calibration.costs,
    )


def _posted(request: FitRequest) -> list[NewSample]:
    posted = []
    for image in request.images:
        image_format = sniff_format(image.data, image.name)
        meta: dict[str, Any] = {"mm_per_px": request.mm_per_px, "source": "fit_ok"}
        if request.shape is not None:
            meta["shape_json"] = request.shape
        meta.update({k: v for k in ("operator_id", "notes") if (v := getattr(request, k)) is not None})
        digest = hashlib.sha256(image.data).hexdigest()
        posted.append(NewSample(image.data, digest, image_format, meta))
    return posted


def _build(
    request: FitRequest,
    spec: BackboneSpec,
    embedded: Sequence[Embedded],
    digests: Sequence[str],
    rate: float,
    requested_rate: float,
    started_at: datetime,
    started: float,
    on_coreset: Callable[[float], None],
    threads: int,
) -> BankRecord:
    extra: dict[str, Any] = {"memory_fit": request.memory_fit}
    axis = None
    if request.options.foreground:
        found = find_foreground(embedded)
        check_foreground(found)
        axis, extra["foreground_share"] = found.axis, found.share
    members = [keep_foreground(e, axis) for e in embedded]
    memory, kept, n_embeddings = build_memory(members, rate, on_coreset, threads=threads)
    patches = [m.bank_patches for m in members]
    sample_of = np.repeat(np.arange(len(members)), [len(p) for p in patches])
    patch_of = np.concatenate(patches)
    if memory.embeddings.shape[1] != spec.dim:
        raise FeatureContractBroken(
            f"tokens have {memory.embeddings.shape[1]} dimensions, the manifest says {spec.dim}"
        )
    if request.shape is not None:
        extra["shape_json"] = request.shape
    metadata = BankMetadata(
        generation=0,
        backbone=spec.name,
        backbone_version=spec.version,
        fingerprint=spec.fingerprint,
        n_embeddings=n_embeddings,
        coreset_rate_requested=requested_rate,
        coreset_rate_applied=rate,
        mm_per_px=request.mm_per_px,
        fit_started_at=started_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        fit_duration_s=time.perf_counter() - started,
        sample_sha256=tuple(digests),
        from_dataset=request.use_dataset,
        operator_id=request.operator_id,
        notes=request.notes,
        options=request.options,
        extra=extra,
    )
    return BankRecord(
        memory.embeddings.astype(np.float16),
        memory.grid,
        metadata,
        sample_of[kept].astype(np.int64),
        patch_of[kept].astype(np.int64),
        axis,
    )
