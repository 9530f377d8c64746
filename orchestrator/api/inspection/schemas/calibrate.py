"""The bodies of the calibration routes. Names are the published ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from orchestrator.api.inspection.schemas.shared import Evaluated, Flag, Identified, Number
from orchestrator.api.wire import Closed


class FalseRejectRate(Closed):
    """The share of good parts that the threshold will reject: its mean, and its bound at `confidence`."""

    expected: float
    upper_bound: float
    confidence: float
    n_ok: int


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
