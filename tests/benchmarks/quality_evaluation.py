"""One fit of one set, scored by every rule and by the peer: out-of-sample good photographs, good ones, bad ones.

Kept beside the backbones under a digest of the photographs, of the backbone and of the sources that computed it, so
that a run that was cut off goes on where it was, and a new option alone is computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import cv2
import numpy as np

from orchestrator.demo.metrics import aupro, pixel_auroc
from orchestrator.domain.arrays import FloatArray, MaskArray
from orchestrator.domain.memory_options import ScoreRule
from orchestrator.patchcore.score_rules import rule_score
from orchestrator.services.embed import Embedded
from orchestrator.services.folds import groups_of, plan_folds
from orchestrator.services.score import Scoring, crop_map, measure
from tests.benchmarks import anomalib_scoring
from tests.benchmarks.paired import Floats
from tests.benchmarks.quality_options import OPTIONS, Made, Option
from tests.benchmarks.quality_subjects import Subject, judged_size
from tests.benchmarks.rows import ROOT
from tests.benchmarks.servers import Plan

RULES: tuple[ScoreRule, ...] = get_args(ScoreRule)
PEER_COLUMN = len(RULES)
PERCENTILE = 99.0
SCORING = Scoring(distance="euclidean", blur_sigma=1.0)
"""The product's defaults."""
_SOURCES = (
    "orchestrator/patchcore",
    *(f"orchestrator/services/{n}.py" for n in ("embed", "folds", "foreground", "held_out", "score")),
    *(f"orchestrator/features/{n}.py" for n in ("preprocess", "tiling", "views")),
    *(f"orchestrator/domain/{n}.py" for n in ("foreground", "letterbox", "memory_options", "tiles")),
    "orchestrator/demo/metrics.py",
    *(f"tests/benchmarks/{n}.py" for n in ("anomalib_scoring", "photographs")),
    *(f"tests/benchmarks/quality_{n}.py" for n in ("evaluation", "options", "subjects")),
)


Part: TypeAlias = Literal["tested", "held_out"]
"""One bank of all that is fitted, and the photographs that no bank holds; or a bank without each fold: five times the
work, and needed for the threshold alone."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What is fitted. shots: good photographs drawn by the seed; None for all. rate: of the coreset.

    pixels: whether maps are judged too.
    """

    set_name: str
    backbone: str
    option: str
    shots: int | None
    rate: float
    seed: int
    pixels: bool


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What a fit scored. A column is a rule of `RULES`; the last, `PEER_COLUMN`, is the peer.

    good, bad: (columns, n) of photographs that no bank holds. held_out: (columns, n) of the fitted ones, each against
    a bank without its fold; n is 0 for a fit of one. pixels: (2, 2), pixel AUROC and AUPRO of our map and the peer's;
    NaN where none was measured. sizes: (3,), rows stacked, dimensions, bank rows.
    """

    good: Floats
    bad: Floats
    held_out: Floats
    pixels: Floats
    sizes: Floats


def evaluate(plan: Plan, fit: Fit, part: Part) -> Mapping[str, Floats]:
    """Fit and score, or give what the same sources scored before: the fields of `Evaluation` that the part has."""
    option = OPTIONS[fit.option]
    measured = _loaded(plan, fit.option, fit.set_name, fit.backbone)
    path = plan.repository.parent / "quality" / f"{_digest(measured, fit)}-{part}.npz"
    if path.is_file():
        with np.load(path) as kept:
            return dict(kept)
    scored = _tested(measured, option, fit) if part == "tested" else _held_out(measured, option, fit)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part.npz")
    np.savez(unfinished, allow_pickle=False, **scored)
    unfinished.replace(path)
    return scored


@cache
def _loaded(plan: Plan, option: str, set_name: str, backbone: str) -> Subject:
    return OPTIONS[option].load(plan, set_name, backbone)


def _tested(subject: Subject, option: Option, fit: Fit) -> Mapping[str, Floats]:
    chosen = _draw(subject.good, fit)
    made = option.build(chosen, fit.rate)
    memory = made.memory
    judged = fit.pixels and subject.has_masks
    good, good_maps = _score_all(subject.good_test, made, maps=judged)
    bad, bad_maps = _score_all(subject.bad, made, maps=judged)
    pixels = np.full((2, 2), np.nan)
    if judged:
        sound: list[MaskArray | None] = [np.zeros(judged_size(p), dtype=np.bool_) for p in subject.good_test]
        pixels = _pixel_figures(good_maps + bad_maps, sound + subject.masks)
    stacked = sum(len(p.bank_rows) for p in chosen)
    sizes = np.array([stacked, memory.embeddings.shape[1], len(memory.embeddings)], dtype=np.float64)
    return {"good": good, "bad": bad, "pixels": pixels, "sizes": sizes}


def _draw(good: Sequence[Embedded], fit: Fit) -> list[Embedded]:
    if fit.shots is None:
        return list(good)
    return [good[i] for i in np.random.default_rng(fit.seed).permutation(len(good))[: fit.shots]]


def _held_out(subject: Subject, option: Option, fit: Fit) -> Mapping[str, Floats]:
    """Score each fitted photograph against a bank that lacks its fold, as the product's fit does."""
    photographs = _draw(subject.good, fit)
    n = len(photographs)
    scores = np.empty((len(RULES) + 1, n if n > 1 else 0))
    splits = plan_folds(photographs, [], groups_of(photographs))[0] if n > 1 else []
    place = {id(p): index for index, p in enumerate(photographs)}
    for split in splits:
        made = option.build([m.photograph for m in split.members], fit.rate)
        held = [s.photograph for s in split.held_out]
        scores[:, [place[id(p)] for p in held]] = _score_all(held, made, maps=False)[0]
    return {"held_out": scores}


def _score_all(
    photographs: Sequence[Embedded], made: Made, *, maps: bool
) -> tuple[Floats, list[tuple[FloatArray, FloatArray]]]:
    """Score by every rule and the peer, (columns, n), and draw both maps at the size they are judged at."""
    search = SCORING.search(made.memory)
    scores, drawn = [], []
    for photograph in photographs:
        seen, found = measure(photograph, search, SCORING, made.axis)
        queries = found.queries
        ours = crop_map(found, seen, SCORING)
        by_rule = [
            rule_score(
                rule,
                distances=found.distances,
                patches=seen.patches,
                anomaly=ours,
                mask=seen.mask,
                percentile=PERCENTILE,
                queries=queries,
                rows=found.rows,
                memory=made.memory,
            )
            for rule in RULES
        ]
        nearest = found.distances[seen.patches], found.rows[seen.patches]
        scores.append([*by_rule, anomalib_scoring.pred_score(*nearest, queries, made.memory.embeddings)])
        if maps:
            drawn.append((_shrink(ours, judged_size(seen)), _peer_map(found.distances, seen)))
    return np.array(scores).T, drawn


def _peer_map(distances: FloatArray, photograph: Embedded) -> FloatArray:
    box = photograph.box
    whole = anomalib_scoring.anomaly_map(distances, photograph.patches, box.canvas)
    content = whole[box.top : box.top + box.height, box.left : box.left + box.width]
    return _shrink(content, judged_size(photograph))


def _shrink(drawn: FloatArray, size: tuple[int, int]) -> FloatArray:
    return np.asarray(cv2.resize(drawn, (size[1], size[0]), interpolation=cv2.INTER_AREA), dtype=np.float32)


def _pixel_figures(
    maps: Sequence[tuple[FloatArray, FloatArray]], masks: Sequence[MaskArray | None]
) -> Floats:
    judged = [(pair, mask) for pair, mask in zip(maps, masks, strict=True) if mask is not None]
    known = [mask for _, mask in judged]
    sides = [[pair[side] for pair, _ in judged] for side in (0, 1)]
    return np.array([[figure(side, known) for side in sides] for figure in (pixel_auroc, aupro)])


def _digest(subject: Subject, fit: Fit) -> str:
    digest = hashlib.sha256(repr((sorted(asdict(fit).items()), subject.fingerprint, _sources())).encode())
    for photograph in (*subject.good, *subject.good_test, *subject.bad):
        digest.update(photograph.sha256.encode())
    return digest.hexdigest()[:24]


@cache
def _sources() -> str:
    digest = hashlib.sha256()
    for name in _SOURCES:
        path: Path = ROOT / name
        for source in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            digest.update(source.name.encode() + b"\n" + source.read_bytes())
    return digest.hexdigest()
