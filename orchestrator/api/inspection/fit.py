"""`/fit_ok` and `/send_ng`: samples in, a memory bank out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Form

from orchestrator.api.inspection import forms
from orchestrator.api.inspection.bodies import identity, memory_options
from orchestrator.api.inspection.schemas.fit import FitResponse, SendNgResponse
from orchestrator.api.inspection.schemas.shared import SampleRef
from orchestrator.api.openapi import problems
from orchestrator.api.wire import Call, current_call, current_runtime, read_images
from orchestrator.domain.identity import Part
from orchestrator.domain.memory_options import AskedOptions, choose_options
from orchestrator.domain.samples import Label, StoredSample, sidecar_name
from orchestrator.features.base import Priority
from orchestrator.runtime import Runtime
from orchestrator.services.fit import FitRequest

router = APIRouter(tags=["fit"])


@router.post(
    "/fit_ok",
    name="fit_ok",
    summary="Fit a memory bank from good photographs",
    responses=problems(400, 401, 409, 413, 422, 429, 500, 503, 504),
)
async def fit_ok(
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
    role_id: forms.RoleForm,
    roi_id: forms.RoiForm,
    mm_per_px: forms.ScaleForm,
    images: forms.ImagesFile = None,
    images_brackets: forms.BracketImagesFile = None,
    memory_fit: Annotated[bool, Form(description="Keep every patch.")] = False,
    use_dataset: Annotated[bool, Form(description="Fit from the stored OK samples too.")] = False,
    accumulate: forms.AccumulateForm = False,
    shape: forms.ShapeForm = None,
    model_key: forms.ModelKeyForm = None,
    recipe_id: forms.RecipeForm = None,
    operator_id: forms.NoteForm = None,
    notes: forms.NoteForm = None,
    augmentation: forms.AugmentationForm = None,
    foreground: forms.ForegroundForm = None,
    tile_px: forms.TileForm = None,
    tile_overlap_px: forms.OverlapForm = None,
    score_rule: forms.ScoreRuleForm = None,
) -> FitResponse:
    """Store the posted photographs as OK samples and replace the bank, or with `accumulate` add to it.

    Nothing changes unless it succeeds. The bank keeps its options for every verdict and calibration. One that is not
    sent is the deployment's, also in a refit: the old bank's are not carried over. What is added follows the bank's.
    """
    target = call.target(recipe_id, role_id, roi_id, model_key)
    scale = forms.scale(mm_per_px)
    shape = shape or None
    call.note(operator_id=operator_id, notes=notes)
    asked = AskedOptions(augmentation, foreground, tile_px, tile_overlap_px, score_rule)
    options = choose_options(runtime.settings.memory_options, **asdict(asked))
    posted = await read_images(forms.uploads(images, images_brackets), runtime, shape)
    service = runtime.accumulator if accumulate else runtime.fitter
    result = await service.fit(
        FitRequest(
            target,
            scale,
            posted,
            use_dataset,
            memory_fit,
            shape,
            operator_id,
            notes,
            options,
            asked,
        ),
        call.context(runtime.settings.fit_timeout_s, Priority.FIT),
    )
    record, metadata = result.record, result.record.metadata
    call.note(
        n_images=len(posted),
        use_dataset=use_dataset,
        accumulate=accumulate,
        n_embeddings=metadata.n_embeddings,
        coreset_size=len(record.embeddings),
        bank_generation=metadata.generation,
        recalibrated=result.recalibrated,
    )
    return FitResponse(
        **identity(target),
        n_embeddings=metadata.n_embeddings,
        coreset_size=len(record.embeddings),
        token_shape=list(record.grid),
        coreset_rate_requested=metadata.coreset_rate_requested,
        coreset_rate_applied=metadata.coreset_rate_applied,
        options=memory_options(metadata),
        ok_added=sum(sample.added for sample in result.samples),
        target_dir=_folder(runtime, target.part, "ok"),
        samples=_refs(runtime, target.part, "ok", result.samples),
        fit_started_at=metadata.fit_started_at or "",
        fit_duration_s=round(metadata.fit_duration_s, 4),
        model_version=metadata.model_version or "",
        bank_generation=metadata.generation,
        recalibrated=result.recalibrated,
        threshold=result.calibration.threshold if result.calibration else None,
        request_id=call.request_id,
        recipe_id=call.recipe_id,
    )


@router.post(
    "/send_ng",
    name="send_ng",
    summary="Store bad photographs",
    responses=problems(400, 401, 409, 413, 422, 500, 503),
)
async def send_ng(
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
    role_id: forms.RoleForm,
    roi_id: forms.RoiForm,
    mm_per_px: forms.ScaleForm,
    images: forms.ImagesFile = None,
    images_brackets: forms.BracketImagesFile = None,
    shape: forms.ShapeForm = None,
    recipe_id: forms.RecipeForm = None,
    operator_id: forms.NoteForm = None,
    notes: forms.NoteForm = None,
) -> SendNgResponse:
    """Store the photographs as NG samples; known bytes are not counted as added."""
    part = call.part(recipe_id, role_id, roi_id)
    scale = forms.scale(mm_per_px)
    posted = await read_images(forms.uploads(images, images_brackets), runtime)
    extras = {"shape_json": shape or None, "operator_id": operator_id, "notes": notes, "source": "send_ng"}
    metas = [{k: v for k, v in extras.items() if v is not None} for _ in posted]
    samples = await runtime.datasets.upload(part, "ng", posted, metas, mm_per_px=scale)
    call.note(ng_added=sum(s.added for s in samples), operator_id=operator_id, notes=notes)
    return SendNgResponse(
        ng_added=sum(sample.added for sample in samples),
        target_dir=_folder(runtime, part, "ng"),
        samples=_refs(runtime, part, "ng", samples),
        request_id=call.request_id,
        recipe_id=call.recipe_id,
    )


def _folder(runtime: Runtime, part: Part, label: Label) -> str:
    return str(runtime.settings.data_root / runtime.datasets.folder(part, label))


def _refs(runtime: Runtime, part: Part, label: Label, samples: list[StoredSample]) -> list[SampleRef]:
    folder = _folder(runtime, part, label)
    return [
        SampleRef(file=f"{folder}/{sample.name}", meta=f"{folder}/{sidecar_name(sample.name)}")
        for sample in samples
    ]
