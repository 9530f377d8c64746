"""`/datasets/*`, `/state`, `/manifest` and `/manifests/...`."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestrator.settings import Settings
from tests.gui import Gui, ok, refused
from tests.pictures import bad, good


@pytest.fixture
def gui(client: TestClient) -> Gui:
    """Give a GUI of an empty part."""
    return Gui(client)


def test_an_upload_is_listed_fetched_and_described(gui: Gui) -> None:
    image = good(1)[0]
    meta = {"mm_per_px": 0.2, "angle": 30.0, "source_path": "C:\\x\\y.png", "filename": "roi_1.png"}
    (name,) = ok(gui.upload("ok", [image], [meta], operator_id="ana", notes="n"))["saved"]
    assert re.fullmatch(r"OK_\d{8}_\d{9}_[0-9a-f]{8}\.png", name)
    listed = ok(gui.get("/datasets/list"))["classes"]
    assert listed == {"ok": {"count": 1, "files": [name], "meta": {name: True}}}
    file = gui.get("/datasets/file", label="ok", filename=name)
    assert (file.content, file.headers["content-type"]) == (image, "image/png")
    stored = ok(gui.get("/datasets/meta", label="ok", filename=name))
    assert {k: stored[k] for k in meta} == meta
    assert (stored["role_id"], stored["label"], stored["operator_id"]) == ("Inspection", "ok", "ana")
    assert {"timestamp_utc", "created_at_utc", "source", "sha256", "roi_id", "recipe_id"} <= set(stored)


def test_a_sidecar_without_a_scale_gets_the_recipe_s(gui: Gui) -> None:
    ok(gui.upload("ok", good(1), [{"mm_per_px": 0.25}]))
    for metas in ([], [{"mm_per_px": None}]):
        (name,) = ok(gui.upload("ok", good(1, start=5 + len(metas)), metas))["saved"]
        assert ok(gui.get("/datasets/meta", label="ok", filename=name))["mm_per_px"] == 0.25


def test_metas_are_checked_before_anything_is_stored(gui: Gui, settings: Settings) -> None:
    deep = "[" * 40 + "]" * 40
    for metas, words in (
        (["{"], ["metas[0]"]),
        (["3"], ["metas[0]"]),
        (['{"a": NaN}'], ["metas[0]"]),
        (['{"a": 1e999}'], ["metas[0]"]),
        (['{"a": "\\ud800"}'], ["metas[0]"]),
        ([f'{{"a": {deep}}}'], ["metas[0]", "deep"]),
        (["[" * 50_000], ["metas[0]"]),
        (["{}", "{}"], ["2 metas", "1 images"]),
        (['{"mm_per_px": "0.2"}'], ["metas[0].mm_per_px"]),
        (['{"mm_per_px": true}'], ["metas[0].mm_per_px"]),
        (['{"mm_per_px": -1}'], ["metas[0].mm_per_px"]),
        (['{"shape_json": "{"}'], ["shape"]),
        (['{"shape_json": 3}'], ["shape_json"]),
    ):
        refused(gui.upload("ok", good(1), metas), 400, *words)
    refused(gui.upload("ok", []), 400, "images")
    assert not (settings.data_root / "datasets").exists()
    assert ok(gui.get("/manifest"))["mm_per_px"] is None


def test_scales_of_sidecars_lock_the_recipe(gui: Gui) -> None:
    refused(gui.upload("ok", good(2), [{"mm_per_px": 0.2}, {"mm_per_px": 0.3}]), 409, "0.2", "0.3")
    assert ok(gui.get("/manifest"))["mm_per_px"] is None
    ok(gui.upload("ok", good(1), [{"mm_per_px": 0.2}]))
    refused(gui.upload("ng", bad(1), [{"mm_per_px": 0.3}]), 409, "0.2", "0.3")
    assert ok(gui.get("/datasets/list"))["classes"].keys() == {"ok"}


def test_names_cannot_climb(gui: Gui) -> None:
    (name,) = ok(gui.upload("ok", good(1)))["saved"]
    assert gui.get("/datasets/file", label="ok", filename=f"../../{name}").content == good(1)[0]
    for wrong in ("../../../backbone.json", "..", ".", "a\x00.png", "x" * 255, name[:-4] + ".json", "é.png"):
        refused(gui.get("/datasets/file", label="ok", filename=wrong), 404)
        assert ok(gui.delete("/datasets/file", label="ok", filename=wrong))["deleted"] is False
    refused(gui.get("/datasets/meta", label="ok", filename="OK_x.png"), 404, "meta not found")
    refused(gui.get("/datasets/file", label="maybe", filename=name), 422, "label")


def test_deleting_and_clearing_say_what_they_removed(gui: Gui) -> None:
    names = ok(gui.upload("ok", good(3)))["saved"]
    assert ok(gui.delete("/datasets/file", label="ok", filename=names[0]))["deleted"] is True
    assert ok(gui.delete("/datasets/file", label="ok", filename=names[0]))["deleted"] is False
    assert ok(gui.delete("/datasets/clear", label="ok"))["cleared"] == 4
    assert ok(gui.delete("/datasets/clear", label="ng"))["cleared"] == 0
    assert ok(gui.get("/datasets/list"))["classes"] == {}


def test_a_sidecar_from_elsewhere_is_completed(gui: Gui, settings: Settings) -> None:
    (name,) = ok(gui.upload("ok", good(1)))["saved"]
    folder = next((settings.data_root / "datasets").rglob("ok"))
    (folder / f"{name[:-4]}.json").write_text('{"mm_per_px": NaN, "angle": 3, "label": "OK"}')
    stored = ok(gui.get("/datasets/meta", label="ok", filename=name))
    assert (stored["angle"], stored["mm_per_px"], stored["filename"], stored["label"]) == (
        3,
        None,
        name,
        "ok",
    )


def test_the_state_before_any_fit(gui: Gui) -> None:
    state = ok(gui.get("/state"))
    assert (state["memory_fitted"], state["fitted"], state["calib_present"]) == (False, False, False)
    manifest = ok(gui.get("/manifest"))
    assert (manifest["memory"], manifest["calib"], manifest["datasets"]["classes"]) == (False, None, {})
    refused(gui.client.request("GET", "/manifests/Inspection/inspection-1"), 404, "/fit_ok")


def test_the_state_after_a_fit_and_a_calibration(gui: Gui) -> None:
    ok(gui.fit(good(3), operator_id="ana"))
    ok(gui.json("/calibrate_ng", ok_scores=[0.2], operator_id="eva"))
    state = ok(gui.get("/state"))
    assert (state["memory_fitted"], state["fitted"], state["calib_present"]) == (True, True, True)
    manifest = ok(gui.get("/manifest"))
    assert manifest["datasets"]["classes"]["ok"]["count"] == 3
    assert "ng" not in manifest["datasets"]["classes"]
    assert manifest["source"] == "patchlight"
    second = ok(gui.client.request("GET", "/manifests/Inspection/inspection-1"))
    assert (second["operator_last"], second["threshold"], second["mm_per_px"]) == ("eva", 0.2, 0.2)
    assert second["last_fit_at"]
    assert second["last_calibration_at"]


def test_a_model_key_keeps_a_bank_of_its_own(gui: Gui) -> None:
    ok(gui.fit(good(3)))
    refused(gui.infer(good(1)[0], model_key="pieza.A"), 400, "pieza.A")
    assert ok(gui.fit(good(2), model_key="pieza.A"))["model_key"] == "pieza.A"
    assert ok(gui.infer(good(1)[0], model_key="pieza.A"))["bank_generation"] == 1
    assert ok(gui.get("/state", model_key="pieza.A"))["memory_fitted"] is True


def test_two_workers_locking_one_recipe_agree(gui: Gui) -> None:
    answers: list[tuple[str, int]] = []

    def send(index: int) -> None:
        scale = ("0.2", "0.4")[index % 2]
        meta: dict[str, Any] = {"mm_per_px": float(scale)}
        answers.append((scale, gui.upload("ok", good(1, start=index * 7), [json.dumps(meta)]).status_code))

    threads = [threading.Thread(target=send, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    locked = str(ok(gui.get("/manifest"))["mm_per_px"])
    assert all(status == (200 if scale == locked else 409) for scale, status in answers)
    assert ok(gui.get("/datasets/list"))["classes"]["ok"]["count"] == 4
