"""`/calibrate_ng` and `/calibrate_dataset`: a threshold for the bank in force."""

from __future__ import annotations

import asyncio
import math
from typing import Annotated

from fastapi import APIRouter, Depends

from orchestrator.api.inspection.bodies import calibration_body
from orchestrator.api.inspection.schemas.calibrate import (
    CalibrateDatasetRequest,
    CalibrateNgRequest,
    CalibrationBody,
    CalibrationOptions,
)
from orchestrator.api.openapi import problems
from orchestrator.api.wire import Call, current_call, current_runtime
from orchestrator.domain.calibration import Costs
from orchestrator.domain.identity import Target
from orchestrator.domain.scale import DEFAULT_MM_PER_PX, check_mm_per_px
from orchestrator.errors import InvalidInput
from orchestrator.features.base import Priority
from orchestrator.patchcore.calibration import normalise_percentile
from orchestrator.patchcore.conformal import check_confidence, check_rate
from orchestrator.patchcore.cost import check_costs
from orchestrator.runtime import Runtime
from orchestrator.services.embed import RawShape
from orchestrator.services.evidence import Recipe

router = APIRouter(tags=["calibrate"])


@router.post(
    "/calibrate_ng",
    name="calibrate_ng",
    summary="Choose a threshold from measured scores",
    responses=problems(400, 401, 409, 422, 500, 503),
)
async def calibrate_ng(
    body: CalibrateNgRequest,
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
) -> CalibrationBody:
    """Apply the published rule, or the conformal one, to the client's scores; binds to the bank in force."""
    target = call.target(body.recipe_id, body.role_id, body.roi_id, body.model_key)
    call.note(operator_id=body.operator_id, notes=body.notes)
    sent = None if body.mm_per_px is None else check_mm_per_px(body.mm_per_px)
    recipe = await _recipe(runtime, target, body, sent)
    calibration = await runtime.calibrator.from_scores(
        target, recipe, body.ok_scores, body.ng_scores or (), mm_per_px=sent
    )
    call.note(threshold=calibration.threshold, bank_generation=calibration.bank_generation)
    return calibration_body(target, calibration, call)


@router.post(
    "/calibrate_dataset",
    name="calibrate_dataset",
    summary="Choose a threshold from the stored samples",
    responses=problems(400, 401, 409, 413, 422, 429, 500, 503, 504),
)
async def calibrate_dataset(
    body: CalibrateDatasetRequest,
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
) -> CalibrationBody:
    """Score every stored OK sample by a bank that does not hold it, every NG sample by the bank in force."""
    target = call.target(body.recipe_id, body.role_id, body.roi_id, body.model_key)
    call.note(operator_id=body.operator_id, notes=body.notes)
    default = body.default_mm_per_px
    fallback = None if default is None else check_mm_per_px(default, "default_mm_per_px")
    recipe = await _recipe(runtime, target, body, None, fallback, body.shape or None)
    calibration = await runtime.calibrator.from_dataset(
        target,
        recipe,
        call.context(runtime.settings.fit_timeout_s, Priority.FIT),
        require_ng=body.require_ng,
    )
    call.note(threshold=calibration.threshold, bank_generation=calibration.bank_generation)
    return calibration_body(target, calibration, call)


async def _recipe(
    runtime: Runtime,
    target: Target,
    options: CalibrationOptions,
    mm_per_px: float | None,
    fallback: float | None = None,
    shape: RawShape = None,
) -> Recipe:
    settings = runtime.settings
    percentile = options.score_percentile
    area, most, confidence = options.area_mm2_thr, options.max_false_reject_rate, options.confidence
    if area is not None and not (math.isfinite(area) and area >= 0):
        raise InvalidInput(f"area_mm2_thr: must be >= 0 and finite, in mm²; got {area!r}.")
    locked = await asyncio.to_thread(runtime.states.mm_per_px, target.part.recipe_id)
    return Recipe(
        settings.score_percentile if percentile is None else normalise_percentile(percentile),
        settings.area_mm2_thr if area is None else area,
        mm_per_px or locked or fallback or DEFAULT_MM_PER_PX,
        operator_id=options.operator_id,
        notes=options.notes,
        shape=shape,
        method=options.method,
        max_false_reject_rate=0.05 if most is None else check_rate(most),
        confidence=0.95 if confidence is None else check_confidence(confidence),
        costs=_costs(options),
    )


def _costs(options: CalibrationOptions) -> Costs | None:
    names = ("ng_prevalence", "cost_escape", "cost_false_reject")
    sent = {name: value for name in names if (value := getattr(options, name)) is not None}
    if not sent:
        return None
    if options.method != "conformal":
        raise InvalidInput(
            f"{', '.join(sent)}: costs are weighed by method='conformal' only; send that method, or leave them out."
        )
    return check_costs(Costs(**sent))
