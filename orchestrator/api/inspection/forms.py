"""The form fields that several routes share, and their reading."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import File, Form, Query, UploadFile

from orchestrator.domain.memory_options import Augmentation, ScoreRule
from orchestrator.domain.scale import DEFAULT_MM_PER_PX, check_against_lock, check_mm_per_px
from orchestrator.runtime import Runtime

RoleForm = Annotated[str, Form(min_length=1, max_length=64, description="Role; at most 84 bytes of UTF-8.")]
RoiForm = Annotated[str, Form(min_length=1, max_length=64, description="ROI; at most 84 bytes of UTF-8.")]
ModelKeyForm = Annotated[str | None, Form(max_length=64, description="Defaults to the ROI.")]
RecipeForm = Annotated[str | None, Form(description="Recipe; stands above X-Recipe-Id.")]
ScaleForm = Annotated[
    float,
    Form(
        description="Millimetres per pixel; the first value locks the recipe.",
        json_schema_extra={"exclusiveMinimum": 0},
    ),
]
OptionalScaleForm = Annotated[
    float | None, Form(description="Millimetres per pixel; the recipe's own where absent.")
]
ShapeForm = Annotated[
    str | None,
    Form(description='ROI in crop pixels as JSON: {"kind": "rect|circle|annulus", ...}.'),
]
ExplainForm = Annotated[
    bool | None, Form(description="true adds the explanation: which patch, and what it is most like.")
]
AugmentationForm = Annotated[
    Augmentation | None, Form(description="Mirror images and quarter turns that enter the bank too.")
]
ForegroundForm = Annotated[
    bool | None, Form(description="Let the patches of the background count for nothing.")
]
TileForm = Annotated[
    int | None,
    Form(ge=0, description="Window over larger crops, side in crop pixels; 0 is none. At least 64."),
]
OverlapForm = Annotated[
    int | None,
    Form(
        ge=0,
        description="What neighbouring windows share at least, px; a quarter of the window where absent.",
    ),
]
ScoreRuleForm = Annotated[
    ScoreRule | None, Form(description="From patch distances to the image score, for this bank.")
]
AccumulateForm = Annotated[
    bool,
    Form(
        description="Add the photographs to the bank that is there, by its own rate, instead of replacing it. One that "
        "it holds is not added again; with nothing new the generation stays."
    ),
]
NoteForm = Annotated[str | None, Form(max_length=10_000)]
ImagesFile = Annotated[list[UploadFile] | None, File(description="Photographs.")]
BracketImagesFile = Annotated[
    list[UploadFile] | None, File(alias="images[]", description="The same, as some clients spell it.")
]

RoleQuery = Annotated[str, Query(min_length=1, max_length=64)]
RoiQuery = Annotated[str, Query(min_length=1, max_length=64)]
RecipeQuery = Annotated[str | None, Query()]
ModelKeyQuery = Annotated[str | None, Query(max_length=64)]


def uploads(*fields: list[UploadFile] | None) -> list[UploadFile]:
    """Join the two spellings of a file field, in order."""
    return [upload for field in fields if field for upload in field]


def scale(value: float) -> float:
    """Check a scale. Raises InvalidInput."""
    return check_mm_per_px(value)


async def scale_or_locked(runtime: Runtime, recipe_id: str, sent: float | None) -> float:
    """Check a scale that may be left out against the recipe's, which stands in for it; locks nothing.

    Raises InvalidInput, MmPerPxMismatch, StoreUnavailable.
    """
    locked = await asyncio.to_thread(runtime.states.mm_per_px, recipe_id)
    if sent is None:
        return locked or DEFAULT_MM_PER_PX
    if locked is not None:
        check_against_lock(check_mm_per_px(sent), locked, recipe_id)
    return check_mm_per_px(sent)
