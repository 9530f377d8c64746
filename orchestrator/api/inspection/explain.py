"""`/explain`: why a photograph scores as it does, as a picture."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, UploadFile
from fastapi.responses import Response

from orchestrator.api.inspection import forms
from orchestrator.api.openapi import problems
from orchestrator.api.wire import Call, current_call, current_runtime, read_images
from orchestrator.runtime import Runtime
from orchestrator.services.show_explanation import show_explanation
from orchestrator.services.verdict import Inspection

router = APIRouter(tags=["infer"])

_PNG: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A PNG of bounded size.",
        "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post(
    "/explain",
    name="explain",
    summary="Show why one photograph scores as it does",
    response_class=Response,
    responses={**_PNG, **problems(400, 401, 409, 413, 422, 428, 429, 500, 503, 504)},
)
async def explain(
    call: Annotated[Call, Depends(current_call)],
    runtime: Annotated[Runtime, Depends(current_runtime)],
    role_id: forms.RoleForm,
    roi_id: forms.RoiForm,
    image: Annotated[UploadFile, File(description="The photograph.")],
    mm_per_px: forms.OptionalScaleForm = None,
    shape: forms.ShapeForm = None,
    model_key: forms.ModelKeyForm = None,
    recipe_id: forms.RecipeForm = None,
) -> Response:
    """Draw its highest-scoring patch and the stored patch that is most like it, each in its crop, side by side.

    Takes the form of `/infer`, stores nothing and locks no scale. Left the photograph, right the stored one, or a
    sentence that says why it cannot be shown.
    """
    target = call.target(recipe_id, role_id, roi_id, model_key)
    scale = await forms.scale_or_locked(runtime, call.recipe_id, mm_per_px)
    (photograph,) = await read_images([image], runtime, shape or None)
    shown = await show_explanation(
        runtime.inspector,
        runtime.explainer,
        runtime.pool,
        Inspection(target, photograph, scale),
        call.context(runtime.settings.request_timeout_s),
    )
    call.note(
        score=shown.verdict.score,
        distance=shown.explanation.distance,
        sample=shown.explanation.nearest and shown.explanation.nearest.sample,
        bank_generation=shown.verdict.bank_generation,
    )
    return Response(shown.png, media_type="image/png")
