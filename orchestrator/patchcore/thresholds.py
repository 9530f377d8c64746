"""One choice of a threshold: by which rule, from which scores, with what can be promised of it; knows scores only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.domain.calibration import FalseReject, Method, Recall, Rule, ThresholdInterval, independent
from orchestrator.patchcore.bootstrap import threshold_interval
from orchestrator.patchcore.calibration import ScoreSummary, false_reject_rate, finite_scores, summarise
from orchestrator.patchcore.conformal import conformal_threshold, ok_needed
from orchestrator.patchcore.cost import cost_threshold, recall_interval


@dataclass(frozen=True, slots=True)
class Choice:
    """A threshold with its evidence. ok_scores, ng_scores: the finite ones. recall: None without NG scores."""

    summary: ScoreSummary
    false_reject: FalseReject
    interval: ThresholdInterval
    recall: Recall | None
    ok_scores: tuple[float, ...]
    ng_scores: tuple[float, ...]


def choose(ok: Sequence[float], ng: Sequence[float], rule: Rule, groups: Sequence[int] = ()) -> Choice:
    """Choose the threshold by the rule.

    "percentile" is the published rule, on all scores. "conformal" is the lowest OK score that keeps the cap on false
    rejects, the highest where none does: that is also the threshold of least expected cost when only escapes count.
    With NG scores and `rule.costs` it is the threshold of least expected cost from there upwards.

    The false rejects are those of the law at the threshold. Where NG scores have moved it, that law is a description:
    what is guaranteed then is the cap, because it moved up from where the cap was kept.

    groups: aligned with ok, which scores are of near-duplicates; a law of independent images then counts each group
    once, with its highest score. Empty: every score stands alone, and those that are not finite are dropped.

    Raises NotEnoughSamples where no OK score is finite, InvalidInput where a value is out of range.
    """
    summary = summarise(ok, ng, rule.score_percentile)
    good = tuple(finite_scores("ok_scores", ok).tolist())
    bad = tuple(finite_scores("ng_scores", ng).tolist())
    alone = independent(good, groups)
    chosen_from, drawn_with = good, groups
    if rule.method == "conformal":
        chosen_from, drawn_with = alone, ()
        least = conformal_threshold(alone, rule.max_false_reject_rate, rule.confidence).threshold
        by_cost = rule.costs is not None and bool(bad)
        threshold = cost_threshold(alone, bad, rule.costs, least=least) if rule.costs and by_cost else least
        summary = replace(summary, threshold=threshold)
    rate = false_reject_rate(alone, summary.threshold, confidence=rule.confidence)
    return Choice(
        summary,
        rate,
        threshold_interval(chosen_from, bad, rule, drawn_with),
        recall_interval(bad, summary.threshold, rule.confidence),
        good,
        bad,
    )


def is_certifiable(rate: FalseReject, max_rate: float) -> bool:
    """Say whether a threshold keeps the cap on false rejects with its confidence."""
    return rate.n_ok > 0 and rate.upper_bound <= max_rate


def certificate(rate: FalseReject, max_rate: float, method: Method) -> str:
    """Phrase what can be promised of a threshold, for people."""
    needed, n = ok_needed(max_rate, rate.confidence), rate.n_ok
    confidence, samples = f"{100 * rate.confidence:.6g} % confidence", f"{n} OK sample{'' if n == 1 else 's'}"
    if is_certifiable(rate, max_rate):
        return f"false rejects <= {100 * max_rate:.4g} % with {confidence} (n = {n} OK)"
    if n < needed:
        return (
            f"not certifiable with {samples}; {needed} would do for false rejects <= {100 * max_rate:.4g} % "
            f"with {confidence}"
        )
    if method == "conformal":
        return f"not certifiable with {samples}: too many of the highest scores are equal"
    return (
        f"this threshold rejects up to {100 * rate.upper_bound:.4g} % of good parts with {confidence} (n = {n} OK); "
        f"method=conformal finds one that keeps {100 * max_rate:.4g} %"
    )
