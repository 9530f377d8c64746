"""A threshold and the evidence for it, bound to one generation of one bank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Method = Literal["percentile", "conformal"]
"""The published rule, or the lowest OK score that keeps the false-reject rate with a confidence."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What wrong verdicts cost. ng_prevalence: share of bad parts on the line, 0 to 1.

    cost_escape: of a bad part let through; cost_false_reject: of a good part rejected; any one unit, not below 0.
    """

    ng_prevalence: float = 0.01
    cost_escape: float = 100.0
    cost_false_reject: float = 1.0


@dataclass(frozen=True, slots=True)
class Rule:
    """How a threshold is to be chosen from scores.

    score_percentile: (0, 100]. max_false_reject_rate, confidence: 0 to 1, what the certificate is about.
    costs: None where the cap on false rejects alone decides.
    """

    method: Method = "percentile"
    score_percentile: float = 99.0
    max_false_reject_rate: float = 0.05
    confidence: float = 0.95
    costs: Costs | None = None


@dataclass(frozen=True, slots=True)
class FalseReject:
    """The false-reject rate to expect at a threshold, and its upper bound at `confidence`.

    upper_bound: of the lowest threshold that the rule fixes before NG scores move it; it holds for the one chosen too.
    """

    expected: float
    upper_bound: float
    confidence: float
    n_ok: int


@dataclass(frozen=True, slots=True)
class Recall:
    """How many of the NG samples the threshold catches, and the interval of the share on the line."""

    caught: int
    n_ng: int
    lower: float
    upper: float
    confidence: float


@dataclass(frozen=True, slots=True)
class ThresholdInterval:
    """Where the threshold falls when the images are drawn anew from the same ones."""

    low: float
    high: float
    confidence: float
    resamples: int
    seed: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """One calibration of one bank generation.

    Scores are image scores in [0, 2]. p99_ok: the `score_percentile`-th percentile of the OK scores, its published
    name notwithstanding. p5_ng is None without NG scores, ng_mean then 0.0. shape: the ROI that stood above the
    samples' own, as the client wrote it. index_sha256: of the index that the scores came through, None where every row
    was compared: a threshold holds for that index alone. max_false_reject_rate, costs: of the rule. recall: None
    without NG scores. ok_groups: which near-duplicates an OK score belongs with, aligned with ok_scores; empty where
    each stands alone. distance, blur_sigma: what the scores were measured with, and for which alone a threshold holds;
    None where an earlier release did not say.
    """

    bank_generation: int
    fingerprint: str | None
    method: Method
    threshold: float
    score_percentile: float
    area_mm2_thr: float
    mm_per_px: float
    ok_mean: float
    ng_mean: float
    p99_ok: float
    p5_ng: float | None
    samples_ok: int
    samples_ng: int
    calibrated_at: str
    false_reject: FalseReject
    ok_scores: tuple[float, ...] = ()
    ng_scores: tuple[float, ...] = ()
    operator_id: str | None = None
    notes: str | None = None
    shape: str | dict[str, Any] | None = None
    index_sha256: str | None = None
    max_false_reject_rate: float = 0.05
    costs: Costs | None = None
    threshold_interval: ThresholdInterval | None = None
    recall: Recall | None = None
    ok_groups: tuple[int, ...] = ()
    distance: str | None = None
    blur_sigma: float | None = None

    @property
    def rule(self) -> Rule:
        """How the threshold was chosen."""
        return Rule(
            self.method,
            self.score_percentile,
            self.max_false_reject_rate,
            self.false_reject.confidence,
            self.costs,
        )

    def is_scored_by(self, distance: str, blur_sigma: float) -> bool:
        """Tell whether its scores compare with those of a deployment."""
        return self.distance in (None, distance) and self.blur_sigma in (None, blur_sigma)

    @property
    def independent_ok_scores(self) -> tuple[float, ...]:
        """The OK scores, near-duplicates once with their highest."""
        return independent(self.ok_scores, self.ok_groups)

    @property
    def near_duplicate_groups(self) -> tuple[int, ...]:
        """Sizes of the groups of near-duplicates, largest first."""
        sizes = Counter(self.ok_groups).values()
        return tuple(sorted((size for size in sizes if size > 1), reverse=True))


def independent(scores: Sequence[float], groups: Sequence[int]) -> tuple[float, ...]:
    """Keep the highest score of every group, in order of the groups' first; all where there are no groups.

    A new part scores at or above a threshold no more often than a group's highest does: the careful choice.
    """
    if not groups:
        return tuple(scores)
    highest: dict[int, float] = {}
    for score, group in zip(scores, groups, strict=True):
        highest[group] = max(score, highest.get(group, score))
    return tuple(highest.values())
