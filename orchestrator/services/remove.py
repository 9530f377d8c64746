"""Removing a good photograph together with its patches: a new bank generation, then the photograph itself."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.bank import BankMetadata, BankRecord
from orchestrator.domain.calibration import Calibration
from orchestrator.domain.identity import Part, Target
from orchestrator.domain.moments import utc_text
from orchestrator.domain.samples import safe_name
from orchestrator.errors import NotEnoughSamples, NotFound, StoreUnavailable
from orchestrator.features.base import CallContext
from orchestrator.services.commit import Committer, Terms
from orchestrator.services.cover import Work, without
from orchestrator.services.datasets import Datasets
from orchestrator.services.embed import Embedded, RawShape
from orchestrator.services.gate import FitGate, FitProgress
from orchestrator.services.lineage import Lineage, fitted_shape, recallable, with_own_shapes
from orchestrator.services.pool import NumericsPool
from orchestrator.services.samples import ReadSample, SampleReader
from orchestrator.services.succession import Change, Succession, until_committed
from orchestrator.services.tokens import SampleTokens

_DIGEST8 = re.compile(r"OK_\d{8}_\d{9}_([0-9a-f]{8})\.[a-z]+")

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of a photograph and of the bank that held it.

    record: the new generation, None where the bank did not hold the photograph. without_tokens: how many photographs of
    the bank are neither stored nor cached, so that their rows were kept as they were.
    """

    deleted: bool
    record: BankRecord | None = None
    calibration: Calibration | None = None
    without_tokens: int = 0


class Remover:
    """Removes photographs and their patches."""

    def __init__(
        self,
        datasets: Datasets,
        committer: Committer,
        reader: SampleReader,
        lineage: Lineage,
        tokens: SampleTokens,
        succession: Succession,
        gate: FitGate,
        pool: NumericsPool,
    ) -> None:
        self._datasets = datasets
        self._committer = committer
        self._reader = reader
        self._lineage = lineage
        self._tokens = tokens
        self._succession = succession
        self._gate = gate
        self._pool = pool

    async def remove(self, target: Target, filename: str, context: CallContext) -> Removal:
        """Remove an OK photograph from the store and from the target's bank; nothing changes unless it succeeds.

        The bank is committed first: an interruption leaves a stored photograph that no bank holds, never the reverse.
        One that is gone from the store already is known by the digest in its name.

        Raises NotEnoughSamples where it is the bank's only one, Conflict, BackboneMismatch, Overloaded, and what the
        extractor and the store raise.
        """
        async with self._gate.enter(target.part.label) as progress:
            return await until_committed(lambda: self._remove(target, filename, context, progress))

    async def _remove(
        self, target: Target, filename: str, context: CallContext, progress: FitProgress
    ) -> Removal:
        started_at, started = datetime.now(UTC), time.perf_counter()
        generation, bank = await asyncio.to_thread(self._lineage.current, target, "refit")
        held = bank.record.metadata.sample_sha256 if bank is not None else ()
        digest, stored = await asyncio.to_thread(self._digest, target.part, filename, held)
        if bank is None or digest is None or digest not in held:
            # Only where no other bank came meanwhile: it may hold the photograph, whose rows would stay.
            return Removal(await asyncio.to_thread(self._committer.remove, target, filename, generation))
        if len(held) == 1:
            raise NotEnoughSamples(
                f"refit: {filename} is the only photograph in the memory, which cannot be empty. Delete it without "
                "refit, or fit from other photographs first."
            )
        spec = await asyncio.to_thread(self._lineage.spec, bank, "refit")
        shape = fitted_shape(bank.record.metadata)
        others = [d for d in held if d != digest]
        samples = await asyncio.to_thread(self._stored, target.part, frozenset(others), shape)
        embedded = await self._tokens.embed(
            [s.photograph for s in samples],
            spec,
            context,
            lambda share: progress.part(0.0, 0.5, share),
            options=bank.record.metadata.options,
        )
        tokens = {s.sha256: e for s, e in zip(samples, embedded, strict=True)}
        gone = [d for d in others if d not in tokens]
        tokens |= await self._pool.run_fit(self._recalled, gone, bank.record.metadata, spec)
        lost = len(others) - len(tokens)
        if lost:
            _log.warning("refit.tokens_lost", photographs=lost, of=len(others))

        def on_cover(share: float) -> None:
            self._pool.keep_going()
            progress.part(0.5, 0.9, share)

        record = await self._pool.run_fit(without, bank, digest, tokens, Work(on_cover, self._pool.threads))
        metadata = with_own_shapes(record.metadata, {s.sha256: s.photograph.shape for s in samples})
        record = replace(record, metadata=metadata)
        change = Change(
            target,
            _stamped(record, started_at, started),
            spec,
            known={s.sha256: (s.photograph.shape, tokens[s.sha256]) for s in samples},
            terms=Terms(
                generation,
                frozenset(s.filename for s in samples),
                leaving=safe_name(filename) if stored else None,
            ),
            leaving=digest,
        )
        committed, calibration, _ = await self._succession.commit(change, context)
        await asyncio.to_thread(self._tokens.forget, digest)
        left = await asyncio.to_thread(self._is_stored, target.part, filename)
        return Removal(stored and not left, committed, calibration, lost)

    def _digest(self, part: Part, filename: str, held: Sequence[str]) -> tuple[str | None, bool]:
        try:
            return hashlib.sha256(self._datasets.read(part, "ok", filename)).hexdigest(), True
        except NotFound:
            name = _DIGEST8.fullmatch(safe_name(filename) or "")
        if name is None:
            return None, False
        # The same bytes under another name are stored, so they stay in the bank.
        elsewhere = any(f"_{name[1]}." in other for other in self._reader.names(part, "ok"))
        matching = [d for d in held if d.startswith(name[1])]
        return (matching[0] if len(matching) == 1 and not elsewhere else None), False

    def _stored(self, part: Part, digests: frozenset[str], shape: RawShape) -> list[ReadSample]:
        return list(self._reader.of(part, "ok", digests, shape))

    def _recalled(
        self, digests: Sequence[str], metadata: BankMetadata, spec: BackboneSpec
    ) -> dict[str, Embedded]:
        shapes, options = recallable(metadata), metadata.options
        found = {d: self._tokens.recall(d, shapes[d], spec, options) for d in digests if d in shapes}
        return {d: e for d, e in found.items() if e is not None}

    def _is_stored(self, part: Part, filename: str) -> bool:
        try:
            return safe_name(filename) in self._reader.names(part, "ok")
        except StoreUnavailable as error:
            # The bank is committed, so this fails no request; a second removal finds a photograph that is only stored.
            _log.warning("sample.not_listed", part=part.label, filename=filename, error=error.message)
            return True


def _stamped(record: BankRecord, started_at: datetime, started: float) -> BankRecord:
    metadata = replace(
        record.metadata,
        fit_started_at=utc_text(started_at),
        fit_duration_s=time.perf_counter() - started,
    )
    return replace(record, metadata=metadata)
