"""`/infer` and `/infer_dataset`: verdicts with heat maps and regions."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, File, Form, UploadFile

from orchestrator.api.inspection import forms
from orchestrator.api.inspection.bodies import identity, verdict_fields
from orchestrator.api.inspection.drift import counted
from orchestrator.api.inspection.schemas.infer import (
    InferDatasetItem,
    InferDatasetRequest,
    InferDatasetResponse,
    InferResponse,
)
from orchestrator.api.openapi import problems
from orchestrator.api.wire import Call, current_call, current_runtime, read_images
from orchestrator.domain.identity import Target
from orchestrator.domain.scale import check_mm_per_px
from orchestrator.errors import PatchlightError
from orchestrator.runtime import Runtime
from orchestrator.services.inspect_dataset import DatasetVerdict, inspect_dataset
from orchestrator.services.verdict import Inspection, Verdict

router = APIRouter(tags=["infer"])


@router.post(
    "/infer",
    name="infer",
    summary="Judge one photograph",
    responses=problems(400, 401, 409, 413, 422, 428, 429, 500, 503, 504),
)
async def infer(
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
    role_id: forms.RoleForm,
    roi_id: forms.RoiForm,
    mm_per_px: forms.ScaleForm,
    image: Annotated[UploadFile, File(description="The photograph.")],
    shape: forms.ShapeForm = None,
    include_heatmap: Annotated[bool | None, Form(description="false leaves the heat map out.")] = None,
    explain: forms.ExplainForm = None,
    model_key: forms.ModelKeyForm = None,
    recipe_id: forms.RecipeForm = None,
) -> InferResponse:
    """Score the photograph against the bank in force; the heat map has exactly the crop's size."""
    target = call.target(recipe_id, role_id, roi_id, model_key)
    scale = forms.scale(mm_per_px)
    (photograph,) = await read_images([image], runtime, shape or None)
    inspection = Inspection(target, photograph, scale, include_heatmap is not False, explain=explain is True)
    verdict = await runtime.inspector.inspect(inspection, call.context(runtime.settings.request_timeout_s))
    drift = await counted(runtime, call, target, verdict)
    call.note(
        score=verdict.score,
        threshold=verdict.threshold,
        decision=verdict.decision,
        foreground_applied=verdict.has_foreground,
        bank_generation=verdict.bank_generation,
    )
    return InferResponse(
        **verdict_fields(target, verdict),
        drift=drift,
        request_id=call.request_id,
        recipe_id=call.recipe_id,
    )


@router.post(
    "/infer_dataset",
    name="infer_dataset",
    summary="Judge the stored samples",
    responses=problems(400, 401, 409, 422, 428, 429, 500, 503, 504),
)
async def infer_dataset(
    body: InferDatasetRequest,
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
) -> InferDatasetResponse:
    """Judge every stored sample of the wanted labels; a sample that cannot be judged fails alone."""
    target = call.target(body.recipe_id, body.role_id, body.roi_id, body.model_key)
    default = body.default_mm_per_px
    fallback = None if default is None else check_mm_per_px(default, "default_mm_per_px")
    locked = await asyncio.to_thread(runtime.states.mm_per_px, target.part.recipe_id)
    verdicts = await inspect_dataset(
        runtime.inspector,
        runtime.samples,
        target,
        body.labels,
        call.context(runtime.settings.request_timeout_s),
        shape=body.shape or None,
        mm_per_px=locked or fallback,
        include_heatmap=body.include_heatmap,
        explain=body.explain,
    )
    items = [_item(target, verdict) for verdict in verdicts]
    call.note(n_total=len(items))
    return InferDatasetResponse(
        status="ok",
        **identity(target),
        n_total=len(items),
        n_errors=sum(item.error is not None for item in items),
        items=items,
        request_id=call.request_id,
        recipe_id=call.recipe_id,
    )


def _item(target: Target, judged: DatasetVerdict) -> InferDatasetItem:
    outcome = judged.outcome
    empty = {"score": None, "threshold": None, "decision": None, "is_anomaly": None, "p_value": None}
    fields = (
        verdict_fields(target, outcome)
        if isinstance(outcome, Verdict)
        else {**empty, "regions": [], "n_regions": 0, "heatmap_png_base64": None, "explanation": None}
    )
    shown = {k: v for k, v in fields.items() if k in InferDatasetItem.model_fields}
    return InferDatasetItem(
        label=judged.label,
        filename=judged.filename,
        mm_per_px=judged.mm_per_px,
        foreground_applied=outcome.has_foreground if isinstance(outcome, Verdict) else None,
        error=outcome.message if isinstance(outcome, PatchlightError) else None,
        **shown,
    )
