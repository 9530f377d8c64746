"""`/drift` and `/drift/reset`: have a target's scores drifted, and since when."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from orchestrator.api.inspection import forms
from orchestrator.api.inspection.schemas.drift import (
    CountedPart,
    DriftPoint,
    DriftResetRequest,
    DriftResponse,
    DriftSummary,
)
from orchestrator.api.openapi import problems
from orchestrator.api.wire import Call, current_call, current_runtime
from orchestrator.domain import drift
from orchestrator.domain.bank import BankRecord
from orchestrator.domain.identity import Target
from orchestrator.errors import (
    BackboneMismatch,
    BackboneVersionGone,
    DatabaseUnavailable,
    FeaturesUnavailable,
    MemoryNotFitted,
)
from orchestrator.runtime import Runtime
from orchestrator.services.verdict import Verdict
from orchestrator.storage.verdicts import JudgedPart

router = APIRouter(tags=["drift"])

MAX_POINTS = 10_000


@router.get(
    "/drift",
    name="drift",
    summary="Have the scores drifted",
    responses=problems(400, 401, 404, 409, 422, 500, 503),
)
async def show_drift(
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
    role_id: forms.RoleQuery,
    roi_id: forms.RoiQuery,
    points: Annotated[
        int, Query(ge=0, le=MAX_POINTS, description="How many of the last parts to show.")
    ] = 200,
    recipe_id: forms.RecipeQuery = None,
    model_key: forms.ModelKeyQuery = None,
) -> DriftResponse:
    """Rank every part among those before it, and bet against the ranks being uniform; answer from the log."""
    target = call.target(recipe_id, role_id, roi_id, model_key)
    stream = await _stream(runtime, target)
    return _response(call, target, *await runtime.drift.history(stream, points))


@router.post(
    "/drift/reset",
    name="drift.reset",
    summary="Begin a new reference",
    responses=problems(400, 401, 404, 409, 422, 500, 503),
)
async def reset_drift(
    body: DriftResetRequest,
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
) -> DriftResponse:
    """Begin a new epoch: the next part is number one, and the alarm is off.

    A refit does the same by itself, and so does whatever makes other scores of the same photographs.
    """
    target = call.target(body.recipe_id, body.role_id, body.roi_id, body.model_key)
    state = await runtime.drift.reset(await _stream(runtime, target))
    call.note(epoch=state.epoch, bank_generation=state.stream.generation)
    return _response(call, target, state, [])


async def counted(
    runtime: Runtime, call: Call, target: Target, verdict: Verdict, item: int = 0
) -> CountedPart | None:
    """Count a judged part. item: its place within the request."""
    part = JudgedPart(call.request_id, item, verdict.score, verdict.threshold, verdict.decision)
    stream = drift.Stream(target, verdict.bank_generation, verdict.fitted_at or "", verdict.score_law)
    found = await runtime.drift.record(stream, part)
    if found is None:
        return None
    point = found.point
    return CountedPart(
        bank_generation=verdict.bank_generation,
        epoch=found.epoch,
        sequence=found.sequence,
        score=found.score,
        p_value=point.p_value if point else None,
        log10_martingale=point.log10_martingale if point else None,
        alarm=point.alarm if point else None,
    )


async def summary(runtime: Runtime, target: Target, bank: BankRecord | None) -> DriftSummary | None:
    """Sum up a bank's drift; None without a bank, where drift is off, or while it cannot be told."""
    if bank is None or runtime.drift.status == "off":
        return None
    try:
        stream = await _stream(runtime, target)
        return DriftSummary(**_fields(await runtime.drift.state(stream)))
    except (DatabaseUnavailable, MemoryNotFitted, BackboneMismatch, BackboneVersionGone, FeaturesUnavailable):
        # Refitted meanwhile, or a legacy bank without a backbone to judge parts with: the rest of the state stands.
        return None


async def _stream(runtime: Runtime, target: Target) -> drift.Stream:
    return await asyncio.to_thread(runtime.inspector.stream, target)


def _response(
    call: Call, target: Target, state: drift.DriftState, points: list[drift.DriftPoint]
) -> DriftResponse:
    return DriftResponse(
        role_id=target.part.role_id,
        roi_id=target.part.roi_id,
        model_key=target.model_key,
        **_fields(state),
        points=[
            DriftPoint(
                sequence=p.sequence, score=p.score, p_value=p.p_value, log10_martingale=p.log10_martingale
            )
            for p in points
        ],
        request_id=call.request_id,
        recipe_id=call.recipe_id,
    )


def _fields(state: drift.DriftState) -> dict[str, Any]:
    return {
        "phase": state.phase,
        "bank_generation": state.stream.generation,
        "epoch": state.epoch,
        "parts": state.parts,
        "reference": drift.REFERENCE,
        "alpha": state.rules.alpha,
        "seed": state.rules.seed,
        "log10_martingale": state.log10_martingale,
        "log10_max": state.log10_max,
        "alarm": state.alarm_at is not None,
        "alarm_at": state.alarm_at,
        "direction": state.direction,
    }
