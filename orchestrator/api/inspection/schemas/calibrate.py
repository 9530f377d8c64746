"""The bodies of the calibration routes. Names are the published ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrator.api.inspection.schemas.shared import Evaluated, Flag, Identified, Number
from orchestrator.api.wire import Closed


class FalseRejectRate(Closed):
    """The share of good parts that the threshold will reject: its mean, and its bound at `confidence`."""

    expected: float
    upper_bound: float
    confidence: float
    n_ok: int


class RecallInterval(Closed):
    """How many NG samples the threshold catches, and the Clopper-Pearson interval of that share on the line."""

    caught: int
    n_ng: int
    lower: float
    upper: float
    confidence: float


class ThresholdIntervalBody(Closed):
    """Where the threshold falls when the images are resampled: the middle share `confidence` of the bootstrap."""

    low: float
    high: float
    confidence: float
    resamples: int
    seed: int


class CostsBody(Closed):
    """What the threshold was weighed by."""

    ng_prevalence: float
    cost_escape: float
    cost_false_reject: float


class CalibrationOptions(Evaluated):
    """How the threshold is to be chosen.

    `conformal` takes the lowest OK score that keeps the false-reject rate at `max_false_reject_rate` with
    `confidence`. Where one of `ng_prevalence` (0.01), `cost_escape` (100), `cost_false_reject` (1) is sent and there
    are NG scores, it takes the threshold of least expected cost from there upwards.
    """

    method: Literal["percentile", "conformal"] = "percentile"
    score_percentile: Number | None = None
    max_false_reject_rate: Number | None = None
    confidence: Number | None = None
    ng_prevalence: Number | None = None
    cost_escape: Number | None = None
    cost_false_reject: Number | None = None
    area_mm2_thr: Number | None = None
    operator_id: Annotated[str | None, Field(max_length=10_000)] = None
    notes: Annotated[str | None, Field(max_length=10_000)] = None


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


class Guarantee(Closed):
    """What can be promised of a threshold.

    certifiable: whether false rejects are kept at max_false_reject_rate with the confidence. n_ok_needed: OK samples
    that suffice. independent_ok: OK samples when near-duplicates, in groups of these sizes, count once.
    """

    certifiable: bool
    n_ok_needed: int
    certificate: str
    max_false_reject_rate: float
    confidence: float
    independent_ok: int
    near_duplicate_groups: list[int]
    threshold_interval: ThresholdIntervalBody | None
    recall: RecallInterval | None
    costs: CostsBody | None


class CalibrationBody(Identified, Guarantee):
    """A calibration in force."""

    role_id: str
    roi_id: str
    model_key: str
    status: Literal["ok"]
    method: Literal["percentile", "conformal"]
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
