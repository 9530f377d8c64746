"""What a threshold is chosen from: scores with a rule, before the bank's generation is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from orchestrator.domain.calibration import Calibration, Costs, Method, Rule
from orchestrator.domain.moments import utc_text
from orchestrator.patchcore.thresholds import choose
from orchestrator.services.embed import RawShape
from orchestrator.services.held_out import ClientScore, OutOfSampleScore
from orchestrator.services.score import Scoring


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a threshold is to be chosen.

    score_percentile: (0, 100]; the rest of the rule defaults to the published one. shape: ROI that stands above the
    samples' own.
    """

    score_percentile: float
    area_mm2_thr: float
    mm_per_px: float
    operator_id: str | None = None
    notes: str | None = None
    shape: RawShape = None
    method: Method = "percentile"
    max_false_reject_rate: float = 0.05
    confidence: float = 0.95
    costs: Costs | None = None

    @property
    def rule(self) -> Rule:
        """The part of it that concerns scores."""
        return Rule(
            self.method, self.score_percentile, self.max_false_reject_rate, self.confidence, self.costs
        )


@dataclass(frozen=True, slots=True)
class Evidence:
    """Scores and how to choose from them; becomes a calibration once the bank's generation is known.

    scoring: what the scores were measured with. index_sha256: of the index that they came through. ok_groups: which
    near-duplicates an OK score belongs with, aligned with ok_scores; empty where nobody looked.
    """

    recipe: Recipe
    fingerprint: str | None
    scoring: Scoring
    ok_scores: Sequence[OutOfSampleScore] | Sequence[ClientScore]
    ng_scores: Sequence[float]
    index_sha256: str | None = None
    ok_groups: Sequence[int] = ()

    def at(self, generation: int) -> Calibration:
        """Choose the threshold for a bank generation. It resamples: not on the event loop, not under a lock.

        Raises NotEnoughSamples, InvalidInput.
        """
        rule = self.recipe.rule
        choice = choose(self.ok_scores, self.ng_scores, rule, self.ok_groups)
        summary = choice.summary
        return Calibration(
            bank_generation=generation,
            fingerprint=self.fingerprint,
            method=rule.method,
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
            calibrated_at=utc_text(datetime.now(UTC)),
            false_reject=choice.false_reject,
            ok_scores=choice.ok_scores,
            ng_scores=choice.ng_scores,
            operator_id=self.recipe.operator_id,
            notes=self.recipe.notes,
            shape=self.recipe.shape,
            index_sha256=self.index_sha256,
            max_false_reject_rate=rule.max_false_reject_rate,
            costs=rule.costs,
            threshold_interval=choice.interval,
            recall=choice.recall,
            ok_groups=tuple(self.ok_groups),
            distance=self.scoring.distance,
            blur_sigma=self.scoring.blur_sigma,
        )
