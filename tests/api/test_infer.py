"""`/infer` and `/infer_dataset` over both feature backends."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.conftest import MakeClient
from tests.gui import Gui, ok, refused
from tests.pictures import bad, encode, good, part, png

pytestmark = pytest.mark.usefixtures("feature_backend")

FIELDS = {
    "role_id", "roi_id", "model_key", "score", "threshold", "decision", "is_anomaly", "p_value", "token_shape",
    "heatmap_png_base64", "regions", "n_regions", "params", "elapsed_ms", "timings_ms", "model_version",
    "bank_generation", "explanation", "drift", "request_id", "recipe_id",
}  # fmt: skip


@pytest.fixture
def gui(client: TestClient) -> Gui:
    """Give a GUI whose target is fitted."""
    gui = Gui(client)
    ok(gui.fit(good(6), memory_fit="true"))
    return gui


@pytest.fixture
def calibrated(gui: Gui) -> Gui:
    """Give a GUI whose target is calibrated too."""
    ok(gui.upload("ng", bad(3)))
    ok(gui.json("/calibrate_dataset", area_mm2_thr=0.0))
    return gui


def heat(body: dict[str, object]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(str(body["heatmap_png_base64"]), validate=True)))


def test_a_missing_memory_is_phrased_for_both_generations_of_clients(client: TestClient) -> None:
    refused(Gui(client).infer(good(1)[0]), 400, "Memoria no encontrada", "memory not fitted", "/fit_ok")


def test_without_a_calibration_there_is_a_score_and_no_verdict(gui: Gui) -> None:
    body = ok(gui.infer(good(1)[0]))
    assert set(body) == FIELDS
    assert (body["threshold"], body["decision"], body["is_anomaly"], body["regions"]) == (
        None,
        None,
        None,
        [],
    )
    assert 0 <= body["score"] <= 2


def test_a_training_image_scores_zero_where_every_patch_is_kept(gui: Gui) -> None:
    assert ok(gui.infer(good(1)[0]))["score"] < 0.02


def test_bad_parts_are_ng_and_good_parts_are_ok(calibrated: Gui) -> None:
    assert [ok(calibrated.infer(i))["decision"] for i in bad(2, start=2000)] == ["ng", "ng"]
    assert [ok(calibrated.infer(i))["decision"] for i in good(2, start=3000)] == ["ok", "ok"]


def test_a_score_at_the_threshold_is_ng(gui: Gui) -> None:
    image = bad(1)[0]
    score = ok(gui.infer(image))["score"]
    ok(gui.json("/calibrate_ng", ok_scores=[score]))
    body = ok(gui.infer(image))
    assert body["threshold"] == body["score"] == score
    assert (body["decision"], body["is_anomaly"]) == ("ng", True)


def test_an_unset_calibration_can_be_refused_with_428(gui: Gui, make_client: MakeClient) -> None:
    strict = Gui(make_client(require_calibration=True))
    for answer in (
        strict.infer(good(1)[0]),
        strict.json("/infer_dataset"),
        strict.post("/predict", [("image", ("a.png", good(1)[0]))]),
    ):
        assert refused(answer, 428, "calibration_missing")["error_code"] == "calibration_missing"


def test_the_heat_map_has_exactly_the_crop_s_size(gui: Gui) -> None:
    for size in ((96, 128), (128, 96), (57, 201), (1, 60_000), (90, 1), (1, 1)):
        image = heat(ok(gui.infer(png(part(5, size=size)))))
        assert (image.format, image.mode, image.size) == ("PNG", "L", (size[1], size[0]))


def test_the_heat_map_is_black_outside_the_mask(calibrated: Gui) -> None:
    shape = {"kind": "circle", "cx": 64, "cy": 48, "r": 20}
    pixels = np.asarray(heat(ok(calibrated.infer(bad(1)[0], shape=json.dumps(shape)))))
    ys, xs = np.mgrid[:96, :128]
    outside = np.hypot(xs - 64, ys - 48) > 22
    assert not pixels[outside].any()
    assert pixels[~outside].any()


def test_the_heat_map_is_left_out_only_on_request(gui: Gui) -> None:
    for sent, included in ((None, True), ("true", True), ("false", False), ("0", False)):
        body = ok(gui.infer(good(1)[0], include_heatmap=sent))
        assert (body["heatmap_png_base64"] is not None) is included


def test_regions_are_sorted_and_boxed_in_both_spellings(calibrated: Gui) -> None:
    regions = ok(calibrated.infer(bad(1, start=2000)[0]))["regions"]
    assert regions
    assert [r["area_px"] for r in regions] == sorted((r["area_px"] for r in regions), reverse=True)
    for region in regions:
        assert region["bbox"] == [region[k] for k in "xywh"]
        assert region["area_mm2"] == pytest.approx(region["area_px"] * 0.04)
        assert all(0 <= x < 128 and 0 <= y < 96 for x, y in region["contour"])


def test_regions_below_the_calibrated_area_are_dropped(calibrated: Gui) -> None:
    image = bad(1, start=2000)[0]
    largest = ok(calibrated.infer(image))["regions"][0]["area_mm2"]
    ok(calibrated.json("/calibrate_dataset", area_mm2_thr=largest + 1))
    assert ok(calibrated.infer(image))["regions"] == []


def test_a_wrong_shape_is_400(gui: Gui) -> None:
    for shape in (
        "{",
        "[1]",
        '{"kind": "star"}',
        '{"kind": "circle", "cx": 64, "cy": 48, "r": 0}',
        '{"kind": "rect", "x": 0, "y": 0, "w": 400, "h": 10}',
        '{"kind": "annulus", "cx": 64, "cy": 48, "r": 20, "r_inner": 30}',
        '{"kind": "circle", "cx": NaN, "cy": 48, "r": 5}',
        "[" * 100_000,
    ):
        refused(gui.infer(good(1)[0], shape=shape), 400, "shape")


def test_a_scale_must_be_positive_and_finite(gui: Gui) -> None:
    for value in ("0", "-1", "nan", "inf", "-inf", "1e400"):
        refused(gui.infer(good(1)[0], mm_per_px=value), 400, "mm_per_px", "> 0")


def test_another_scale_than_the_recipe_s_is_409_naming_both(gui: Gui) -> None:
    refused(gui.infer(good(1)[0], mm_per_px="0.3"), 409, "0.2", "0.3")
    ok(gui.infer(good(1)[0], mm_per_px="0.2000000001"))


def test_a_refused_image_locks_no_scale(client: TestClient) -> None:
    gui = Gui(client)
    ok(gui.fit(good(3)))
    other = Gui(client, **{"X-Recipe-Id": "other"})
    ok(other.fit(good(3), recipe_id="other2"))
    refused(other.infer(good(1)[0], mm_per_px="0.9"), 400, "memory not fitted")
    assert ok(other.get("/manifest"))["mm_per_px"] is None


def test_images_over_the_limits_are_413(make_client: MakeClient) -> None:
    gui = Gui(make_client(max_image_bytes=30_000, max_image_pixels=20_000))
    ok(gui.fit(good(3)))
    refused(gui.infer(bytes(40_000)), 413, "30000 bytes")
    refused(gui.infer(encode(Image.new("1", (200, 200)), "PNG")), 413, "pixels")


def test_an_undecodable_image_is_400(gui: Gui) -> None:
    for data in (b"", b"no image", b"\x89PNG\r\n\x1a\n", png(part(1))[:400]):
        refused(gui.infer(data), 400, "crop.png")


def test_alpha_and_exif_orientation_are_read_as_people_see_them(gui: Gui) -> None:
    upright = Image.fromarray(part(1))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    first = ok(gui.infer(encode(upright, "PNG")))
    assert ok(gui.infer(encode(turned, "PNG", exif=exif)))["score"] == pytest.approx(first["score"], abs=1e-6)
    masked = upright.copy()
    masked.putalpha(Image.new("L", upright.size, 0))
    assert ok(gui.infer(encode(masked, "PNG")))["score"] == pytest.approx(first["score"], abs=1e-6)


def test_stored_samples_are_judged_with_their_own_roi(calibrated: Gui) -> None:
    shape = {"kind": "circle", "cx": 40, "cy": 40, "r": 25}
    stored = json.dumps(shape)
    (name,) = ok(calibrated.upload("ng", bad(1, start=4000), [{"shape_json": stored}]))["saved"]
    items = {i["filename"]: i for i in ok(calibrated.json("/infer_dataset", labels=["ng"]))["items"]}
    alone = ok(calibrated.infer(bad(1, start=4000)[0], shape=stored))
    assert items[name]["score"] == pytest.approx(alone["score"], rel=1e-4)
    other = {"kind": "rect", "x": 0, "y": 0, "w": 30, "h": 30}
    over = ok(calibrated.json("/infer_dataset", labels=["ng"], shape=other))["items"]
    whole = ok(calibrated.infer(bad(1, start=4000)[0], shape=json.dumps(other)))
    assert {i["filename"]: i["score"] for i in over}[name] == pytest.approx(whole["score"], rel=1e-4)


def test_the_dataset_s_answer_has_an_item_a_sample(calibrated: Gui) -> None:
    body = ok(calibrated.json("/infer_dataset"))
    assert (body["n_total"], body["n_errors"]) == (9, 0)
    assert [i["label"] for i in body["items"]] == ["ok"] * 6 + ["ng"] * 3
    assert all(i["heatmap_png_base64"] is None for i in body["items"])
    with_maps = ok(calibrated.json("/infer_dataset", include_heatmap=True, labels=["ok"]))["items"]
    assert all(i["heatmap_png_base64"] for i in with_maps)
    uncalibrated = Gui(calibrated.client, roi="r2")
    ok(uncalibrated.fit(good(3)))
    assert {i["decision"] for i in ok(uncalibrated.json("/infer_dataset"))["items"]} == {None}
