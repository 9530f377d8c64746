"""From the verdicts on many photographs to one answer, and to what is counted of them."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from orchestrator.api.inspection.bodies import identity, verdict_fields
from orchestrator.api.inspection.drift import counted
from orchestrator.api.inspection.schemas.predict import PredictItem, PredictManyResponse
from orchestrator.api.wire import Call
from orchestrator.domain.identity import Target
from orchestrator.errors import PatchlightError
from orchestrator.runtime import Runtime
from orchestrator.services.verdict import Verdict

Judged = tuple[PredictItem, tuple[Target, Verdict] | None]
"""What is answered for a photograph, and what is counted of it once the whole request has succeeded."""


def passed(target: Target, name: str, verdict: Verdict) -> Judged:
    """Answer with a verdict."""
    fields = verdict_fields(target, verdict)
    item = PredictItem(filename=name, success=True, error_message=None, drift=None, **fields)
    return item, (target, replace(verdict, heatmap_png=None, regions=[]))


def failed(target: Target, name: str, error: PatchlightError) -> Judged:
    """Answer with why there is no verdict; nothing is counted."""
    empty: dict[str, Any] = dict.fromkeys(PredictItem.model_fields)
    given = {
        "filename": name,
        "success": False,
        "error_message": error.message,
        "regions": [],
        "n_regions": 0,
    }
    return PredictItem(**{**empty, **identity(target), **given}), None


async def answer_many(
    runtime: Runtime, judged: list[Judged], started: float, call: Call
) -> PredictManyResponse:
    """Count every part that was judged, then answer in the order sent."""
    results = [item for item, _ in judged]
    for index, (item, found) in enumerate(judged):
        item.drift = await counted(runtime, call, *found, item=index) if found else None
    failures = sum(not r.success for r in results)
    call.note(n_total=len(results), n_errors=failures)
    return PredictManyResponse(
        n_total=len(results),
        n_errors=failures,
        successful_images=len(results) - failures,
        failed_images=failures,
        results=results,
        elapsed_ms=round((time.perf_counter() - started) * 1e3, 3),
        request_id=call.request_id,
        recipe_id=call.recipe_id,
    )
