"""The bodies of `/infer` and `/infer_dataset`. Names are the published ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrator.api.inspection.schemas.drift import CountedPart
from orchestrator.api.inspection.schemas.shared import (
    Decision,
    Evaluated,
    Flag,
    Identified,
    Number,
    TokenShape,
)
from orchestrator.api.wire import Closed
from orchestrator.domain.memory_options import ScoreRule


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
    """The rules that the verdict was made by.

    score_percentile: behind the score where score_rule is percentile. foreground_applied: whether the part's foreground
    alone was judged; false where none was found and the whole photograph was; null where the bank does not ask for it.
    """

    mm_per_px: float
    blur_sigma: float
    score_percentile: int | float
    score_rule: ScoreRule
    foreground_applied: bool | None
    area_mm2_thr: float


class Timings(Closed):
    """Milliseconds by stage."""

    decode: float
    features: float
    search: float
    map: float
    encode: float


class NearestBody(Closed):
    """The stored patch that is most like it."""

    sample: Annotated[
        str | None, Field(description="The stored OK photograph; null where it is no longer stored.")
    ]
    sha256: Annotated[str, Field(description="The digest of its bytes.")]
    patch: Annotated[TokenShape, Field(description="[row, column] on the token grid.")]
    x: Annotated[
        float | None, Field(description="The patch's centre in that crop, px; null where it cannot be read.")
    ]
    y: float | None


class ExplanationBody(Closed):
    """Why it scores as it does: the patch farthest from the bank, before the map is enlarged and blurred."""

    patch: Annotated[TokenShape, Field(description="[row, column] on the token grid.")]
    x: Annotated[float, Field(description="The patch's centre in the crop, px.")]
    y: float
    distance: Annotated[float, Field(description="To the nearest row of the bank, exactly.")]
    nearest: Annotated[
        NearestBody | None, Field(description="null for a memory that does not know its photographs.")
    ]


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
    explanation: ExplanationBody | None


class InferResponse(InferBody):
    """One verdict, identified."""

    drift: CountedPart | None
    request_id: str
    recipe_id: str


class InferDatasetRequest(Evaluated):
    """Judge the stored samples."""

    labels: Annotated[list[Decision], Field(min_length=1)] = ["ok", "ng"]  # noqa: RUF012 - pydantic copies it
    include_heatmap: Flag = False
    default_mm_per_px: Number | None = None
    shape: str | dict[str, Any] | None = None
    explain: Flag = False


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
    explanation: ExplanationBody | None
    foreground_applied: bool | None
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
