"""`/calibrate_ng` and `/calibrate_dataset`."""

from __future__ import annotations

import json
import math

import pytest
from starlette.testclient import TestClient

from tests.gui import Gui, ok, refused
from tests.pictures import bad, good


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


def test_a_json_body_that_is_none_is_refused(gui: Gui) -> None:
    for content in (b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"role_id": "\\ud800", "roi_id": "a"}'):
        answer = gui.client.request(
            "POST", "/calibrate_ng", content=content, headers={"content-type": "application/json"}
        )
        assert answer.status_code in (400, 422)
        refused(answer, answer.status_code)
