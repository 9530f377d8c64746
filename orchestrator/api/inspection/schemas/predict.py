"""The bodies of `/predict*`. Names are the published ones."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from orchestrator.api.inspection.schemas.drift import CountedPart
from orchestrator.api.inspection.schemas.infer import ExplanationBody, InferParams, RegionBody, Timings
from orchestrator.api.inspection.schemas.shared import Decision, Identified, TokenShape
from orchestrator.api.wire import Closed


class PredictScore(Closed):
    """One ROI's verdict in the first generation's words."""

    roi: str
    score: float
    is_anomaly: bool | None
    threshold: float | None
    percentile: int | float
    regions: list[RegionBody]
    explanation: ExplanationBody | None
    drift: CountedPart | None


class PredictResponse(Identified):
    """The first generation's verdict."""

    role_id: str
    roi_id: str
    scores: list[PredictScore]
    inference_ms: float
    image_resized: Annotated[list[int], Field(min_length=2, max_length=2)]


class PredictItem(Closed):
    """One image of many: its verdict, or why there is none."""

    filename: str
    success: bool
    error_message: str | None
    role_id: str
    roi_id: str
    model_key: str
    score: float | None
    threshold: float | None
    decision: Decision | None
    is_anomaly: bool | None
    p_value: float | None
    token_shape: TokenShape | None
    heatmap_png_base64: str | None
    regions: list[RegionBody]
    n_regions: int
    params: InferParams | None
    elapsed_ms: float | None
    timings_ms: Timings | None
    model_version: str | None
    bank_generation: int | None
    explanation: ExplanationBody | None
    drift: CountedPart | None


class PredictManyResponse(Identified):
    """Verdicts in the order sent."""

    n_total: int
    n_errors: int
    successful_images: int
    failed_images: int
    results: list[PredictItem]
    elapsed_ms: float
