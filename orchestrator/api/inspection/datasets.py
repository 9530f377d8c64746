"""`/datasets/*`: the stored photographs."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query
from fastapi.responses import JSONResponse, Response

from orchestrator.api.inspection import forms
from orchestrator.api.inspection.bodies import dataset_list
from orchestrator.api.inspection.schemas.datasets import (
    ClearResponse,
    DatasetListResponse,
    DeleteResponse,
    SampleMetaResponse,
    UploadResponse,
)
from orchestrator.api.inspection.schemas.shared import Decision
from orchestrator.api.openapi import problems
from orchestrator.api.wire import Call, current_call, current_runtime, read_images
from orchestrator.domain.identity import Part
from orchestrator.domain.samples import MEDIA_TYPES, Label
from orchestrator.errors import InvalidInput
from orchestrator.features.base import Priority
from orchestrator.runtime import Runtime
from orchestrator.services.datasets import parse_metas
from orchestrator.services.remove import Removal

router = APIRouter(prefix="/datasets", tags=["datasets"])

LabelQuery = Annotated[Decision, Query(description="ok or ng")]
NameQuery = Annotated[str, Query(min_length=1, max_length=255, description="A name as listed.")]
RefitQuery = Annotated[
    bool,
    Query(
        description="Take the photograph's patches out of the bank of `model_key` too, and re-cover it from the others."
    ),
]
MetasForm = Annotated[
    list[str] | None,
    Form(description="One JSON object for each image, in order; sidecars as the client wants them."),
]
_IMAGE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The bytes as they were posted.",
        "content": {
            media: {"schema": {"type": "string", "format": "binary"}}
            for media in sorted(set(MEDIA_TYPES.values()))
        },
    }
}


async def _upload(
    label: Label,
    call: Call,
    runtime: Runtime,
    part: Part,
    files: list[Any],
    metas: list[str] | None,
    extras: dict[str, str | None],
) -> UploadResponse:
    posted = await read_images(files, runtime)
    sidecars = parse_metas(metas or [])
    known = {k: v for k, v in extras.items() if v is not None}
    if known:
        sidecars = [{**known, **meta} for meta in sidecars or [{} for _ in posted]]
    samples = await runtime.datasets.upload(part, label, posted, sidecars)
    call.note(label=label, added=sum(s.added for s in samples), **known)
    return UploadResponse(
        status="ok",
        saved=[sample.name for sample in samples],
        request_id=call.request_id,
        recipe_id=call.recipe_id,
    )


@router.post(
    "/ok/upload",
    name="datasets.upload",
    summary="Store good photographs",
    responses=problems(400, 401, 409, 413, 422, 500, 503),
)
async def upload_ok(
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
    role_id: forms.RoleForm,
    roi_id: forms.RoiForm,
    images: forms.ImagesFile = None,
    images_brackets: forms.BracketImagesFile = None,
    metas: MetasForm = None,
    recipe_id: forms.RecipeForm = None,
    operator_id: forms.NoteForm = None,
    notes: forms.NoteForm = None,
) -> UploadResponse:
    """Store all or none; bytes that are known already return their existing name."""
    part = call.part(recipe_id, role_id, roi_id)
    files = forms.uploads(images, images_brackets)
    return await _upload(
        "ok", call, runtime, part, files, metas, {"operator_id": operator_id, "notes": notes}
    )


@router.post(
    "/ng/upload",
    name="datasets.upload",
    summary="Store bad photographs",
    responses=problems(400, 401, 409, 413, 422, 500, 503),
)
async def upload_ng(
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
    role_id: forms.RoleForm,
    roi_id: forms.RoiForm,
    images: forms.ImagesFile = None,
    images_brackets: forms.BracketImagesFile = None,
    metas: MetasForm = None,
    recipe_id: forms.RecipeForm = None,
    operator_id: forms.NoteForm = None,
    notes: forms.NoteForm = None,
) -> UploadResponse:
    """Store all or none; bytes that are known already return their existing name."""
    part = call.part(recipe_id, role_id, roi_id)
    files = forms.uploads(images, images_brackets)
    return await _upload(
        "ng", call, runtime, part, files, metas, {"operator_id": operator_id, "notes": notes}
    )


@router.get(
    "/list",
    name="datasets.list",
    summary="List the stored photographs",
    responses=problems(400, 401, 422, 500, 503),
)
async def list_samples(
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
    role_id: forms.RoleQuery,
    roi_id: forms.RoiQuery,
    recipe_id: forms.RecipeQuery = None,
) -> DatasetListResponse:
    """List by label, oldest first; a label without photographs is absent."""
    part = call.part(recipe_id, role_id, roi_id)
    return dataset_list(part, await asyncio.to_thread(runtime.datasets.listing, part), call)


@router.get(
    "/file",
    name="datasets.file",
    summary="Fetch a stored photograph",
    response_class=Response,
    responses={**_IMAGE, **problems(400, 401, 404, 422, 500, 503)},
)
async def get_file(
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
    role_id: forms.RoleQuery,
    roi_id: forms.RoiQuery,
    label: LabelQuery,
    filename: NameQuery,
    recipe_id: forms.RecipeQuery = None,
) -> Response:
    """Answer the bytes as they were posted; a name never changes its content."""
    part = call.part(recipe_id, role_id, roi_id)
    data = await asyncio.to_thread(runtime.datasets.read, part, label, filename)
    media = MEDIA_TYPES[filename.rsplit(".", 1)[-1].lower()]
    return Response(data, media_type=media, headers={"Cache-Control": "private, max-age=31536000, immutable"})


@router.delete(
    "/file",
    name="datasets.delete",
    summary="Remove a stored photograph",
    responses=problems(400, 401, 409, 422, 429, 500, 503, 504),
)
async def delete_file(
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
    role_id: forms.RoleQuery,
    roi_id: forms.RoiQuery,
    label: LabelQuery,
    filename: NameQuery,
    refit: RefitQuery = False,
    model_key: forms.ModelKeyQuery = None,
    recipe_id: forms.RecipeQuery = None,
) -> DeleteResponse:
    """Remove the photograph and its sidecar, with `refit` its patches too; `deleted` is false where there was none."""
    if refit and label != "ok":
        raise InvalidInput(
            "refit: is for label=ok; a memory holds no patches of NG photographs. Delete it without refit, then "
            "calibrate again."
        )
    target = call.target(recipe_id, role_id, roi_id, model_key)
    if refit:
        context = call.context(runtime.settings.fit_timeout_s, Priority.FIT)
        removal = await runtime.remover.remove(target, filename, context)
    else:
        removal = Removal(await asyncio.to_thread(runtime.datasets.remove, target.part, label, filename))
    record, calibration = removal.record, removal.calibration
    response = DeleteResponse(
        role_id=role_id,
        roi_id=roi_id,
        label=label,
        deleted=removal.deleted,
        filename=filename,
        refitted=record is not None,
        model_key=target.model_key if record is not None else None,
        bank_generation=record.metadata.generation if record is not None else None,
        n_embeddings=record.metadata.n_embeddings if record is not None else None,
        coreset_size=len(record.embeddings) if record is not None else None,
        samples_without_tokens=removal.without_tokens if record is not None else None,
        recalibrated=calibration is not None,
        threshold=calibration.threshold if calibration is not None else None,
        request_id=call.request_id,
        recipe_id=call.recipe_id,
    )
    call.note(
        label=label,
        deleted=response.deleted,
        refit=refit,
        bank_generation=response.bank_generation,
        n_embeddings=response.n_embeddings,
        coreset_size=response.coreset_size,
        recalibrated=response.recalibrated,
    )
    return response


@router.get(
    "/meta",
    name="datasets.meta",
    summary="Fetch a photograph's sidecar",
    response_model=SampleMetaResponse,
    responses=problems(400, 401, 404, 422, 500, 503),
)
async def get_meta(
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
    role_id: forms.RoleQuery,
    roi_id: forms.RoiQuery,
    label: LabelQuery,
    filename: NameQuery,
    recipe_id: forms.RecipeQuery = None,
) -> Response:
    """Answer what the client sent beside the photograph, completed."""
    part = call.part(recipe_id, role_id, roi_id)
    meta = await asyncio.to_thread(runtime.datasets.meta, part, label, filename)
    return JSONResponse({**meta, "request_id": call.request_id, "recipe_id": call.recipe_id})


@router.delete(
    "/clear",
    name="datasets.clear",
    summary="Remove all photographs of a label",
    responses=problems(400, 401, 422, 500, 503),
)
async def clear(
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
    role_id: forms.RoleQuery,
    roi_id: forms.RoiQuery,
    label: LabelQuery,
    recipe_id: forms.RecipeQuery = None,
) -> ClearResponse:
    """Remove them all; counts photographs and sidecars."""
    part = call.part(recipe_id, role_id, roi_id)
    cleared = await asyncio.to_thread(runtime.datasets.clear, part, label)
    return ClearResponse(
        role_id=role_id,
        roi_id=roi_id,
        label=label,
        cleared=cleared,
        request_id=call.request_id,
        recipe_id=call.recipe_id,
    )
