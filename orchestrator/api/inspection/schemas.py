"""The bodies of the inspection family; names are the published ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from orchestrator.api.wire import Closed

Decision = Literal["ok", "ng"]
Number = Annotated[float, Field(strict=True)]
"""A JSON number; not a text, and true is not 1."""

Flag = Annotated[bool, Field(strict=True)]
TokenShape = Annotated[list[int], Field(min_length=2, max_length=2)]


class Identified(Closed):
    """Every body names its request and its recipe."""

    request_id: str
    recipe_id: str


class SampleRef(Closed):
    """Where a stored photograph and its sidecar are."""

    file: str
    meta: str


class FalseRejectRate(Closed):
    """The share of good parts that the threshold will reject: its mean, and its bound at `confidence`."""

    expected: float
    upper_bound: float
    confidence: float
    n_ok: int


class FitResponse(Identified):
    """A new generation of a memory bank."""

    role_id: str
    roi_id: str
    model_key: str
    n_embeddings: int
    coreset_size: int
    token_shape: TokenShape
    coreset_rate_requested: float
    coreset_rate_applied: float
    ok_added: int
    target_dir: str
    samples: list[SampleRef]
    fit_started_at: str
    fit_duration_s: float
    model_version: str
    bank_generation: int
    recalibrated: bool
    threshold: float | None


class SendNgResponse(Identified):
    """Stored NG samples."""

    ng_added: int
    target_dir: str
    samples: list[SampleRef]


class Evaluated(BaseModel):
    """What both calibration requests share."""

    model_config = ConfigDict(extra="ignore")

    role_id: Annotated[str, Field(min_length=1, max_length=64)]
    roi_id: Annotated[str, Field(min_length=1, max_length=64)]
    model_key: Annotated[str | None, Field(max_length=64)] = None
    recipe_id: str | None = None


class CalibrationOptions(Evaluated):
    """How the threshold is to be chosen."""

    method: Literal["percentile"] = "percentile"
    score_percentile: Number | None = None
    area_mm2_thr: Number | None = None
    operator_id: Annotated[str | None, Field(max_length=10_000)] = None
    notes: Annotated[str | None, Field(max_length=10_000)] = None

    @model_validator(mode="before")
    @classmethod
    def _not_yet(cls, sent: Any) -> Any:
        if isinstance(sent, dict) and sent.get("method") == "conformal":
            raise ValueError("method: 'conformal' is not part of this release; send 'percentile'.")
        return sent


class CalibrateNgRequest(CalibrationOptions):
    """Scores that the client has measured."""

    ok_scores: list[Number]
    ng_scores: list[Number] | None = None
    mm_per_px: Number | None = None


class CalibrateDatasetRequest(CalibrationOptions):
    """Calibrate from the stored samples."""

    default_mm_per_px: Number | None = None
    require_ng: Flag = True
    shape: str | dict[str, Any] | None = None


class CalibrationBody(Identified):
    """A calibration in force."""

    role_id: str
    roi_id: str
    model_key: str
    status: Literal["ok"]
    method: Literal["percentile"]
    threshold: float
    ok_mean: float
    ng_mean: float
    p99_ok: float
    p5_ng: float | None
    mm_per_px: float
    area_mm2_thr: float
    effective_area_mm2_thr: float
    score_percentile: int | float
    samples_ok: int
    samples_ng: int
    n_ok: int
    n_ng: int
    calibrated_at: str
    bank_generation: int
    false_reject_rate: FalseRejectRate


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
    """One verdict."""

    role_id: str
    roi_id: str
    model_key: str
    score: float
    threshold: float | None
    decision: Decision | None
    is_anomaly: bool | None
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

    labels: Annotated[list[Decision], Field(min_length=1)] = ["ok", "ng"]
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


class PredictScore(Closed):
    """One ROI's verdict in the first generation's words."""

    roi: str
    score: float
    is_anomaly: bool | None
    threshold: float | None
    percentile: int | float
    regions: list[RegionBody]


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
    token_shape: TokenShape | None
    heatmap_png_base64: str | None
    regions: list[RegionBody]
    n_regions: int
    params: InferParams | None
    elapsed_ms: float | None
    timings_ms: Timings | None
    model_version: str | None
    bank_generation: int | None


class PredictManyResponse(Identified):
    """Verdicts in the order sent."""

    n_total: int
    n_errors: int
    successful_images: int
    failed_images: int
    results: list[PredictItem]
    elapsed_ms: float


class UploadResponse(Identified):
    """Stored names, one for each image posted, in order."""

    status: Literal["ok"]
    saved: list[str]


class DatasetClass(Closed):
    """The photographs of one label, and whether each has a sidecar."""

    count: int
    files: list[str]
    meta: dict[str, bool]


class DatasetListResponse(Identified):
    """What is stored for a part."""

    role_id: str
    roi_id: str
    classes: Annotated[
        dict[Decision, DatasetClass], Field(description="A label without photographs is absent.")
    ]


class SampleMetaResponse(BaseModel):
    """A sidecar as the client sent it, completed; open on purpose, as its keys are the client's."""

    model_config = ConfigDict(extra="allow")

    role_id: str
    roi_id: str
    recipe_id: str
    label: Decision
    filename: str
    timestamp_utc: str
    created_at_utc: str
    source: str
    sha256: str
    request_id: str


class DeleteResponse(Identified):
    """Whether there was something to delete."""

    role_id: str
    roi_id: str
    label: Decision
    deleted: bool
    filename: str


class ClearResponse(Identified):
    """How many files were removed, sidecars included."""

    role_id: str
    roi_id: str
    label: Decision
    cleared: int


class StoredCalibration(Closed):
    """The calibration in force, as stored."""

    threshold: float
    method: Literal["percentile"]
    ok_mean: float
    ng_mean: float
    p99_ok: float
    p5_ng: float | None
    mm_per_px: float
    area_mm2_thr: float
    score_percentile: int | float
    samples_ok: int
    samples_ng: int
    calibrated_at: str
    bank_generation: int
    false_reject_rate: FalseRejectRate
    ok_scores: list[float]
    ng_scores: list[float]
    operator_id: str | None
    notes: str | None


class ManifestResponse(Identified):
    """Everything stored for a target."""

    role_id: str
    roi_id: str
    model_key: str
    memory: bool
    source: Literal["patchlight", "legacy"] | None
    bank_generation: int | None
    model_version: str | None
    n_embeddings: int
    coreset_size: int
    token_shape: TokenShape | None
    last_fit_at: str | None
    mm_per_px: float | None
    operator_id: str | None
    notes: str | None
    calib: StoredCalibration | None
    calib_stale: bool
    datasets: DatasetListResponse


class TargetManifestResponse(Identified):
    """The second generation's manifest."""

    role_id: str
    roi_id: str
    model_key: str
    model_version: str | None
    last_fit_at: str | None
    last_calibration_at: str | None
    threshold: float | None
    mm_per_px: float | None
    operator_last: str | None
    source: Literal["patchlight", "legacy"]
    bank_generation: int


class StateResponse(Identified):
    """Is it fitted, is it calibrated."""

    status: Literal["ok"]
    role_id: str
    roi_id: str
    model_key: str
    memory_fitted: bool
    fitted: bool
    calib_present: bool
    calib_stale: bool
    bank_generation: int | None
    source: Literal["patchlight", "legacy"] | None


class TrainStatusResponse(Identified):
    """What fits are doing, over all workers."""

    status: Literal["idle", "running"]
    last_train_ts: str | None
    queue_size: int
    progress: float | None
    model: str | None
    device: str
    coreset_size: int
    model_version: str | None
