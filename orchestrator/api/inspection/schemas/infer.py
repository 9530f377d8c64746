"""The bodies of `/infer` and `/infer_dataset`. Names are the published ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from orchestrator.api.inspection.schemas.shared import (
    Decision,
    Evaluated,
    Flag,
    Identified,
    Number,
    TokenShape,
)
from orchestrator.api.wire import Closed


class RegionBody(Closed):
    """A region above the threshold; px of the crop, origin top left."""

    kind: Literal["blob"]
    bbox: Annotated[list[int], Field(min_length=4, max_length=4)]
    x: float
    y: float
    w: float
    h: float
    area_px: float
    area_mm2: float
    score: float
    contour: list[list[int]]


class InferParams(Closed):
    """The rules that the verdict was made by."""

    mm_per_px: float
    blur_sigma: float
    score_percentile: int | float
    area_mm2_thr: float


class Timings(Closed):
    """Milliseconds by stage."""

    decode: float
    features: float
    search: float
    map: float
    encode: float


class InferBody(Closed):
    """One verdict. p_value: the chance that a good part scores this high, null without a calibration's OK scores."""

    role_id: str
    roi_id: str
    model_key: str
    score: float
    threshold: float | None
    decision: Decision | None
    is_anomaly: bool | None
    p_value: float | None
    token_shape: TokenShape
    heatmap_png_base64: str | None
    regions: list[RegionBody]
    n_regions: int
    params: InferParams
    elapsed_ms: float
    timings_ms: Timings
    model_version: str
    bank_generation: int


class InferResponse(InferBody):
    """One verdict, identified."""

    request_id: str
    recipe_id: str


class InferDatasetRequest(Evaluated):
    """Judge the stored samples."""

    labels: Annotated[list[Decision], Field(min_length=1)] = ["ok", "ng"]  # noqa: RUF012 - pydantic copies it
    include_heatmap: Flag = False
    default_mm_per_px: Number | None = None
    shape: str | dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _not_yet(cls, sent: Any) -> Any:
        if isinstance(sent, dict) and sent.get("explain"):
            raise ValueError("explain: is not part of this release; leave it out, or send false.")
        return sent


class InferDatasetItem(Closed):
    """One stored sample's verdict, or why there is none."""

    label: Decision
    filename: str
    mm_per_px: float | None
    score: float | None
    threshold: float | None
    decision: Decision | None
    is_anomaly: bool | None
    p_value: float | None
    regions: list[RegionBody]
    n_regions: int
    heatmap_png_base64: str | None
    error: str | None


class InferDatasetResponse(Identified):
    """The verdicts of a part's stored samples."""

    status: Literal["ok"]
    role_id: str
    roi_id: str
    model_key: str
    n_total: int
    n_errors: int
    items: list[InferDatasetItem]
