"""`/predict`, `/predict/batch` and `/predict/zip`."""

from __future__ import annotations

import io
import json
import zipfile

import pytest
from starlette.testclient import TestClient

from tests.conftest import MakeClient
from tests.gui import Answer, Gui, files_of, ok, refused
from tests.pictures import bad, good

pytestmark = pytest.mark.usefixtures("feature_backend")


@pytest.fixture
def gui(client: TestClient) -> Gui:
    """Give a GUI whose target is fitted and calibrated."""
    gui = Gui(client)
    ok(gui.fit(good(5)))
    ok(gui.upload("ng", bad(3)))
    ok(gui.json("/calibrate_dataset"))
    return gui


def one(image: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("image", ("a.png", image))]


def packed(entries: dict[str, bytes], name: str = "x.zip") -> list[tuple[str, tuple[str, bytes]]]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in entries.items():
            archive.writestr(path, data)
    return [("zip_file", (name, buffer.getvalue()))]


def test_one_image_is_answered_in_the_first_generation_s_words(gui: Gui) -> None:
    for path in ("/predict", "/predict/"):
        body = ok(gui.post(path, one(bad(1, start=2000)[0]), mm_per_px="0.2"))
        assert set(body) == {
            "role_id", "roi_id", "scores", "inference_ms", "image_resized", "request_id", "recipe_id",
        }  # fmt: skip
        (score,) = body["scores"]
        assert set(score) == {
            "roi", "score", "is_anomaly", "threshold", "percentile", "regions", "explanation", "drift",
        }  # fmt: skip
        assert (score["roi"], score["is_anomaly"], score["percentile"]) == ("inspection-1", True, 99)
        assert body["image_resized"] == [112, 112]


def test_the_family_must_be_clear(gui: Gui) -> None:
    client, image = gui.client, good(1)[0]
    for path, files in (
        ("/predict", one(image)),
        ("/predict/batch", files_of([image])),
        ("/predict/zip", packed({"a.png": image})),
    ):
        refused(client.request("POST", path, files=files), 422, "role_id and roi_id")
        refused(client.request("POST", path, files=files, data={"role_id": "a"}), 422, "roi_id")
        refused(client.request("POST", path, files=files, data={"toolkit_id": "3"}), 501, "toolkit_id")
        refused(gui.post(path, files, toolkit_id="3"), 422, "toolkit_id", "not both")
        other = Gui(client, roi="unfitted")
        refused(other.post(path, files), 400, "Memoria no encontrada")
        refused(gui.post(path, files, mm_per_px="0.9"), 409, "0.2", "0.9")


def test_a_batch_is_answered_in_order_and_one_bad_image_fails_alone(gui: Gui) -> None:
    images = [good(1)[0], b"broken", bad(1, start=2000)[0], b""]
    body = ok(gui.post("/predict/batch", files_of(images)))
    assert (body["n_total"], body["n_errors"]) == (4, 2)
    assert (body["successful_images"], body["failed_images"]) == (2, 2)
    results = body["results"]
    assert [r["filename"] for r in results] == ["0.png", "1.png", "2.png", "3.png"]
    assert [r["success"] for r in results] == [True, False, True, False]
    assert [r["decision"] for r in results] == ["ok", None, "ng", None]
    assert "1.png" in results[1]["error_message"]
    assert results[0]["error_message"] is None
    alone = ok(gui.infer(images[2]))
    assert results[2]["score"] == pytest.approx(alone["score"], rel=1e-3)
    assert results[2]["heatmap_png_base64"]
    bare = ok(gui.post("/predict/batch", files_of(images[:1]), include_heatmap="false"))
    assert bare["results"][0]["heatmap_png_base64"] is None


def test_an_image_over_the_limit_fails_alone_in_a_batch(make_client: MakeClient) -> None:
    gui = Gui(make_client(max_image_bytes=30_000))
    ok(gui.fit(good(3)))
    body = ok(gui.post("/predict/batch", files_of([bytes(40_000), good(1)[0]])))
    assert [r["success"] for r in body["results"]] == [False, True]
    assert "30000 bytes" in body["results"][0]["error_message"]


def test_targets_ask_several_rois_in_one_call(gui: Gui) -> None:
    client = gui.client
    other = Gui(client, roi="r2")
    ok(other.fit(good(3, start=300)))
    shape = {"kind": "circle", "cx": 40, "cy": 40, "r": 20}
    targets = [gui.ids, {**other.ids, "shape": shape}, {"role_id": "x", "roi_id": "unfitted"}]
    image = good(1, start=50)[0]
    answer = client.request(
        "POST", "/predict/batch", files=files_of([image] * 3), data={"targets": json.dumps(targets)}
    )
    results = ok(answer)["results"]
    assert [r["roi_id"] for r in results] == ["inspection-1", "r2", "unfitted"]
    assert [r["success"] for r in results] == [True, True, False]
    assert "/fit_ok" in results[2]["error_message"]
    masked = ok(other.infer(image, shape=json.dumps(shape)))
    assert results[1]["score"] == pytest.approx(masked["score"], rel=1e-3)
    assert results[0]["threshold"] is not None
    assert results[1]["threshold"] is None


def test_wrong_targets_are_refused(gui: Gui) -> None:
    client, files = gui.client, files_of(good(2))

    def send(targets: str, **fields: str) -> Answer:
        return client.request("POST", "/predict/batch", files=files, data={"targets": targets, **fields})

    refused(send("{"), 400, "targets")
    refused(send("[" * 50_000), 400, "targets")
    refused(send(json.dumps([gui.ids])), 400, "list of 2")
    refused(send(json.dumps([gui.ids, 3])), 400, "targets[1]")
    refused(send(json.dumps([gui.ids, {"role_id": "", "roi_id": "a"}])), 422, "targets[1]", "role_id")
    refused(send(json.dumps([gui.ids, {"role_id": 1, "roi_id": "a"}])), 400, "targets[1].role_id")
    refused(send(json.dumps([gui.ids] * 2), **gui.ids), 422, "targets", "not both")
    refused(gui.post("/predict/batch", []), 400, "images")


def test_a_zip_is_read_at_any_depth_and_what_is_no_photograph_is_skipped(gui: Gui) -> None:
    entries = {
        "readme.txt": b"x",
        "b/deep/one.PNG": good(1)[0],
        "__MACOSX/b/._one.PNG": b"x",
        "._two.png": b"x",
        "inner.zip": packed({"z.png": good(1)[0]})[0][1][1],
        "a/two.jpg": good(2)[1],
        "broken.bmp": b"x",
    }
    body = ok(gui.post("/predict/zip", packed(entries, "CROPS.ZIP")))
    assert [r["filename"] for r in body["results"]] == ["one.PNG", "two.jpg", "broken.bmp"]
    assert [r["success"] for r in body["results"]] == [True, True, False]


def test_what_is_no_zip_of_images_is_400(gui: Gui) -> None:
    refused(gui.post("/predict/zip", [("zip_file", ("x.zip", b"PK nonsense"))]), 400, "zip_file")
    refused(gui.post("/predict/zip", packed({"a.txt": b"x"})), 400, "zip_file", "no image")
    refused(gui.post("/predict/zip", packed({"a.png": good(1)[0]}, "x.rar")), 400, "zip_file", ".zip")
    refused(gui.post("/predict/zip", packed({})), 400, "zip_file")


def test_a_batch_locks_the_scale_only_if_it_ends_well(client: TestClient) -> None:
    gui = Gui(client)
    ok(gui.fit(good(3)))
    fresh = Gui(client, **{"X-Recipe-Id": "fresh"})
    refused(fresh.post("/predict/batch", files_of(good(1)), mm_per_px="0.7"), 400, "memory")
    assert ok(fresh.get("/manifest"))["mm_per_px"] is None
