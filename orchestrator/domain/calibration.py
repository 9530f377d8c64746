"""A threshold and the evidence for it, bound to one generation of one bank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Method = Literal["percentile"]


@dataclass(frozen=True, slots=True)
class FalseReject:
    """The false-reject rate to expect at a threshold, and its upper bound at `confidence`."""

    expected: float
    upper_bound: float
    confidence: float
    n_ok: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """One calibration of one bank generation.

    Scores are image scores in [0, 2]. p99_ok: the `score_percentile`-th percentile of the OK scores, its published
    name notwithstanding. p5_ng is None without NG scores, ng_mean then 0.0. shape: the ROI that stood above the
    samples' own, as the client wrote it. index_sha256: of the index that the scores came through, None where every row
    was compared: a threshold holds for that index alone.
    """

    bank_generation: int
    fingerprint: str | None
    method: Method
    threshold: float
    score_percentile: float
    area_mm2_thr: float
    mm_per_px: float
    ok_mean: float
    ng_mean: float
    p99_ok: float
    p5_ng: float | None
    samples_ok: int
    samples_ng: int
    calibrated_at: str
    false_reject: FalseReject
    ok_scores: tuple[float, ...] = ()
    ng_scores: tuple[float, ...] = ()
    operator_id: str | None = None
    notes: str | None = None
    shape: str | dict[str, Any] | None = None
    index_sha256: str | None = None
