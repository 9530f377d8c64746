"""Thresholds: from scores that the client sends, or from the stored samples, always bound to a bank generation."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.bank import BankRecord
from orchestrator.domain.calibration import Calibration
from orchestrator.domain.identity import Target
from orchestrator.domain.samples import LABELS
from orchestrator.errors import NotEnoughSamples
from orchestrator.features.base import CallContext
from orchestrator.patchcore.search import NeighborSearch
from orchestrator.services.backbones import Backbones
from orchestrator.services.banks import Banks, LoadedBank, check_grid
from orchestrator.services.commit import Committer
from orchestrator.services.embed import Embedded, Embedder, RawShape
from orchestrator.services.evidence import Evidence, Recipe
from orchestrator.services.folds import groups_of, plan_folds, score_fold
from orchestrator.services.held_out import ClientScore, MemberBank, OutOfSampleScore, Split, score_held_out
from orchestrator.services.samples import ReadSample, SampleReader
from orchestrator.services.score import Scoring, score_against
from orchestrator.services.tokens import SampleTokens
from orchestrator.services.turns import Turns

MIN_OK = 2


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
        turns: Turns,
    ) -> None:
        self._embedder = embedder
        self._tokens = tokens
        self._backbones = backbones
        self._banks = banks
        self._reader = reader
        self._committer = committer
        self._scoring = scoring
        self._turns = turns

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
        measured = [ClientScore(score) for score in ok_scores]
        fingerprint, index = bank.record.metadata.fingerprint, bank.search.index_sha256
        evidence = Evidence(recipe, fingerprint, self._scoring, measured, ng_scores, index)
        calibration = await asyncio.to_thread(evidence.at, bank.generation)
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

        Raises MemoryNotFitted, NotEnoughSamples, BackboneMismatch, Overloaded, and what the extractor raises.
        """
        await asyncio.to_thread(self._current, target)
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
        async with self._turns.take():
            # Again: a fit may have committed while this one waited.
            bank, spec = await asyncio.to_thread(self._current, target)
            evidence = await self.evidence(target, bank.record, bank.search, spec, recipe, context)
        if evidence is None:
            raise NotEnoughSamples(
                f"No valid OK samples for calibration: need at least {MIN_OK} that are not held by the memory bank "
                "alone, nor are copies of what it holds; upload other OK photographs."
            )
        calibration = await asyncio.to_thread(evidence.at, bank.generation)
        await asyncio.to_thread(self._committer.calibrate, target, calibration, None)
        return calibration

    def _current(self, target: Target) -> tuple[LoadedBank, BackboneSpec]:
        bank = self._banks.load(target)
        spec = self._backbones.for_bank(bank.record)
        check_grid(bank, spec.grid)
        return bank, spec

    async def evidence(
        self,
        target: Target,
        record: BankRecord,
        search: NeighborSearch,
        spec: BackboneSpec,
        recipe: Recipe,
        context: CallContext,
        *,
        pending: Sequence[ReadSample] = (),
        known: Mapping[str, tuple[RawShape, Embedded]] | None = None,
        leaving: str | None = None,
    ) -> Evidence | None:
        """Score the stored samples out of sample; None where too few OK ones can be.

        One that the bank holds, or that is a near-duplicate of one it holds, has no score where no bank without them
        can be built.

        search: of that bank; what is held out of it is scored through the same kind of index. pending: OK samples that
        are stored in the same commit as the bank. known: tokens at hand already, by digest, with the ROI that they were
        masked by. leaving: digest of the OK sample that goes with that commit.
        """
        wanted = recipe.shape
        stored = await asyncio.to_thread(lambda: list(self._reader.all(target.part, "ok", wanted)))
        # What is stored keeps its own ROI when its bytes are posted again.
        ok = [s for s in _unique([*pending, *stored]) if s.sha256 != leaving]
        digests = set(record.metadata.sample_sha256)
        # A bank that does not know what it holds, as a legacy one, may hold any of them.
        inside = [s for s in ok if s.sha256 in digests or not digests]
        outside = [s for s in ok if not (s.sha256 in digests or not digests)]
        # One sample of the bank alone can't be held out of it, but tells its near-duplicates.
        scorable = len(outside) + (len(inside) if len(inside) > 1 else 0)
        if scorable < MIN_OK:
            return None
        ng = _unique(await asyncio.to_thread(lambda: list(self._reader.all(target.part, "ng", wanted))))
        at_hand = {
            s.sha256: known[s.sha256][1]
            for s in ok
            if known and s.sha256 in known and known[s.sha256][0] == s.photograph.shape
        }
        options = record.metadata.options
        members = [s for s in inside if s.sha256 not in at_hand]
        missing = [s for s in outside if s.sha256 not in at_hand]
        viewed = await self._tokens.embed(
            [s.photograph for s in members], spec, context, options=options, for_bank=len(inside) > 1
        )
        tokens = await self._tokens.embed(
            [s.photograph for s in [*missing, *ng]], spec, context, options=options
        )
        at_hand.update(zip((s.sha256 for s in [*members, *missing]), [*viewed, *tokens], strict=False))

        def embedded(samples: Sequence[ReadSample]) -> list[Embedded]:
            return [at_hand[s.sha256] for s in samples]

        held_in, held_off = embedded(inside), embedded(outside)
        pool = self._embedder.pool
        groups = await pool.run_fit(groups_of, [*held_in, *held_off], pool.keep_going)
        splits, apart = plan_folds(held_in, held_off, groups)
        scores = await self._fold_scores(splits, record, search, recipe)
        if apart:
            bank = MemberBank.stored(record, search)
            scores |= await self._embedder.pool.run_fit(
                _held_out_scores, bank, Split.of((), apart), self._scoring, recipe.score_percentile
            )
        score = functools.partial(_scores, search, self._scoring, recipe.score_percentile, record)
        ng_scores = await self._embedder.pool.run_fit(score, tokens[len(missing) :])
        scored = [i for i, s in enumerate([*inside, *outside]) if s.sha256 in scores]
        if len(scored) < MIN_OK:
            return None
        ok_scores = [scores[[*inside, *outside][i].sha256] for i in scored]
        near = groups[scored]
        return Evidence(
            recipe,
            record.metadata.fingerprint,
            self._scoring,
            ok_scores,
            ng_scores,
            search.index_sha256,
            near.tolist() if len(np.unique(near)) < len(near) else (),
        )

    async def _fold_scores(
        self, splits: Sequence[Split], record: BankRecord, search: NeighborSearch, recipe: Recipe
    ) -> dict[str, OutOfSampleScore]:
        rate, percentile = record.metadata.coreset_rate_applied, recipe.score_percentile
        options, pool = record.metadata.options, self._embedder.pool
        folds = await asyncio.gather(
            *(
                pool.run_fit(
                    score_fold,
                    split,
                    rate,
                    self._scoring,
                    percentile,
                    options,
                    pool.keep_going,
                    search,
                    record.foreground,
                )
                for split in splits
            )
        )
        return {digest: score for fold in folds for digest, score in fold.items()}


def _unique(samples: Sequence[ReadSample]) -> list[ReadSample]:
    return list({s.sha256: s for s in samples}.values())


def _scores(
    search: NeighborSearch,
    scoring: Scoring,
    percentile: float,
    record: BankRecord,
    photographs: Sequence[Embedded],
) -> list[float]:
    rule = record.metadata.options.score_rule
    return [score_against(p, search, scoring, percentile, rule, record.foreground) for p in photographs]


def _held_out_scores(
    bank: MemberBank, split: Split, scoring: Scoring, percentile: float
) -> dict[str, OutOfSampleScore]:
    return {s.sha256: score_held_out(bank, s, scoring, percentile) for s in split.held_out}
