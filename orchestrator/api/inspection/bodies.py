"""From the services' values to the wire's bodies."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from orchestrator.api.inspection.schemas.calibrate import (
    CalibrationBody,
    CostsBody,
    FalseRejectRate,
    RecallInterval,
    ThresholdIntervalBody,
)
from orchestrator.api.inspection.schemas.datasets import DatasetClass, DatasetListResponse
from orchestrator.api.inspection.schemas.infer import (
    ExplanationBody,
    InferParams,
    NearestBody,
    RegionBody,
    Timings,
)
from orchestrator.api.inspection.schemas.shared import MemoryOptionsBody
from orchestrator.api.inspection.schemas.state import StoredCalibration
from orchestrator.api.wire import Call, number
from orchestrator.domain.bank import BankMetadata, BankRecord
from orchestrator.domain.calibration import Calibration
from orchestrator.domain.identity import Part, Target
from orchestrator.domain.samples import Label
from orchestrator.patchcore.conformal import ok_needed
from orchestrator.patchcore.regions import Region
from orchestrator.patchcore.thresholds import certificate, is_certifiable
from orchestrator.services.explain import Explanation, Nearest
from orchestrator.services.verdict import Verdict
from orchestrator.storage.datasets import Listing


def identity(target: Target) -> dict[str, str]:
    """Name a target."""
    return {"role_id": target.part.role_id, "roi_id": target.part.roi_id, "model_key": target.model_key}


def false_reject(calibration: Calibration) -> FalseRejectRate:
    """Give the false-reject rate of a calibration."""
    rate = calibration.false_reject
    return FalseRejectRate(
        expected=rate.expected, upper_bound=rate.upper_bound, confidence=rate.confidence, n_ok=rate.n_ok
    )


def _calibration_fields(calibration: Calibration) -> dict[str, Any]:
    return {
        "method": calibration.method,
        "threshold": calibration.threshold,
        "ok_mean": calibration.ok_mean,
        "ng_mean": calibration.ng_mean,
        "p99_ok": calibration.p99_ok,
        "p5_ng": calibration.p5_ng,
        "mm_per_px": calibration.mm_per_px,
        "area_mm2_thr": calibration.area_mm2_thr,
        "score_percentile": number(calibration.score_percentile),
        "samples_ok": calibration.samples_ok,
        "samples_ng": calibration.samples_ng,
        "calibrated_at": calibration.calibrated_at,
        "bank_generation": calibration.bank_generation,
        "false_reject_rate": false_reject(calibration),
        **_guarantee(calibration),
    }


def _guarantee(calibration: Calibration) -> dict[str, Any]:
    rate, most = calibration.false_reject, calibration.max_false_reject_rate
    interval, recall, costs = calibration.threshold_interval, calibration.recall, calibration.costs
    return {
        "certifiable": is_certifiable(rate, most),
        "n_ok_needed": ok_needed(most, rate.confidence),
        "certificate": certificate(rate, most, calibration.method),
        "max_false_reject_rate": most,
        "confidence": rate.confidence,
        "independent_ok": rate.n_ok,
        "near_duplicate_groups": list(calibration.near_duplicate_groups),
        "threshold_interval": ThresholdIntervalBody(**asdict(interval)) if interval else None,
        "recall": RecallInterval(**asdict(recall)) if recall else None,
        "costs": CostsBody(**asdict(costs)) if costs else None,
    }


def calibration_body(target: Target, calibration: Calibration, call: Call) -> CalibrationBody:
    """Give both generations' fields of a calibration."""
    return CalibrationBody(
        **{**_calibration_fields(calibration), **identity(target)},
        status="ok",
        effective_area_mm2_thr=calibration.area_mm2_thr,
        n_ok=calibration.samples_ok,
        n_ng=calibration.samples_ng,
        request_id=call.request_id,
        recipe_id=call.recipe_id,
    )


def stored_calibration(calibration: Calibration) -> StoredCalibration:
    """Give a calibration with the scores behind it."""
    return StoredCalibration(
        **_calibration_fields(calibration),
        ok_scores=list(calibration.ok_scores),
        ng_scores=list(calibration.ng_scores),
        operator_id=calibration.operator_id,
        notes=calibration.notes,
    )


def regions(found: Sequence[Region]) -> list[RegionBody]:
    """Give regions with both spellings of their box."""
    return [
        RegionBody(
            kind="blob",
            bbox=list(region.bbox),
            x=region.bbox[0],
            y=region.bbox[1],
            w=region.bbox[2],
            h=region.bbox[3],
            area_px=region.area_px,
            area_mm2=region.area_mm2,
            score=region.score,
            contour=[[x, y] for x, y in region.contour],
        )
        for region in found
    ]


def explanation_body(explanation: Explanation | None) -> ExplanationBody | None:
    """Give an explanation, if there is one."""
    if explanation is None:
        return None
    return ExplanationBody(
        patch=list(explanation.patch),
        x=explanation.point[0],
        y=explanation.point[1],
        distance=explanation.distance,
        nearest=None if explanation.nearest is None else _nearest(explanation.nearest),
    )


def _nearest(nearest: Nearest) -> NearestBody:
    x, y = nearest.point or (None, None)
    return NearestBody(sample=nearest.sample, sha256=nearest.sha256, patch=list(nearest.patch), x=x, y=y)


def verdict_fields(target: Target, verdict: Verdict) -> dict[str, Any]:
    """Give the fields that every verdict on the wire shares."""
    found = regions(verdict.regions)
    png = verdict.heatmap_png
    return {
        **identity(target),
        "score": verdict.score,
        "threshold": verdict.threshold,
        "decision": verdict.decision,
        "is_anomaly": None if verdict.decision is None else verdict.decision == "ng",
        "p_value": verdict.p_value,
        "token_shape": list(verdict.token_shape),
        "heatmap_png_base64": None if png is None else base64.b64encode(png).decode(),
        "regions": found,
        "n_regions": len(found),
        "params": InferParams(
            mm_per_px=verdict.mm_per_px,
            blur_sigma=verdict.blur_sigma,
            score_percentile=number(verdict.score_percentile),
            score_rule=verdict.score_rule,
            foreground_applied=verdict.has_foreground,
            area_mm2_thr=verdict.area_mm2_thr,
        ),
        "elapsed_ms": round(verdict.elapsed_ms, 3),
        "timings_ms": Timings(**{stage: round(ms, 3) for stage, ms in verdict.timings_ms.items()}),
        "model_version": verdict.model_version,
        "bank_generation": verdict.bank_generation,
        "explanation": explanation_body(verdict.explanation),
    }


def dataset_list(part: Part, listings: Mapping[Label, Listing], call: Call) -> DatasetListResponse:
    """Give what is stored for a part."""
    classes: dict[Label, DatasetClass] = {
        label: DatasetClass(
            count=len(listing.files),
            files=list(listing.files),
            meta=dict(zip(listing.files, listing.has_meta, strict=True)),
        )
        for label, listing in listings.items()
    }
    return DatasetListResponse(
        role_id=part.role_id,
        roi_id=part.roi_id,
        classes=classes,
        request_id=call.request_id,
        recipe_id=call.recipe_id,
    )


def memory_options(metadata: BankMetadata) -> MemoryOptionsBody:
    """Give a bank's quality options."""
    options = metadata.options
    return MemoryOptionsBody(
        augmentation=options.augmentation,
        foreground=options.foreground,
        foreground_share=metadata.extra.get("foreground_share") if options.foreground else None,
        tile_px=options.tiling.window_px if options.tiling else None,
        tile_overlap_px=options.tiling.overlap_px if options.tiling else None,
        score_rule=options.score_rule,
        version=options.version,
    )


def source(bank: BankRecord) -> Literal["patchlight", "legacy"]:
    """Tell whether a bank is ours."""
    return "legacy" if bank.metadata.source == "legacy" else "patchlight"
