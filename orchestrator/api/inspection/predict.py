"""`/predict`, `/predict/batch`, `/predict/zip`: one, many, an archive. Tool recognition will share these paths."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile

from orchestrator.api.inspection import forms
from orchestrator.api.inspection.bodies import explanation_body, regions
from orchestrator.api.inspection.drift import counted
from orchestrator.api.inspection.judged import Judged, answer_many, failed, passed
from orchestrator.api.inspection.schemas.predict import (
    PredictManyResponse,
    PredictResponse,
    PredictScore,
)
from orchestrator.api.inspection.targets import parse_targets
from orchestrator.api.openapi import problems
from orchestrator.api.wire import Call, current_call, current_runtime, number, read_images
from orchestrator.domain.identity import Target
from orchestrator.errors import InvalidIdentifier, InvalidInput, NotBuilt
from orchestrator.features.base import CallContext
from orchestrator.runtime import Runtime
from orchestrator.services.archive import Archive
from orchestrator.services.embed import Photograph, RawShape
from orchestrator.services.verdict import Inspection, Verdict

router = APIRouter(tags=["predict"])

RoleOptional = Annotated[str | None, Form(max_length=64, description="Role; needed together with roi_id.")]
RoiOptional = Annotated[str | None, Form(max_length=64, description="ROI; needed together with role_id.")]
HeatmapForm = Annotated[bool | None, Form(description="false leaves heat maps out.")]
_STATUSES = (400, 401, 409, 413, 422, 428, 429, 500, 501, 503, 504)
_FAMILY = (
    "Send role_id and roi_id for inspection. A `toolkit_id` asks for tool recognition instead, which answers 501 "
    "in this release; both, or neither, answer 422."
)


class UnclearFamily(InvalidIdentifier):
    """A prediction that names both families or neither."""

    code = "unclear_family"


async def _target(
    request: Request,
    call: Call,
    recipe_id: str | None,
    role_id: str | None,
    roi_id: str | None,
    model_key: str | None,
) -> Target:
    await _refuse_toolkit(request, instead_of="role_id/roi_id" if role_id or roi_id else None)
    if not role_id or not roi_id:
        missing = " and ".join(n for n, v in (("role_id", role_id), ("roi_id", roi_id)) if not v)
        raise UnclearFamily(f"{missing}: missing; send role_id and roi_id for inspection.")
    return call.target(recipe_id, role_id, roi_id, model_key)


async def _refuse_toolkit(request: Request, instead_of: str | None) -> None:
    toolkit = (await request.form()).get("toolkit_id") or request.query_params.get("toolkit_id")
    if toolkit and instead_of:
        raise UnclearFamily(f"toolkit_id and {instead_of}: send one or the other, not both.")
    if toolkit:
        raise NotBuilt("toolkit_id: tool recognition is not part of this release; send role_id and roi_id.")


@router.post(
    "/predict",
    name="predict",
    summary="Judge one photograph",
    description=_FAMILY,
    responses=problems(*_STATUSES),
)
@router.post("/predict/", name="predict", include_in_schema=False)
async def predict(
    request: Request,
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
    image: Annotated[UploadFile, File(description="The photograph.")],
    role_id: RoleOptional = None,
    roi_id: RoiOptional = None,
    mm_per_px: forms.OptionalScaleForm = None,
    shape: forms.ShapeForm = None,
    explain: forms.ExplainForm = None,
    model_key: forms.ModelKeyForm = None,
    recipe_id: forms.RecipeForm = None,
) -> PredictResponse:
    """Answer in the first generation's words."""
    target = await _target(request, call, recipe_id, role_id, roi_id, model_key)
    scale = await forms.scale_or_locked(runtime, call.recipe_id, mm_per_px)
    (photograph,) = await read_images([image], runtime, shape or None)
    inspection = Inspection(
        target,
        photograph,
        scale,
        include_heatmap=False,
        lock_scale=mm_per_px is not None,
        explain=explain is True,
    )
    verdict = await runtime.inspector.inspect(inspection, call.context(runtime.settings.request_timeout_s))
    drift = await counted(runtime, call, target, verdict)
    call.note(score=verdict.score, threshold=verdict.threshold, bank_generation=verdict.bank_generation)
    score = PredictScore(
        roi=target.part.roi_id,
        score=verdict.score,
        is_anomaly=None if verdict.decision is None else verdict.decision == "ng",
        threshold=verdict.threshold,
        percentile=number(verdict.score_percentile),
        regions=regions(verdict.regions),
        explanation=explanation_body(verdict.explanation),
        drift=drift,
    )
    height, width = verdict.input_size
    return PredictResponse(
        role_id=target.part.role_id,
        roi_id=target.part.roi_id,
        scores=[score],
        inference_ms=round(verdict.elapsed_ms, 3),
        image_resized=[width, height],
        request_id=call.request_id,
        recipe_id=call.recipe_id,
    )


@router.post(
    "/predict/batch",
    name="predict.batch",
    summary="Judge many photographs",
    description=_FAMILY,
    responses=problems(*_STATUSES),
)
@router.post("/predict/batch/", name="predict.batch", include_in_schema=False)
async def predict_batch(
    request: Request,
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
    images: forms.ImagesFile = None,
    images_brackets: forms.BracketImagesFile = None,
    role_id: RoleOptional = None,
    roi_id: RoiOptional = None,
    targets: Annotated[
        str | None,
        Form(description='JSON list aligned with images: [{"role_id": ..., "roi_id": ..., "shape": ...}].'),
    ] = None,
    mm_per_px: forms.OptionalScaleForm = None,
    shape: forms.ShapeForm = None,
    include_heatmap: HeatmapForm = None,
    explain: forms.ExplainForm = None,
    model_key: forms.ModelKeyForm = None,
    recipe_id: forms.RecipeForm = None,
) -> PredictManyResponse:
    """Judge them in the order sent; one bad photograph fails alone."""
    started = time.perf_counter()
    posted = forms.uploads(images, images_brackets)
    wanted: list[tuple[Target, RawShape]]
    if targets:
        if role_id or roi_id:
            raise UnclearFamily("targets and role_id/roi_id: send one or the other, not both.")
        await _refuse_toolkit(request, instead_of="targets")
        wanted = parse_targets(targets, call.recipe(recipe_id), len(posted))
    else:
        target = await _target(request, call, recipe_id, role_id, roi_id, model_key)
        wanted = [(target, None)] * len(posted)
    photographs = await read_images(_some(posted), runtime, shape or None)
    scale = await forms.scale_or_locked(runtime, call.recipe_id, mm_per_px)
    await asyncio.to_thread(runtime.inspector.check_any, [target for target, _ in wanted])
    inspections = [
        Inspection(
            target,
            replace(p, shape=own or p.shape),
            scale,
            include_heatmap is not False,
            lock_scale=False,
            explain=explain is True,
        )
        for p, (target, own) in zip(photographs, wanted, strict=True)
    ]
    context = call.context(runtime.settings.request_timeout_s)
    results: list[Judged] = []
    async with runtime.inspector.admitted():
        for start in range(0, len(inspections), runtime.inspector.batch_size):
            batch = inspections[start : start + runtime.inspector.batch_size]
            results += await _judge(runtime, batch, context)
    await _lock_scale(runtime, call, mm_per_px)
    return await answer_many(runtime, results, started, call)


@router.post(
    "/predict/zip",
    name="predict.zip",
    summary="Judge an archive of photographs",
    description=_FAMILY,
    responses=problems(*_STATUSES),
)
@router.post("/predict/zip/", name="predict.zip", include_in_schema=False)
async def predict_zip(
    request: Request,
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
    zip_file: Annotated[UploadFile, File(description="A zip; images at any depth.")],
    role_id: RoleOptional = None,
    roi_id: RoiOptional = None,
    mm_per_px: forms.OptionalScaleForm = None,
    shape: forms.ShapeForm = None,
    include_heatmap: HeatmapForm = None,
    explain: forms.ExplainForm = None,
    model_key: forms.ModelKeyForm = None,
    recipe_id: forms.RecipeForm = None,
) -> PredictManyResponse:
    """Judge its photographs in the archive's order; one bad photograph fails alone."""
    started = time.perf_counter()
    target = await _target(request, call, recipe_id, role_id, roi_id, model_key)
    scale = await forms.scale_or_locked(runtime, call.recipe_id, mm_per_px)
    if not (zip_file.filename or "").lower().endswith(".zip"):
        raise InvalidInput("zip_file: its name must end in .zip.")
    settings = runtime.settings
    archive = await asyncio.to_thread(
        Archive, zip_file.file, max_images=settings.max_images, max_bytes=settings.max_image_bytes
    )
    await asyncio.to_thread(runtime.inspector.check, target)
    context = call.context(settings.request_timeout_s)
    results: list[Judged] = []
    async with runtime.inspector.admitted():
        for start in range(0, len(archive), runtime.inspector.batch_size):
            batch = await asyncio.to_thread(
                lambda at: list(archive.read(at, at + runtime.inspector.batch_size)), start
            )
            inspections = [
                Inspection(
                    target,
                    Photograph(data, name, shape or None),
                    scale,
                    include_heatmap is not False,
                    lock_scale=False,
                    explain=explain is True,
                )
                for name, data in batch
                if isinstance(data, bytes)
            ]
            judged = iter(await _judge(runtime, inspections, context) if inspections else [])
            for name, data in batch:
                results.append(next(judged) if isinstance(data, bytes) else failed(target, name, data))
    await _lock_scale(runtime, call, mm_per_px)
    return await answer_many(runtime, results, started, call)


async def _lock_scale(runtime: Runtime, call: Call, sent: float | None) -> None:
    # Last of all, so that a request that fails half-way has locked nothing.
    if sent is not None:
        await asyncio.to_thread(runtime.inspector.lock_scale, call.recipe_id, sent)


async def _judge(runtime: Runtime, inspections: list[Inspection], context: CallContext) -> list[Judged]:
    outcomes = await runtime.inspector.inspect_many(inspections, context)
    return [
        passed(i.target, i.photograph.name, outcome)
        if isinstance(outcome, Verdict)
        else failed(i.target, i.photograph.name, outcome)
        for i, outcome in zip(inspections, outcomes, strict=True)
    ]


def _some(posted: list[UploadFile]) -> list[UploadFile]:
    if not posted:
        raise InvalidInput("images: No images provided; post at least one.")
    return posted
