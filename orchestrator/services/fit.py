"""Fitting: from OK photographs to a new generation of a target's memory bank."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.bank import BankMetadata, BankRecord
from orchestrator.domain.calibration import Calibration
from orchestrator.domain.identity import Target
from orchestrator.domain.memory_options import AskedOptions, MemoryOptions
from orchestrator.domain.moments import utc_text
from orchestrator.domain.samples import NewSample, StoredSample
from orchestrator.errors import FeatureContractBroken, NotEnoughSamples
from orchestrator.features.base import CallContext
from orchestrator.features.preprocess import sniff_format
from orchestrator.features.views import check_views
from orchestrator.services.backbones import Backbones
from orchestrator.services.commit import Committer, Terms
from orchestrator.services.embed import Embedded, Embedder, Photograph, RawShape, check_one_grid
from orchestrator.services.folds import build_memory
from orchestrator.services.foreground import check_foreground, find_foreground, keep_foreground
from orchestrator.services.gate import FitGate, FitProgress
from orchestrator.services.lineage import OWN_SHAPES, with_own_shapes
from orchestrator.services.samples import SampleReader
from orchestrator.services.succession import Change, Succession, until_committed
from orchestrator.services.tokens import SampleTokens


@dataclass(frozen=True, slots=True)
class FitRequest:
    """What to fit from. memory_fit keeps every patch; shape, if given, stands above the samples' own.

    options: of the new bank, whatever the old one's were. asked: those of them that the request itself named.
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
    asked: AskedOptions = field(default_factory=AskedOptions)


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
        reader: SampleReader,
        committer: Committer,
        tokens: SampleTokens,
        succession: Succession,
        gate: FitGate,
        *,
        coreset_rate: float,
        min_ok_samples: int,
    ) -> None:
        self._embedder = embedder
        self._backbones = backbones
        self._reader = reader
        self._committer = committer
        self._tokens = tokens
        self._succession = succession
        self._gate = gate
        self._coreset_rate = coreset_rate
        self._min_ok_samples = min_ok_samples

    async def fit(self, request: FitRequest, context: CallContext) -> FitResult:
        """Fit and commit; nothing changes unless it succeeds.

        Raises InvalidInput, InvalidImage, TooLarge, NotEnoughSamples, MmPerPxMismatch, Overloaded, and what the
        extractor and the store raise.
        """
        check_request(request)
        await asyncio.to_thread(self._committer.check_scale, request.target.part.recipe_id, request.mm_per_px)
        async with self._gate.enter(request.target.part.label) as progress:
            return await until_committed(lambda: self.compute(request, context, progress))

    async def compute(
        self,
        request: FitRequest,
        context: CallContext,
        progress: FitProgress,
        *,
        generation: int | None = None,
    ) -> FitResult:
        """Fit and commit a request that was admitted. generation: the one that this fit must follow, if any.

        Raises as `fit`, and Conflict (REFITTED_MEANWHILE).
        """
        started_at, started = datetime.now(UTC), time.perf_counter()
        spec = await asyncio.to_thread(self._backbones.current)
        check_views(request.options.augmentation, spec)
        posted = await self._embedder.pool.run(posted_samples, request)
        photographs, digests, sources = await asyncio.to_thread(self._gather, request, posted)
        embedded = await self._tokens.embed(
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
        shapes = [p.shape for p in photographs]
        metadata = with_own_shapes(record.metadata, dict(zip(digests, shapes, strict=True)))
        record = replace(record, metadata=metadata)
        known = dict(zip(digests, zip(shapes, embedded, strict=True), strict=True))
        change = Change(
            request.target,
            record,
            spec,
            request.images,
            posted,
            request.shape,
            known,
            Terms(generation=generation, sources=sources),
        )
        committed, calibration, samples = await self._succession.commit(change, context)
        return FitResult(committed, samples, calibration is not None, calibration)

    def _gather(
        self, request: FitRequest, posted: Sequence[NewSample]
    ) -> tuple[list[Photograph], list[str], frozenset[str]]:
        photographs: dict[str, Photograph] = {}
        if request.use_dataset:
            for stored in self._reader.all(request.target.part, "ok", request.shape):
                photographs.setdefault(stored.sha256, stored.photograph)
        sources = frozenset(p.name for p in photographs.values())
        for image, sample in zip(request.images, posted, strict=True):
            photographs.setdefault(sample.sha256, Photograph(image.data, image.name, request.shape))
        if request.use_dataset and len(photographs) < self._min_ok_samples:
            raise NotEnoughSamples(
                f"Insufficient OK samples: need at least {self._min_ok_samples}, found {len(photographs)}. "
                "Upload more with /datasets/ok/upload."
            )
        return list(photographs.values()), list(photographs), sources


def check_request(request: FitRequest) -> None:
    """Tell whether there is anything to fit from.

    Raises NotEnoughSamples.
    """
    if not request.images and not request.use_dataset:
        raise NotEnoughSamples("images: No images provided; post at least one, or send use_dataset=true.")


def posted_samples(request: FitRequest) -> list[NewSample]:
    """Give the posted photographs as they will be stored.

    Raises InvalidImage where one is no image.
    """
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
    extra: dict[str, Any] = {"memory_fit": request.memory_fit, OWN_SHAPES: {}}
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
        fit_started_at=utc_text(started_at),
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
