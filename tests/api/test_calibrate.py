"""`/calibrate_ng` and `/calibrate_dataset`."""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from starlette.testclient import TestClient

from orchestrator.domain.arrays import ImageArray
from orchestrator.features.onnx import OnnxExtractor
from orchestrator.features.repository import ModelRepository
from tests.conftest import MakeClient
from tests.fakes import HeldExtractor
from tests.gui import Gui, ok, refused
from tests.pictures import bad, good, png


@pytest.fixture
def gui(client: TestClient) -> Gui:
    """Give a GUI whose target is fitted."""
    gui = Gui(client)
    ok(gui.fit(good(6)))
    return gui


def test_the_published_rule_is_the_default(gui: Gui) -> None:
    body = ok(gui.json("/calibrate_ng", ok_scores=[10, 11, 13], ng_scores=[22], mm_per_px=0.2))
    assert body["threshold"] == pytest.approx(17.48)
    assert (body["p99_ok"], body["p5_ng"], body["ng_mean"]) == (pytest.approx(12.96), 22, 22)
    assert (body["samples_ok"], body["samples_ng"], body["n_ok"], body["n_ng"]) == (3, 1, 3, 1)
    assert (body["method"], body["area_mm2_thr"], body["effective_area_mm2_thr"]) == ("percentile", 1, 1)
    assert (body["mm_per_px"], body["bank_generation"], body["status"]) == (0.2, 1, "ok")
    assert set(body["false_reject_rate"]) == {"expected", "upper_bound", "confidence", "n_ok"}
    assert body["calibrated_at"].endswith("Z")


def test_without_ng_scores_no_mean_is_null(gui: Gui) -> None:
    for ng in (None, list[float]()):
        body = ok(gui.json("/calibrate_ng", ok_scores=[0.1, 0.2], ng_scores=ng))
        assert (body["ng_mean"], body["p5_ng"]) == (0.0, None)
        assert body["threshold"] == pytest.approx(0.199)


def test_a_percentile_up_to_one_is_a_fraction_and_an_integral_one_an_integer(gui: Gui) -> None:
    for sent, answered in ((0.995, 99.5), (99, 99), (99.0, 99), (1, 100), (0.99, 99)):
        body = ok(gui.json("/calibrate_ng", ok_scores=[0.1], score_percentile=sent))
        assert body["score_percentile"] == answered
        assert isinstance(body["score_percentile"], int) is float(answered).is_integer()


def test_scores_that_are_not_finite_are_dropped_and_not_stored(gui: Gui) -> None:
    text = json.dumps({**gui.ids, "ok_scores": [0.1, math.nan, math.inf], "ng_scores": [-math.inf, 0.5]})
    answer = gui.client.request(
        "POST", "/calibrate_ng", content=text, headers={"content-type": "application/json"}
    )
    assert (ok(answer)["samples_ok"], ok(answer)["samples_ng"]) == (1, 1)
    assert ok(gui.get("/manifest"))["calib"]["ok_scores"] == [0.1]


def test_wrong_calibrations_name_their_field(gui: Gui) -> None:
    refused(gui.json("/calibrate_ng", ok_scores=[]), 400, "ok_scores")
    refused(gui.json("/calibrate_ng", ok_scores=["a"]), 422, "ok_scores")
    refused(gui.json("/calibrate_ng", ok_scores=[True]), 422, "ok_scores")
    refused(gui.json("/calibrate_ng", ok_scores=[10**400]), 422, "ok_scores")
    refused(gui.json("/calibrate_ng", ok_scores=[0.1], score_percentile=0), 400, "score_percentile")
    refused(gui.json("/calibrate_ng", ok_scores=[0.1], score_percentile=101), 400, "score_percentile")
    refused(gui.json("/calibrate_ng", ok_scores=[0.1], score_percentile=True), 422, "score_percentile")
    refused(gui.json("/calibrate_ng", ok_scores=[0.1], area_mm2_thr=-1), 400, "area_mm2_thr")
    refused(gui.json("/calibrate_ng", ok_scores=[0.1], mm_per_px=0), 400, "mm_per_px")
    refused(gui.json("/calibrate_ng", ok_scores=[0.1], mm_per_px=0.7), 409, "0.2", "0.7")
    refused(gui.json("/calibrate_ng", ok_scores=[0.1], method="f1"), 422, "method", "percentile", "conformal")
    refused(gui.json("/calibrate_ng"), 422, "ok_scores", "missing")
    assert ok(gui.get("/state"))["calib_present"] is False


def test_a_calibration_needs_a_bank(client: TestClient) -> None:
    refused(Gui(client).json("/calibrate_ng", ok_scores=[0.1]), 400, "Memoria no encontrada", "/fit_ok")
    refused(Gui(client).json("/calibrate_dataset"), 400, "Memoria no encontrada", "/fit_ok")


def test_a_threshold_of_zero_is_no_calibration(gui: Gui) -> None:
    assert ok(gui.json("/calibrate_ng", ok_scores=[0.0]))["threshold"] == 0
    assert ok(gui.infer(good(1)[0]))["threshold"] is None
    state = ok(gui.get("/state"))
    assert (state["calib_present"], state["calib_stale"]) == (False, False)


@pytest.mark.usefixtures("feature_backend")
def test_no_ok_image_is_scored_by_a_bank_that_holds_it(gui: Gui) -> None:
    ok(gui.fit(good(6), memory_fit="true"))
    ok(gui.upload("ng", bad(2)))
    body = ok(gui.json("/calibrate_dataset"))
    in_sample = [i["score"] for i in ok(gui.json("/infer_dataset", labels=["ok"]))["items"]]
    assert max(in_sample) < 0.02 < min(ok(gui.get("/manifest"))["calib"]["ok_scores"])
    assert (body["n_ok"], body["n_ng"]) == (6, 2)
    assert body["ok_mean"] < body["threshold"] < body["ng_mean"]


@pytest.mark.usefixtures("feature_backend")
def test_samples_that_the_bank_never_held_are_scored_against_it(gui: Gui) -> None:
    ok(gui.upload("ok", good(1, start=70)))
    ok(gui.json("/calibrate_dataset", require_ng=False))
    scores = ok(gui.get("/manifest"))["calib"]["ok_scores"]
    direct = ok(gui.infer(good(1, start=70)[0]))["score"]
    assert len(scores) == 7
    assert min(abs(s - direct) for s in scores) < 1e-4


def test_too_few_samples_are_400(gui: Gui) -> None:
    refused(gui.json("/calibrate_dataset"), 400, "NG")
    one = Gui(gui.client, roi="one")
    ok(one.fit(good(1)))
    refused(one.json("/calibrate_dataset", require_ng=False), 400, "OK", "at least 2", "found 1")


def test_the_roi_of_a_calibration_is_kept_for_the_refit(gui: Gui) -> None:
    shape = {"kind": "rect", "x": 0, "y": 0, "w": 40, "h": 40}
    first = ok(gui.json("/calibrate_dataset", require_ng=False, shape=shape))
    assert ok(gui.fit(good(6)))["threshold"] == pytest.approx(first["threshold"], rel=1e-6)
    whole = ok(gui.json("/calibrate_dataset", require_ng=False))
    assert whole["threshold"] != pytest.approx(first["threshold"], rel=1e-3)


def test_the_conformal_threshold_is_the_lowest_score_that_keeps_the_rate(gui: Gui) -> None:
    scores = [i / 1000 for i in range(1, 101)]
    body = ok(gui.json("/calibrate_ng", ok_scores=scores, method="conformal"))
    assert (body["method"], body["threshold"], body["certifiable"]) == ("conformal", 0.099, True)
    assert body["false_reject_rate"]["upper_bound"] <= 0.05
    assert body["false_reject_rate"]["n_ok"] == body["independent_ok"] == 100
    assert body["certificate"] == "false rejects <= 5 % with 95 % confidence (n = 100 OK)"
    assert (body["n_ok_needed"], body["recall"], body["near_duplicate_groups"]) == (59, None, [])
    interval = body["threshold_interval"]
    assert interval["low"] <= body["threshold"] <= interval["high"] <= 0.1
    strict = ok(
        gui.json(
            "/calibrate_ng", ok_scores=scores, method="conformal", max_false_reject_rate=0.01, confidence=0.9
        )
    )
    assert (strict["threshold"], strict["certifiable"], strict["n_ok_needed"]) == (0.1, False, 230)
    assert "not certifiable with 100 OK samples; 230 would do" in strict["certificate"]
    assert (strict["max_false_reject_rate"], strict["confidence"]) == (0.01, 0.9)
    stored = ok(gui.get("/manifest"))["calib"]
    assert {k: stored[k] for k in stored if k in strict} == {k: strict[k] for k in stored if k in strict}


def test_ng_scores_bring_the_recall_and_costs_move_the_threshold_up(gui: Gui) -> None:
    scores = [i / 1000 for i in range(1, 101)]
    plain = ok(gui.json("/calibrate_ng", ok_scores=scores, ng_scores=[0.05, 0.3, 0.4], method="conformal"))
    assert plain["threshold"] == 0.099
    assert (plain["recall"]["caught"], plain["recall"]["n_ng"], plain["costs"]) == (2, 3, None)
    assert 0 < plain["recall"]["lower"] < 2 / 3 < plain["recall"]["upper"] < 1
    weighed = ok(
        gui.json("/calibrate_ng", ok_scores=scores, ng_scores=[0.3, 0.4], method="conformal", cost_escape=10)
    )
    assert weighed["threshold"] == pytest.approx(0.2)
    assert weighed["costs"] == {"ng_prevalence": 0.01, "cost_escape": 10, "cost_false_reject": 1}


def test_the_published_rule_says_what_it_promises_too(gui: Gui) -> None:
    body = ok(gui.json("/calibrate_ng", ok_scores=[0.1, 0.2, 0.3], ng_scores=[0.9]))
    assert (body["method"], body["certifiable"], body["n_ok_needed"]) == ("percentile", False, 59)
    assert "not certifiable with 3 OK samples" in body["certificate"]
    assert body["recall"]["lower"] == pytest.approx(0.025)
    assert body["threshold_interval"]["resamples"] == 1000


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [
        ("max_false_reject_rate", 0, 400),
        ("max_false_reject_rate", 1, 400),
        ("max_false_reject_rate", 1e-9, 400),
        ("max_false_reject_rate", "5%", 422),
        ("confidence", 1, 400),
        ("confidence", 0, 400),
        ("ng_prevalence", 0, 400),
        ("ng_prevalence", 2, 400),
        ("cost_escape", -1, 400),
        ("cost_escape", 1e300, 400),
        ("cost_false_reject", -0.5, 400),
        ("cost_false_reject", True, 422),
    ],
)
def test_a_rule_out_of_range_is_refused(gui: Gui, field: str, value: object, status: int) -> None:
    for path, fields in (
        ("/calibrate_ng", {"ok_scores": [0.1]}),
        ("/calibrate_dataset", {"require_ng": False}),
    ):
        refused(gui.json(path, **fields, method="conformal", **{field: value}), status, field)
    assert ok(gui.get("/state"))["calib_present"] is False


def test_costs_need_the_method_that_weighs_them(gui: Gui) -> None:
    refused(gui.json("/calibrate_ng", ok_scores=[0.1], cost_escape=5), 400, "cost_escape", "method")


def test_a_verdict_has_the_p_value_of_its_score(gui: Gui) -> None:
    assert ok(gui.infer(good(1)[0]))["p_value"] is None
    ok(gui.upload("ng", bad(2)))
    ok(gui.json("/calibrate_dataset", method="conformal"))
    scores = ok(gui.get("/manifest"))["calib"]["ok_scores"]
    for image in (good(1, start=33)[0], bad(1, start=1500)[0]):
        body = ok(gui.infer(image))
        assert body["p_value"] == (1 + sum(s >= body["score"] for s in scores)) / 7
    items = ok(gui.json("/infer_dataset"))["items"]
    assert [i["p_value"] for i in items if i["label"] == "ng"] == [1 / 7, 1 / 7]


def test_a_refit_recalibrates_by_the_same_method_and_rule(gui: Gui) -> None:
    ok(gui.upload("ng", bad(2)))
    rule = {"max_false_reject_rate": 0.3, "confidence": 0.8, "cost_escape": 50.0, "ng_prevalence": 0.2}
    ok(gui.json("/calibrate_dataset", method="conformal", **rule))
    assert ok(gui.fit(good(6, start=20)))["recalibrated"] is True
    calib = ok(gui.get("/manifest"))["calib"]
    assert (calib["method"], calib["bank_generation"]) == ("conformal", 2)
    assert (calib["max_false_reject_rate"], calib["confidence"]) == (0.3, 0.8)
    assert calib["costs"] == {"ng_prevalence": 0.2, "cost_escape": 50, "cost_false_reject": 1}
    assert (calib["samples_ok"], calib["recall"]["caught"], calib["certifiable"]) == (12, 2, True)


def test_sixty_different_photographs_are_sixty_and_their_copies_are_none_more(
    make_client: MakeClient,
) -> None:
    gui = Gui(make_client(coreset_rate=0.05))
    parts = [texture(i) for i in range(60)]
    noise = np.random.default_rng(0).normal(0, 2, parts[2].shape)
    copies = [
        cv2.imencode(".jpg", parts[0][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes(),
        png(np.roll(parts[1], (1, 1), (0, 1))),
        png(np.clip(parts[2] + noise, 0, 255).astype(np.uint8)),
    ]
    ok(gui.fit([png(p) for p in parts]))
    alone = ok(gui.json("/calibrate_dataset", require_ng=False, method="conformal"))
    assert (alone["samples_ok"], alone["independent_ok"], alone["near_duplicate_groups"]) == (60, 60, [])
    assert alone["certifiable"] is True
    ok(gui.upload("ok", copies))
    body = ok(gui.json("/calibrate_dataset", require_ng=False, method="conformal"))
    assert (body["samples_ok"], body["independent_ok"]) == (63, 60)
    assert body["near_duplicate_groups"] == [2, 2, 2]
    assert body["threshold"] in ok(gui.get("/manifest"))["calib"]["ok_scores"]


@pytest.mark.parametrize("changed", [{"distance": "cosine"}, {"blur_sigma": 1.25}])
def test_a_threshold_of_another_distance_or_blur_is_stale_until_the_next_fit(
    gui: Gui, make_client: MakeClient, changed: dict[str, Any]
) -> None:
    ok(gui.json("/calibrate_dataset", require_ng=False))
    defect = bad(1)[0]
    assert ok(gui.infer(defect))["decision"] == "ng"
    other = Gui(make_client(**changed))
    assert ok(other.infer(defect))["threshold"] is None
    state = ok(other.get("/state"))
    assert (state["calib_present"], state["calib_stale"]) == (False, True)
    # Where it was measured it still holds.
    assert ok(gui.infer(defect))["decision"] == "ng"
    assert ok(other.fit(good(6)))["recalibrated"] is True
    assert ok(other.infer(defect))["decision"] == "ng"
    assert ok(gui.infer(defect))["threshold"] is None


def test_a_calibration_that_waited_is_of_the_bank_that_it_finds(
    make_client: MakeClient, tiny_repository: Path
) -> None:
    extractor = HeldExtractor(OnnxExtractor(ModelRepository(tiny_repository), threads=1), held=False)
    gui = Gui(make_client(extractor=extractor))
    first = Gui(gui.client, roi="first")
    ok(gui.fit(good(6)))
    ok(first.fit(good(6)))
    ok(first.upload("ok", good(1, start=70)))
    extractor.release.clear()
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(first.json, "/calibrate_dataset", require_ng=False)
        deadline = time.monotonic() + 10
        while extractor.waiting < 1:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        waiting = threads.submit(gui.json, "/calibrate_dataset", require_ng=False)
        # To its place in the queue; a slower machine lets the test pass for nothing.
        time.sleep(0.3)
        # Its photographs' tokens are kept: this fit needs no features.
        ok(gui.fit(good(6)))
        extractor.release.set()
        assert ok(running.result())["bank_generation"] == 1
        assert ok(waiting.result())["bank_generation"] == 2


def test_a_copy_of_the_one_photograph_in_the_bank_is_no_evidence(gui: Gui) -> None:
    one, parts = Gui(gui.client, roi="one"), [texture(i) for i in range(4)]
    ok(one.fit([png(parts[0])]))
    noise = np.random.default_rng(0).normal(0, 2, parts[0].shape)
    copy = png(np.clip(parts[0] + noise, 0, 255).astype(np.uint8))
    ok(one.upload("ok", [copy, png(parts[1])]))
    refused(one.json("/calibrate_dataset", require_ng=False), 400, "at least 2", "copies", "upload")
    ok(one.upload("ok", [png(p) for p in parts[2:]]))
    body = ok(one.json("/calibrate_dataset", require_ng=False))
    assert (body["samples_ok"], body["independent_ok"]) == (3, 3)
    assert min(ok(one.get("/manifest"))["calib"]["ok_scores"]) > 0.1


def texture(seed: int) -> ImageArray:
    """Draw a surface of which no two are alike: (192, 192, 3) uint8."""
    rough = np.random.default_rng(seed).normal(size=(192, 192, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(rough, (0, 0), 8)
    return np.asarray(20 + 200 * (smooth - smooth.min()) / np.ptp(smooth), dtype=np.uint8)


def test_a_json_body_that_is_none_is_refused(gui: Gui) -> None:
    for content in (b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"role_id": "\\ud800", "roi_id": "a"}'):
        answer = gui.client.request(
            "POST", "/calibrate_ng", content=content, headers={"content-type": "application/json"}
        )
        assert answer.status_code in (400, 422)
        refused(answer, answer.status_code)
