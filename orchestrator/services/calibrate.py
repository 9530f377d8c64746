"""Thresholds: from scores that the client sends, or from the stored samples, always bound to a bank generation."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.bank import BankRecord
from orchestrator.domain.calibration import Calibration
from orchestrator.domain.identity import Target
from orchestrator.domain.samples import LABELS
from orchestrator.errors import NotEnoughSamples
from orchestrator.features.base import CallContext
from orchestrator.patchcore.calibration import false_reject_rate, summarise
from orchestrator.patchcore.memory_bank import MemoryBank, l2_normalise
from orchestrator.patchcore.search import NeighborSearch
from orchestrator.services.backbones import Backbones
from orchestrator.services.banks import Banks, LoadedBank, check_grid
from orchestrator.services.commit import Committer
from orchestrator.services.embed import Embedded, Embedder, RawShape
from orchestrator.services.folds import fold_count, score_fold
from orchestrator.services.samples import ReadSample, SampleReader
from orchestrator.services.score import Scoring, score_against
from orchestrator.services.tokens import SampleTokens

MIN_OK = 2


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a threshold is to be chosen.

    score_percentile: (0, 100]. shape: ROI that stands above the samples' own.
    """

    score_percentile: float
    area_mm2_thr: float
    mm_per_px: float
    operator_id: str | None = None
    notes: str | None = None
    shape: RawShape = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Scores and how to choose from them; becomes a calibration once the bank's generation is known."""

    recipe: Recipe
    fingerprint: str | None
    ok_scores: Sequence[float]
    ng_scores: Sequence[float]

    def at(self, generation: int) -> Calibration:
        """Choose the threshold for a bank generation, by the published rule.

        Raises NotEnoughSamples, InvalidInput.
        """
        summary = summarise(self.ok_scores, self.ng_scores, self.recipe.score_percentile)
        return Calibration(
            bank_generation=generation,
            fingerprint=self.fingerprint,
            method="percentile",
            threshold=summary.threshold,
            score_percentile=self.recipe.score_percentile,
            area_mm2_thr=self.recipe.area_mm2_thr,
            mm_per_px=self.recipe.mm_per_px,
            ok_mean=summary.ok_mean,
            ng_mean=summary.ng_mean,
            p99_ok=summary.percentile_ok,
            p5_ng=summary.p5_ng,
            samples_ok=summary.samples_ok,
            samples_ng=summary.samples_ng,
            calibrated_at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            false_reject=false_reject_rate(self.ok_scores, summary.threshold),
            ok_scores=tuple(float(s) for s in self.ok_scores if math.isfinite(s)),
            ng_scores=tuple(float(s) for s in self.ng_scores if math.isfinite(s)),
            operator_id=self.recipe.operator_id,
            notes=self.recipe.notes,
            shape=self.recipe.shape,
        )


class Calibrator:
    """Puts calibrations in force."""

    def __init__(
        self,
        embedder: Embedder,
        backbones: Backbones,
        banks: Banks,
        reader: SampleReader,
        committer: Committer,
        scoring: Scoring,
        tokens: SampleTokens,
    ) -> None:
        self._embedder = embedder
        self._tokens = tokens
        self._backbones = backbones
        self._banks = banks
        self._reader = reader
        self._committer = committer
        self._scoring = scoring

    async def from_scores(
        self,
        target: Target,
        recipe: Recipe,
        ok_scores: Sequence[float],
        ng_scores: Sequence[float],
        *,
        mm_per_px: float | None,
    ) -> Calibration:
        """Choose from scores that the client has measured. mm_per_px: what it sent, if anything.

        Raises MemoryNotFitted, NotEnoughSamples, InvalidInput, MmPerPxMismatch, Conflict.
        """
        bank = await asyncio.to_thread(self._banks.load, target)
        evidence = Evidence(recipe, bank.record.metadata.fingerprint, ok_scores, ng_scores)
        calibration = evidence.at(bank.generation)
        await asyncio.to_thread(self._committer.calibrate, target, calibration, mm_per_px)
        return calibration

    async def from_dataset(
        self,
        target: Target,
        recipe: Recipe,
        context: CallContext,
        *,
        require_ng: bool,
    ) -> Calibration:
        """Choose from the stored samples, each scored by a bank that does not hold it.

        Raises MemoryNotFitted, NotEnoughSamples, BackboneMismatch, and what the extractor raises.
        """
        bank: LoadedBank = await asyncio.to_thread(self._banks.load, target)
        spec = await asyncio.to_thread(self._backbones.for_bank, bank.record)
        check_grid(bank, spec.grid)
        n_ok, n_ng = await asyncio.to_thread(
            lambda: [len(self._reader.names(target.part, label)) for label in LABELS]
        )
        if n_ok < MIN_OK:
            raise NotEnoughSamples(
                f"No valid OK samples for calibration: need at least {MIN_OK}, found {n_ok}."
            )
        if require_ng and n_ng == 0:
            raise NotEnoughSamples(
                "No NG samples available for calibration; upload some, or send require_ng=false."
            )
        evidence = await self.evidence(target, bank.record, spec, recipe, context)
        if evidence is None:
            raise NotEnoughSamples(f"No valid OK samples for calibration: need at least {MIN_OK}.")
        calibration = evidence.at(bank.generation)
        await asyncio.to_thread(self._committer.calibrate, target, calibration, None)
        return calibration

    async def evidence(
        self,
        target: Target,
        record: BankRecord,
        spec: BackboneSpec,
        recipe: Recipe,
        context: CallContext,
        *,
        pending: Sequence[ReadSample] = (),
        known: Mapping[str, tuple[RawShape, Embedded]] | None = None,
        leaving: str | None = None,
    ) -> Evidence | None:
        """Score the stored samples out of sample; None where too few OK ones are stored.

        pending: OK samples that are stored in the same commit as the bank. known: tokens at hand already, by digest,
        with the ROI that they were masked by. leaving: digest of the OK sample that goes with that commit.
        """
        wanted = recipe.shape
        stored = await asyncio.to_thread(lambda: list(self._reader.all(target.part, "ok", wanted)))
        # What is stored keeps its own ROI when its bytes are posted again.
        ok = [s for s in _unique([*pending, *stored]) if s.sha256 != leaving]
        digests = set(record.metadata.sample_sha256)
        inside = [s for s in ok if s.sha256 in digests]
        outside = [s for s in ok if s.sha256 not in digests]
        if len(inside) == 1:
            # One sample of the bank alone can't be held out of it.
            inside = []
        if len(inside) + len(outside) < MIN_OK:
            return None
        ng = _unique(await asyncio.to_thread(lambda: list(self._reader.all(target.part, "ng", wanted))))
        at_hand = {
            s.sha256: known[s.sha256][1]
            for s in ok
            if known and s.sha256 in known and known[s.sha256][0] == s.photograph.shape
        }
        missing = [s for s in [*inside, *outside] if s.sha256 not in at_hand]
        tokens = await self._tokens.embed([s.photograph for s in [*missing, *ng]], spec, context)
        at_hand.update(zip((s.sha256 for s in missing), tokens, strict=False))

        def embedded(samples: Sequence[ReadSample]) -> list[Embedded]:
            return [at_hand[s.sha256] for s in samples]

        memory = MemoryBank(l2_normalise(record.embeddings), spec.grid)
        folded = await self._fold_scores(embedded(inside), record, recipe)
        score = functools.partial(
            _scores, self._scoring.search(memory), self._scoring, recipe.score_percentile
        )
        held_out = await self._embedder.pool.run_fit(score, embedded(outside))
        ng_scores = await self._embedder.pool.run_fit(score, tokens[len(missing) :])
        ok_scores = folded + held_out
        return Evidence(recipe, record.metadata.fingerprint, ok_scores, ng_scores)

    async def _fold_scores(
        self, photographs: Sequence[Embedded], record: BankRecord, recipe: Recipe
    ) -> list[float]:
        if not photographs:
            return []
        rate, percentile = record.metadata.coreset_rate_applied, recipe.score_percentile
        pool = self._embedder.pool
        folds = await asyncio.gather(
            *(
                pool.run_fit(score_fold, photographs, fold, rate, self._scoring, percentile, pool.keep_going)
                for fold in range(fold_count(len(photographs)))
            )
        )
        scores = {index: score for fold in folds for index, score in fold.items()}
        return [scores[index] for index in range(len(photographs))]


def _unique(samples: Sequence[ReadSample]) -> list[ReadSample]:
    return list({s.sha256: s for s in samples}.values())


def _scores(
    search: NeighborSearch, scoring: Scoring, percentile: float, photographs: Sequence[Embedded]
) -> list[float]:
    return [score_against(p, search, scoring, percentile) for p in photographs]
