"""Answers "why" with a picture: the photograph's highest-scoring patch beside the stored patch most like it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from orchestrator.domain.identity import Part
from orchestrator.errors import NotFound, PatchlightError
from orchestrator.features.base import CallContext
from orchestrator.features.preprocess import decode_image
from orchestrator.services.embed import Photograph
from orchestrator.services.explain import Explainer, Explanation, Nearest
from orchestrator.services.explain_sheet import Panel, explain_sheet
from orchestrator.services.inspect import Inspector
from orchestrator.services.pool import NumericsPool
from orchestrator.services.verdict import Inspection, Verdict


@dataclass(frozen=True, slots=True)
class Shown:
    """A verdict with its explanation, and the picture of it. png: bytes of the sheet."""

    verdict: Verdict
    explanation: Explanation
    png: bytes


async def show_explanation(
    inspector: Inspector,
    explainer: Explainer,
    pool: NumericsPool,
    inspection: Inspection,
    context: CallContext,
) -> Shown:
    """Judge one photograph and draw why it scores as it does; changes nothing, not even the recipe's scale.

    Raises as `Inspector.inspect`.
    """
    asked = replace(inspection, explain=True, include_heatmap=False, lock_scale=False)
    async with inspector.admitted():
        (verdict,) = await inspector.inspect_many([asked], context)
        if isinstance(verdict, PatchlightError):
            raise verdict
        assert verdict.explanation is not None
        png = await pool.run(_draw, explainer, inspection.target.part, inspection.photograph, verdict)
    return Shown(verdict, verdict.explanation, png)


def _draw(explainer: Explainer, part: Part, photograph: Photograph, verdict: Verdict) -> bytes:
    explanation = verdict.explanation
    assert explanation is not None
    pixels = decode_image(photograph.data, explainer.limits, photograph.name).pixels
    captions = [
        "Asked:",
        photograph.name,
        _at(explanation.patch, explanation.point),
        f"distance {explanation.distance:.4f} to its nearest",
        _decision(verdict),
    ]
    asked = Panel(pixels, explanation.covers, captions)
    return explain_sheet(asked, _stored(explainer, part, explanation.nearest))


def _stored(explainer: Explainer, part: Part, nearest: Nearest | None) -> Panel:
    if nearest is None:
        return _without("This memory does not know its photographs; fit it again.", [])
    known = [f"sha256 {nearest.sha256[:16]}...", _at(nearest.patch, nearest.point)]
    try:
        name, decoded = explainer.photograph(part, nearest.sha256)
    except NotFound:
        return _without("The photograph is no longer stored.", known)
    if decoded is None or nearest.covers is None:
        return _without("The photograph can no longer be read.", [name, *known])
    return Panel(
        decoded.pixels,
        nearest.covers,
        ["Most alike of the good ones:", name, _at(nearest.patch, nearest.point)],
    )


def _without(sentence: str, captions: list[str]) -> Panel:
    return Panel(sentence, (0.0, 0.0, 0.0, 0.0), captions)


def _at(patch: tuple[int, int], point: tuple[float, float] | None) -> str:
    place = "" if point is None else f" at x {point[0]:.1f}, y {point[1]:.1f}"
    return f"patch [{patch[0]}, {patch[1]}]{place}"


def _decision(verdict: Verdict) -> str:
    if verdict.threshold is None or verdict.decision is None:
        return f"score {verdict.score:.4f}, not calibrated"
    return f"score {verdict.score:.4f}, threshold {verdict.threshold:.4f}: {verdict.decision.upper()}"
