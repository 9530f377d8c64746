"""`/train/status`, `/state`, `/manifest`, `/manifests/...`: what is stored and what is running."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Path

from orchestrator.api.inspection import forms
from orchestrator.api.inspection.bodies import (
    dataset_list,
    identity,
    memory_options,
    source,
    stored_calibration,
)
from orchestrator.api.inspection.drift import summary
from orchestrator.api.inspection.schemas.state import (
    ManifestResponse,
    StateResponse,
    TargetManifestResponse,
    TrainStatusResponse,
)
from orchestrator.api.openapi import problems
from orchestrator.api.wire import Call, current_call, current_runtime
from orchestrator.errors import NotFound
from orchestrator.runtime import Runtime

router = APIRouter(tags=["state"])

PathId = Annotated[str, Path(min_length=1, max_length=64)]


@router.get(
    "/train/status",
    name="train.status",
    summary="What fits are doing",
    responses=problems(400, 401, 500, 503),
)
async def train_status(
    call: Annotated[Call, Depends(current_call)], runtime: Annotated[Runtime, Depends(current_runtime)]
) -> TrainStatusResponse:
    """Answer without loading a model, for all workers together."""
    call.recipe()
    activity = await asyncio.to_thread(runtime.states.activity)
    backbone, label = await asyncio.to_thread(runtime.states.backbone_label)
    return TrainStatusResponse(
        status="running" if activity.running else "idle",
        last_train_ts=activity.last_train_ts,
        queue_size=activity.waiting,
        progress=activity.progress,
        model=backbone,
        device=runtime.settings.device,
        coreset_size=activity.last_coreset_size,
        model_version=label,
        request_id=call.request_id,
        recipe_id=call.recipe_id,
    )


@router.get(
    "/state",
    name="state",
    summary="Is it fitted, is it calibrated",
    responses=problems(400, 401, 409, 422, 500, 503),
)
async def state(
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
    role_id: forms.RoleQuery,
    roi_id: forms.RoiQuery,
    recipe_id: forms.RecipeQuery = None,
    model_key: forms.ModelKeyQuery = None,
) -> StateResponse:
    """Answer from the store."""
    target = call.target(recipe_id, role_id, roi_id, model_key)
    found = await asyncio.to_thread(runtime.states.target, target)
    return StateResponse(
        status="ok",
        **identity(target),
        memory_fitted=found.bank is not None,
        fitted=found.bank is not None,
        calib_present=found.calibration is not None,
        calib_stale=found.calib_stale,
        bank_generation=found.bank.metadata.generation if found.bank else None,
        source=source(found.bank) if found.bank else None,
        drift=await summary(runtime, target, found.bank),
        request_id=call.request_id,
        recipe_id=call.recipe_id,
    )


@router.get(
    "/manifest",
    name="manifest",
    summary="Everything stored for a target",
    responses=problems(400, 401, 409, 422, 500, 503),
)
async def manifest(
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
    role_id: forms.RoleQuery,
    roi_id: forms.RoiQuery,
    recipe_id: forms.RecipeQuery = None,
    model_key: forms.ModelKeyQuery = None,
) -> ManifestResponse:
    """Answer from the store, fitted or not."""
    target = call.target(recipe_id, role_id, roi_id, model_key)
    found = await asyncio.to_thread(runtime.states.target, target)
    bank = found.bank
    metadata = bank.metadata if bank else None
    return ManifestResponse(
        **identity(target),
        memory=bank is not None,
        source=source(bank) if bank else None,
        bank_generation=metadata.generation if metadata else None,
        model_version=metadata.model_version if metadata else None,
        n_embeddings=metadata.n_embeddings if metadata else 0,
        coreset_size=len(bank.embeddings) if bank else 0,
        token_shape=list(bank.grid) if bank else None,
        index=found.index,
        options=memory_options(metadata) if metadata else None,
        last_fit_at=metadata.fit_started_at if metadata else None,
        mm_per_px=found.mm_per_px,
        operator_id=metadata.operator_id if metadata else None,
        notes=metadata.notes if metadata else None,
        calib=stored_calibration(found.calibration) if found.calibration else None,
        calib_stale=found.calib_stale,
        drift=await summary(runtime, target, bank),
        datasets=dataset_list(target.part, found.datasets, call),
        request_id=call.request_id,
        recipe_id=call.recipe_id,
    )


@router.get(
    "/manifests/{role_id}/{roi_id}",
    name="manifest",
    summary="The second generation's manifest",
    responses=problems(400, 401, 404, 409, 422, 500, 503),
)
async def target_manifest(
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
    role_id: PathId,
    roi_id: PathId,
    recipe_id: forms.RecipeQuery = None,
    model_key: forms.ModelKeyQuery = None,
) -> TargetManifestResponse:
    """Answer 404 where nothing was ever fitted."""
    target = call.target(recipe_id, role_id, roi_id, model_key)
    found = await asyncio.to_thread(runtime.states.target, target)
    if found.bank is None:
        raise NotFound(f"{target.part.label} has no memory in recipe '{call.recipe_id}'; run /fit_ok first.")
    metadata, calibration = found.bank.metadata, found.calibration
    operators = (calibration.operator_id if calibration else None, metadata.operator_id)
    return TargetManifestResponse(
        **identity(target),
        model_version=metadata.model_version,
        last_fit_at=metadata.fit_started_at,
        last_calibration_at=calibration.calibrated_at if calibration else None,
        threshold=calibration.threshold if calibration else None,
        mm_per_px=found.mm_per_px,
        operator_last=next((o for o in operators if o), None),
        source=source(found.bank),
        bank_generation=metadata.generation,
        request_id=call.request_id,
        recipe_id=call.recipe_id,
    )
