"""The bodies that tell what is stored and what is running. Names are the published ones."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.api.inspection.schemas.calibrate import FalseRejectRate, Guarantee
from orchestrator.api.inspection.schemas.datasets import DatasetListResponse
from orchestrator.api.inspection.schemas.drift import DriftSummary
from orchestrator.api.inspection.schemas.shared import Identified, MemoryOptionsBody, TokenShape


class StoredCalibration(Guarantee):
    """The calibration in force, as stored."""

    threshold: float
    method: Literal["percentile", "conformal"]
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
    index: Annotated[
        Literal["exact", "ivf", "gpu_flat"] | None,
        Field(
            description="How the bank is searched: every row compared, on the processor or a GPU, or an inverted file. "
            "A bank whose index was lost is searched exactly, and its calibration is stale."
        ),
    ]
    options: MemoryOptionsBody | None
    last_fit_at: str | None
    mm_per_px: float | None
    operator_id: str | None
    notes: str | None
    calib: StoredCalibration | None
    calib_stale: bool
    drift: DriftSummary | None
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
    drift: DriftSummary | None


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
