"""Adding photographs to the memory bank that is there, instead of building it anew.

As many rows enter as the bank's own rate asks for (`cover`). A photograph that the bank holds is not added again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from orchestrator.domain.bank import BankMetadata, BankRecord
from orchestrator.domain.calibration import Calibration
from orchestrator.domain.identity import Target
from orchestrator.domain.moments import utc_text
from orchestrator.domain.samples import NewSample
from orchestrator.errors import Conflict, InvalidInput
from orchestrator.features.base import CallContext
from orchestrator.services.banks import Banks
from orchestrator.services.commit import Committer, Terms
from orchestrator.services.cover import Work, candidates, extended
from orchestrator.services.embed import Embedded, Photograph, RawShape
from orchestrator.services.fit import FitRequest, FitResult, Fitter, check_request, posted_samples
from orchestrator.services.gate import FitGate, FitProgress
from orchestrator.services.lineage import Lineage, fitted_shape, with_own_shapes
from orchestrator.services.pool import NumericsPool
from orchestrator.services.samples import ReadSample, SampleReader
from orchestrator.services.succession import Change, Succession, until_committed
from orchestrator.services.tokens import SampleTokens, same_shape


@dataclass(frozen=True, slots=True)
class _New:
    """Photographs that the bank does not hold, by digest. sources: names of those that are stored already."""

    photographs: Mapping[str, Photograph]
    sources: frozenset[str]


class Accumulator:
    """Adds to memory banks; a target without one gets its first by a plain fit."""

    def __init__(
        self,
        fitter: Fitter,
        lineage: Lineage,
        banks: Banks,
        reader: SampleReader,
        committer: Committer,
        tokens: SampleTokens,
        succession: Succession,
        gate: FitGate,
        pool: NumericsPool,
    ) -> None:
        self._fitter = fitter
        self._lineage = lineage
        self._banks = banks
        self._reader = reader
        self._committer = committer
        self._tokens = tokens
        self._succession = succession
        self._gate = gate
        self._pool = pool

    async def fit(self, request: FitRequest, context: CallContext) -> FitResult:
        """Add and commit; nothing changes unless it succeeds. With nothing new, the generation stays.

        An accumulation that another commit overtakes is computed again on top of it.

        Raises as `Fitter.fit`, and Conflict, BackboneMismatch, BackboneVersionGone where the bank cannot be continued
        so.
        """
        check_request(request)
        target = request.target
        await asyncio.to_thread(self._committer.check_scale, target.part.recipe_id, request.mm_per_px)
        async with self._gate.enter(target.part.label) as progress:
            return await until_committed(lambda: self._add(request, context, progress))

    async def _add(self, request: FitRequest, context: CallContext, progress: FitProgress) -> FitResult:
        started_at, started = datetime.now(UTC), time.perf_counter()
        generation, bank = await asyncio.to_thread(self._lineage.current, request.target, "accumulate")
        if bank is None:
            return await self._fitter.compute(request, context, progress, generation=generation)
        spec = await asyncio.to_thread(self._lineage.spec, bank, "accumulate")
        metadata = bank.record.metadata
        own = replace(request, shape=_shape(request, metadata))
        _check_rate(request, metadata)
        _check_options(request, metadata)
        posted = await self._pool.run(posted_samples, own)
        new = await asyncio.to_thread(self._new, own, posted, frozenset(metadata.sample_sha256))
        if not new.photographs:
            part, scale = request.target.part, request.mm_per_px
            stored = await asyncio.to_thread(self._committer.samples, part, "ok", posted, scale)
            in_force = await asyncio.to_thread(self._in_force, request.target)
            return FitResult(bank.record, stored, recalibrated=False, calibration=in_force)
        photographs = list(new.photographs.values())
        embedded = await self._tokens.embed(
            photographs,
            spec,
            context,
            lambda share: progress.part(0.0, 0.4, share),
            options=metadata.options,
        )
        await asyncio.to_thread(_check_grids, bank.record, photographs, embedded)
        added = dict(zip(new.photographs, embedded, strict=True))
        older = candidates(metadata, len(added))
        samples = await asyncio.to_thread(self._stored, own, older)
        tokens = await self._tokens.embed(
            [s.photograph for s in samples],
            spec,
            context,
            lambda share: progress.part(0.4, 0.5, share),
            options=metadata.options,
        )
        old = {s.sha256: e for s, e in zip(samples, tokens, strict=True)}

        def on_coreset(share: float) -> None:
            self._pool.keep_going()
            progress.part(0.5, 0.9, share)

        record = await self._pool.run_fit(extended, bank, added, old, Work(on_coreset, self._pool.threads))
        shapes = {d: p.shape for d, p in new.photographs.items()}
        shapes |= {s.sha256: s.photograph.shape for s in samples}
        metadata = with_own_shapes(record.metadata, shapes)
        record = replace(record, metadata=_described(metadata, request, started_at, started))
        known = {d: (p.shape, added[d]) for d, p in new.photographs.items()}
        known |= {s.sha256: (s.photograph.shape, old[s.sha256]) for s in samples}
        images = [replace(image, shape=own.shape) for image in request.images]
        terms = Terms(generation, new.sources)
        change = Change(request.target, record, spec, images, posted, request.shape, known, terms)
        committed, calibration, stored = await self._succession.commit(change, context)
        return FitResult(committed, stored, calibration is not None, calibration)

    def _new(self, request: FitRequest, posted: Sequence[NewSample], held: frozenset[str]) -> _New:
        found: dict[str, Photograph] = {}
        if request.use_dataset:
            for stored in self._reader.all(request.target.part, "ok", request.shape):
                found.setdefault(stored.sha256, stored.photograph)
        sources = frozenset(p.name for digest, p in found.items() if digest not in held)
        for image, sample in zip(request.images, posted, strict=True):
            found.setdefault(sample.sha256, replace(image, shape=request.shape))
        return _New({digest: p for digest, p in found.items() if digest not in held}, sources)

    def _stored(self, request: FitRequest, digests: Sequence[str]) -> list[ReadSample]:
        return list(self._reader.of(request.target.part, "ok", digests, request.shape))

    def _in_force(self, target: Target) -> Calibration | None:
        return self._banks.find_snapshot(target)[1]


def _described(
    metadata: BankMetadata, request: FitRequest, started_at: datetime, started: float
) -> BankMetadata:
    return replace(
        metadata,
        mm_per_px=request.mm_per_px,
        fit_started_at=utc_text(started_at),
        fit_duration_s=time.perf_counter() - started,
        from_dataset=metadata.from_dataset or request.use_dataset,
        operator_id=request.operator_id if request.operator_id is not None else metadata.operator_id,
        notes=request.notes if request.notes is not None else metadata.notes,
    )


def _shape(request: FitRequest, metadata: BankMetadata) -> RawShape:
    fitted = fitted_shape(metadata)
    if fitted is None or request.shape is None:
        return request.shape if fitted is None else fitted
    if not same_shape(fitted, request.shape):
        raise Conflict(
            "shape: the memory was fitted with another ROI; send that one or none, or fit anew without accumulate."
        )
    return fitted


def _check_options(request: FitRequest, metadata: BankMetadata) -> None:
    others = request.asked.against(metadata.options)
    if others:
        raise Conflict(
            f"{', '.join(others)}: the memory was fitted otherwise, and what is added follows it; leave that out, or "
            "fit anew without accumulate."
        )


def _check_grids(record: BankRecord, photographs: Sequence[Photograph], embedded: Sequence[Embedded]) -> None:
    for photograph, one in zip(photographs, embedded, strict=True):
        if one.patches.shape != record.grid:
            raise InvalidInput(
                f"{photograph.name}: gives {one.patches.shape[0]} x {one.patches.shape[1]} tokens, the memory holds "
                f"{record.grid[0]} x {record.grid[1]}; crops larger than tile_px must all have one size in a memory."
            )


def _check_rate(request: FitRequest, metadata: BankMetadata) -> None:
    if request.memory_fit and metadata.coreset_rate_applied < 1:
        raise Conflict(
            f"memory_fit: the memory keeps {metadata.coreset_rate_applied:g} of its patches, and what is added follows "
            "it; leave memory_fit out, or fit anew without accumulate."
        )
