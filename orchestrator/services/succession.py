"""From a computed bank to its target's next generation: recalibrated where a calibration was in force, committed whole.

Knows when a commit must be computed again because another one came first; not how a bank is computed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import structlog

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.bank import BankRecord
from orchestrator.domain.calibration import Calibration
from orchestrator.domain.identity import Target
from orchestrator.domain.moments import utc_text
from orchestrator.domain.samples import NewSample, StoredSample
from orchestrator.errors import Conflict, PatchlightError, StoreCorrupt
from orchestrator.features.base import CallContext
from orchestrator.services.banks import Banks, memory_of
from orchestrator.services.calibrate import Calibrator
from orchestrator.services.commit import CALIBRATED_MEANWHILE, REFITTED_MEANWHILE, Committer, Terms
from orchestrator.services.embed import Embedded, Photograph, RawShape
from orchestrator.services.evidence import Recipe
from orchestrator.services.indexing import index_bank
from orchestrator.services.pool import NumericsPool
from orchestrator.services.samples import ReadSample
from orchestrator.services.score import Scoring
from orchestrator.storage.activity import ActivityStore

if TYPE_CHECKING:
    from orchestrator.patchcore.inverted_file import InvertedFile

T = TypeVar("T")
_TRIES = 3
REFIT_TRIES = 12
"""Of a fit that others overtake: one of those that meet always commits, so this many may meet."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Change:
    """A computed bank on its way to being the next generation.

    images, posted: the photographs stored with it, and as samples, in one order. shape: the ROI that the request asked
    for, above the calibration's own. known: tokens at hand by digest, with the ROI that they were masked by.
    leaving: digest of the sample that goes.
    """

    target: Target
    record: BankRecord
    spec: BackboneSpec
    images: Sequence[Photograph] = ()
    posted: Sequence[NewSample] = ()
    shape: RawShape = None
    known: Mapping[str, tuple[RawShape, Embedded]] = field(default_factory=dict)
    terms: Terms = field(default_factory=Terms)
    leaving: str | None = None


class Succession:
    """Commits banks."""

    def __init__(
        self,
        banks: Banks,
        calibrator: Calibrator,
        committer: Committer,
        activity: ActivityStore,
        scoring: Scoring,
        pool: NumericsPool,
    ) -> None:
        self._scoring = scoring
        self._pool = pool
        self._banks = banks
        self._calibrator = calibrator
        self._committer = committer
        self._activity = activity

    async def commit(
        self, change: Change, context: CallContext
    ) -> tuple[BankRecord, Calibration | None, list[StoredSample]]:
        """Index a large bank, recalibrate by the rules in force, and commit; nothing changes unless it succeeds.

        Raises Conflict (REFITTED_MEANWHILE: compute it again), MmPerPxMismatch, and what the extractor and the store
        raise.
        """
        record, index = await self._pool.run_fit(index_bank, change.record, self._scoring)
        change = replace(change, record=record)
        for attempt in range(_TRIES):
            try:
                committed, calibration, samples = await self._commit(change, index, context)
                break
            except Conflict as error:
                if error.code != CALIBRATED_MEANWHILE or attempt + 1 == _TRIES:
                    raise
        finished_at = utc_text(datetime.now(UTC), "seconds")
        await asyncio.to_thread(self._announce, finished_at, len(committed.embeddings))
        return committed, calibration, samples

    async def _commit(
        self, change: Change, index: InvertedFile | None, context: CallContext
    ) -> tuple[BankRecord, Calibration | None, list[StoredSample]]:
        before = await asyncio.to_thread(self._in_force, change.target)
        evidence = None
        if before is not None:
            recipe = _same_recipe(before, change)
            pending = [
                ReadSample(
                    Photograph(image.data, image.name, image.shape if recipe.shape is None else recipe.shape),
                    image.name,
                    sample.sha256,
                    None,
                )
                for image, sample in zip(change.images, change.posted, strict=True)
            ]
            search = await self._pool.run_fit(self._scoring.search, memory_of(change.record), index)
            evidence = await self._calibrator.evidence(
                change.target,
                change.record,
                search,
                change.spec,
                recipe,
                context,
                pending=pending,
                known=change.known,
                leaving=change.leaving,
            )

        chosen = None if evidence is None else await asyncio.to_thread(evidence.at, 0)

        def calibrate(generation: int) -> Calibration | None:
            return None if chosen is None else replace(chosen, bank_generation=generation)

        return await asyncio.to_thread(
            self._committer.fit,
            change.target,
            change.record,
            change.posted,
            calibrate,
            before=before,
            index=index.data if index is not None else None,
            terms=change.terms,
        )

    def _announce(self, finished_at: str, coreset_size: int) -> None:
        # The bank is committed: a fit must not fail for what people read beside it.
        try:
            self._activity.completed(finished_at, coreset_size)
        except PatchlightError as error:
            _log.warning("activity.not_written", error=error.message)

    def _in_force(self, target: Target) -> Calibration | None:
        try:
            bank, calibration = self._banks.find_snapshot(target)
            is_own = bank is not None and bank.record.metadata.source != "legacy"
            if bank is not None and is_own and calibration is None:
                # One that only lost its index: the new bank brings another, and a threshold that came through it.
                calibration = self._banks.of_generation(target, bank)
        except StoreCorrupt:
            # What this fit replaces: a damaged bank has no calibration in force.
            return None
        return calibration if calibration is not None and calibration.threshold > 0 else None


async def until_committed(compute: Callable[[], Awaitable[T]]) -> T:
    """Compute and commit anew for as long as another commit comes first.

    Raises Conflict where that happens too often, and what `compute` raises.
    """
    for _ in range(REFIT_TRIES - 1):
        try:
            return await compute()
        except Conflict as error:
            if error.code != REFITTED_MEANWHILE:
                raise
            _log.info("fit.overtaken", reason=error.message)
    return await compute()


def _same_recipe(calibration: Calibration, change: Change) -> Recipe:
    return Recipe(
        calibration.score_percentile,
        calibration.area_mm2_thr,
        calibration.mm_per_px,
        operator_id=calibration.operator_id,
        notes=calibration.notes,
        shape=change.shape if change.shape is not None else calibration.shape,
        method=calibration.method,
        max_false_reject_rate=calibration.max_false_reject_rate,
        confidence=calibration.false_reject.confidence,
        costs=calibration.costs,
    )
