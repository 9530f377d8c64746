"""From what fits scored to rows: figures of a set, their mean over the sets, and what a rule is worth on a new set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from orchestrator.demo.metrics import ErrorRates, false_reject_and_escape, image_auroc
from orchestrator.patchcore.calibration import choose_threshold
from tests.benchmarks import anomalib_scoring
from tests.benchmarks.paired import CONFIDENCE, RESAMPLES, Floats, auroc_differences, interval
from tests.benchmarks.quality_case import CHOSEN, DEPLOYED, FULL, MAP, MEAN, QualityCase
from tests.benchmarks.quality_evaluation import PEER_COLUMN, PERCENTILE, RULES, Evaluation, Fit
from tests.benchmarks.quality_subjects import LONGEST_SIDE
from tests.benchmarks.rows import Figures, Row, Shape
from tests.benchmarks.servers import Plan

_SUITE = "quality"
THRESHOLDS: Mapping[str, Callable[[list[float]], float]] = {
    DEPLOYED: lambda held_out: choose_threshold(held_out, [], PERCENTILE),
}
"""What a fit sets from its photographs' K-fold scores when no bad part is given; another rule is one more entry."""
_UNITS = {"image AUROC": "AUROC", "pixel AUROC": "AUROC", "AUPRO": "AUPRO"}
_SAME = "peer: anomalib's image score of the same tokens, search and bank"
_BOOTSTRAP = (
    f"interval: of ours - peer, {CONFIDENCE:.0%}, {RESAMPLES} resamples of the test photographs, paired, good and bad "
    "apart, the mean over the seeds"
)
_THRESHOLD = (
    "the threshold is made of the fitted photographs' K-fold scores, no bad part given; peer: the same threshold rule "
    "on anomalib's scores, whose own needs bad parts"
)
_PIXELS = (
    f"maps and masks at {LONGEST_SIDE} px on the longest side; good and bad test photographs, but those whose mask is "
    "empty; peer: anomalib's map, nearest-neighbour upsampling and a Gaussian of sigma 4"
)


@dataclass(frozen=True, slots=True)
class Group:
    """The fits of one set that differ by their seed alone, in the order of the seeds."""

    fit: Fit
    seeds: tuple[int, ...]
    evaluations: tuple[Evaluation, ...]
    tokens: Literal["real", "synthetic"]

    @property
    def key(self) -> tuple[str, int | None, float, str]:
        """What is the same for the fits that a mean over sets is taken of."""
        return self.fit.backbone, self.fit.shots, self.fit.rate, self.fit.option

    def case(self, set_name: str, rule: str, figure: str) -> str:
        """Name a figure of it."""
        shots = FULL if self.fit.shots is None else str(self.fit.shots)
        return str(
            QualityCase(set_name, self.fit.backbone, shots, self.fit.rate, self.fit.option, rule, figure)
        )

    def aurocs(self, column: int) -> list[float]:
        """Give every seed's image AUROC."""
        return [image_auroc(e.good[column], e.bad[column]) for e in self.evaluations]

    def differences(self, column: int) -> Floats:
        """Resample how far a rule is ahead of the peer."""
        ours, theirs = ([(e.good[c], e.bad[c]) for e in self.evaluations] for c in (column, PEER_COLUMN))
        # Its own for every set, so that the mean over sets may take them as independent.
        return auroc_differences(ours, theirs, seed=sum(self.fit.set_name.encode()))


def set_rows(plan: Plan, group: Group) -> list[Row]:
    """Give all figures of one set."""
    name, rows = group.fit.set_name, []
    for column, rule in enumerate(RULES):
        figures = _figures(plan, group, name, rule, "image AUROC", f"{_SAME}; {_BOOTSTRAP}")
        figures.interval = interval(group.differences(column))
        for ours, theirs in zip(group.aurocs(column), group.aurocs(PEER_COLUMN), strict=True):
            figures.add(ours, theirs)
        rows.append(figures.row())
        if group.evaluations[0].held_out.size:
            rows += _error_rows(plan, group, column, rule)
    if np.isfinite(group.evaluations[0].pixels).all():
        for index, figure in enumerate(("pixel AUROC", "AUPRO")):
            figures = _figures(plan, group, name, MAP, figure, _PIXELS)
            for evaluation in group.evaluations:
                figures.add(*(float(side) for side in evaluation.pixels[index]))
            rows.append(figures.row())
    return rows


def _error_rows(plan: Plan, group: Group, column: int, rule: str) -> list[Row]:
    rows = []
    for name, choose in THRESHOLDS.items():
        rates = [
            [_error_rates(evaluation, side, choose) for side in (column, PEER_COLUMN)]
            for evaluation in group.evaluations
        ]
        for index, figure in enumerate(("false reject", "escape")):
            measured = _figures(plan, group, group.fit.set_name, rule, f"{figure} at {name}", _THRESHOLD)
            for sides in rates:
                measured.add(*(side[index] for side in sides))
            rows.append(measured.row())
    return rows


def _error_rates(evaluation: Evaluation, column: int, choose: Callable[[list[float]], float]) -> ErrorRates:
    threshold = choose(evaluation.held_out[column].tolist())
    return false_reject_and_escape(evaluation.good[column], evaluation.bad[column], threshold)


def mean_rows(plan: Plan, groups: Sequence[Group]) -> list[Row]:
    """Give every rule's image AUROC over the sets; its interval keeps the sets and resamples their photographs."""
    if len(groups) < 2:
        return []
    rows = []
    for column, rule in enumerate(RULES):
        figures = _figures(plan, groups[0], MEAN, rule, "image AUROC", f"{_SAME}; {_BOOTSTRAP} and the sets")
        figures.interval = interval(np.mean([group.differences(column) for group in groups], axis=0))
        for ours, theirs in zip(_means(groups, column), _means(groups, PEER_COLUMN), strict=True):
            figures.add(ours, theirs)
        rows.append(figures.row())
    return rows


def chosen_rows(plan: Plan, groups: Sequence[Group]) -> list[Row]:
    """Give each set's image AUROC by the rule that is best on the mean of the others.

    A rule that is picked on the very sets it is judged by looks better than it is; this one has not seen its set.
    """
    if len(groups) < 2:
        return []
    rows, drawn, aurocs = [], [], []
    for group in groups:
        others = [other for other in groups if other is not group]
        column = max(range(len(RULES)), key=lambda c: float(np.mean(_means(others, c))))
        note = f"{RULES[column]}: the best on the mean of the other sets; {_SAME}; {_BOOTSTRAP}"
        figures = _figures(plan, group, group.fit.set_name, CHOSEN, "image AUROC", note)
        drawn.append(group.differences(column))
        figures.interval = interval(drawn[-1])
        aurocs.append(group.aurocs(column))
        for ours, theirs in zip(aurocs[-1], group.aurocs(PEER_COLUMN), strict=True):
            figures.add(ours, theirs)
        rows.append(figures.row())
    figures = _figures(plan, groups[0], MEAN, CHOSEN, "image AUROC", f"{_SAME}; {_BOOTSTRAP} and the sets")
    figures.interval = interval(np.mean(drawn, axis=0))
    for ours, theirs in zip(np.mean(aurocs, axis=0).tolist(), _means(groups, PEER_COLUMN), strict=True):
        figures.add(ours, theirs)
    return [*rows, figures.row()]


def _means(groups: Sequence[Group], column: int) -> list[float]:
    """Give every seed's mean over the sets."""
    means: list[float] = np.mean([group.aurocs(column) for group in groups], axis=0).tolist()
    return means


def _figures(plan: Plan, group: Group, set_name: str, rule: str, figure: str, notes: str) -> Figures:
    first = group.evaluations[0]
    stacked, dim, kept = (int(size) for size in first.sizes)
    whole = set_name != MEAN
    seeds = "; a repeat is a seed that draws the good photographs" if len(group.seeds) > 1 else ""
    return Figures(
        _SUITE,
        group.case(set_name, rule, figure),
        _UNITS.get(figure, "share"),
        "higher" if figure in _UNITS else "lower",
        first.good.shape[1] + first.bad.shape[1],
        plan.threads,
        f"{notes}{seeds}",
        peer=anomalib_scoring.PEER,
        shape=Shape(
            n=stacked if whole else None,
            d=dim,
            k=kept if whole else None,
            tokens=group.tokens,
            seeds=group.seeds,
        ),
        peer_versions={"anomalib": anomalib_scoring.VERSION},
    )
