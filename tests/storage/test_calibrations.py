from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain.calibration import Calibration, Costs, FalseReject, Recall, Rule, ThresholdInterval
from orchestrator.domain.identity import Target
from orchestrator.storage.calibrations import CalibrationStore, decode_calibration
from orchestrator.storage.files import FileStore

TARGET = Target.of("default", "a", "b")
WRITTEN_BEFORE = """{
  "bank_generation": 3, "fingerprint": "f", "method": "percentile", "threshold": 0.5, "score_percentile": 99.0,
  "area_mm2_thr": 1.0, "mm_per_px": 0.2, "ok_mean": 0.2, "ng_mean": 0.0, "p99_ok": 0.5, "p5_ng": null,
  "samples_ok": 2, "samples_ng": 0, "calibrated_at": "2026-01-01T00:00:00.000Z",
  "false_reject": {"expected": 0.3, "upper_bound": 0.8, "confidence": 0.95, "n_ok": 2},
  "ok_scores": [0.1, 0.5], "ng_scores": [], "operator_id": null, "notes": null, "shape": null
}"""


def test_a_calibration_of_an_earlier_release_keeps_its_meaning() -> None:
    calibration = decode_calibration(json.loads(WRITTEN_BEFORE))
    assert calibration is not None
    assert (calibration.threshold, calibration.rule) == (0.5, Rule())
    assert (calibration.recall, calibration.threshold_interval, calibration.costs) == (None, None, None)
    assert calibration.independent_ok_scores == (0.1, 0.5)


@pytest.mark.parametrize(
    "foreign",
    ["p99", [1, 2], 0.5, {}, {"false_reject": "p99"}, json.loads(WRITTEN_BEFORE) | {"costs": [1]}],
)
def test_what_another_server_left_is_no_calibration(foreign: Any) -> None:
    assert decode_calibration(foreign) is None


def test_a_calibration_is_read_back_as_written(tmp_path: Path) -> None:
    calibration = Calibration(
        bank_generation=1,
        fingerprint=None,
        method="conformal",
        threshold=0.4,
        score_percentile=99.0,
        area_mm2_thr=1.0,
        mm_per_px=0.2,
        ok_mean=0.2,
        ng_mean=0.6,
        p99_ok=0.4,
        p5_ng=0.6,
        samples_ok=3,
        samples_ng=1,
        calibrated_at="2026-01-01T00:00:00.000Z",
        false_reject=FalseReject(0.3, 0.8, 0.9, 2),
        ok_scores=(0.1, 0.4, 0.3),
        ng_scores=(0.6,),
        shape={"kind": "rect"},
        max_false_reject_rate=0.1,
        costs=Costs(0.2, 3.0, 4.0),
        threshold_interval=ThresholdInterval(0.1, 0.4, 0.9, 1000, 0),
        recall=Recall(1, 1, 0.05, 1.0, 0.9),
        ok_groups=(0, 1, 0),
    )
    store = CalibrationStore(FileStore(tmp_path))
    store.write(TARGET, calibration)
    assert store.read(TARGET) == calibration
    assert calibration.near_duplicate_groups == (2,)
    assert calibration.independent_ok_scores == (0.3, 0.4)
