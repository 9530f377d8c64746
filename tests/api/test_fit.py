"""`/fit_ok` and `/send_ng` over both feature backends: all or nothing."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from orchestrator.settings import Settings
from tests.conftest import MakeClient
from tests.gui import Gui, ok, refused
from tests.pictures import bad, good, part, png

pytestmark = pytest.mark.usefixtures("feature_backend")

CIRCLE = {"kind": "circle", "cx": 64, "cy": 48, "r": 20}


@pytest.fixture
def gui(client: TestClient) -> Gui:
    """Give a GUI whose target is not fitted."""
    return Gui(client)


DATABASE = ("patchlight.db", "patchlight.db-shm", "patchlight.db-wal")


def stored(settings: Settings) -> set[str]:
    """Name everything below the data root that a request may have left."""
    root = settings.data_root
    files = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
    known = ("backbone.json", *DATABASE)
    return {f for f in files if not f.startswith((".locks", "status", "cache/"))} - set(known)


def test_a_fit_answers_for_all_three_generations(gui: Gui) -> None:
    body = ok(gui.fit(good(5), operator_id="ana", notes="first"))
    for count in ("n_embeddings", "coreset_size", "ok_added", "bank_generation"):
        assert type(body[count]) is int
    assert body["coreset_size"] == -(-body["n_embeddings"] // 10)
    assert (body["coreset_rate_requested"], body["coreset_rate_applied"]) == (0.1, 0.1)
    assert (body["ok_added"], body["bank_generation"], body["token_shape"]) == (5, 1, [8, 8])
    assert len(body["samples"]) == 5
    for sample in body["samples"]:
        assert Path(sample["file"]).parent == Path(body["target_dir"])
        meta = json.loads(Path(sample["meta"]).read_text())
        assert (meta["operator_id"], meta["notes"], meta["mm_per_px"]) == ("ana", "first", 0.2)
    assert body["model_version"].startswith("tiny/2@")
    assert ok(gui.get("/manifest"))["operator_id"] == "ana"


def test_patches_on_padding_never_enter_a_bank(gui: Gui) -> None:
    # 96 x 128 in a square of 8 x 8 patches: 6 rows of content.
    assert ok(gui.fit(good(4)))["n_embeddings"] == 4 * 48


def test_a_shape_keeps_patches_outside_the_roi_out(gui: Gui) -> None:
    whole = ok(gui.fit(good(3), memory_fit="true"))
    masked = ok(gui.fit(good(3), memory_fit="true", shape=json.dumps(CIRCLE)))
    assert masked["n_embeddings"] == masked["coreset_size"] < whole["n_embeddings"]
    assert masked["coreset_rate_applied"] == 1.0


def test_both_spellings_of_the_image_field_are_read_in_one_form(gui: Gui) -> None:
    a, b = good(2)
    files = [("images", ("a.png", a)), ("images[]", ("b.png", b))]
    assert ok(gui.post("/fit_ok", files, mm_per_px="0.2"))["ok_added"] == 2


def test_the_same_bytes_are_stored_once_over_every_route(gui: Gui) -> None:
    first = ok(gui.fit(good(3)))
    again = ok(gui.fit([*good(3), good(1)[0]]))
    assert (again["ok_added"], again["bank_generation"]) == (0, 2)
    assert [s["file"] for s in again["samples"][:3]] == [s["file"] for s in first["samples"]]
    names = ok(gui.upload("ok", good(2)))["saved"]
    assert names == [Path(s["file"]).name for s in first["samples"][:2]]
    assert ok(gui.get("/datasets/list"))["classes"]["ok"]["count"] == 3
    assert again["n_embeddings"] == first["n_embeddings"]
    sent = ok(gui.post("/send_ng", [("images", ("x.png", bad(1)[0]))] * 2, mm_per_px="0.2"))
    assert (sent["ng_added"], len(sent["samples"])) == (1, 2)


def test_a_fit_from_the_dataset_takes_posted_images_along(gui: Gui) -> None:
    ok(gui.upload("ok", good(4)))
    assert ok(gui.fit(use_dataset="true"))["n_embeddings"] == 4 * 48
    mixed = ok(gui.fit(good(2, start=100), use_dataset="true"))
    assert (mixed["n_embeddings"], mixed["ok_added"]) == (6 * 48, 2)
    assert ok(gui.fit(good(2, start=100)))["n_embeddings"] == 2 * 48


def test_a_dataset_fit_masks_each_sample_by_its_own_roi(gui: Gui) -> None:
    ok(gui.upload("ok", good(4), [{"shape_json": json.dumps(CIRCLE)}] * 4))
    own = ok(gui.fit(use_dataset="true", memory_fit="true"))["n_embeddings"]
    assert own < 4 * 48
    small = json.dumps({"kind": "rect", "x": 0, "y": 0, "w": 16, "h": 16})
    assert ok(gui.fit(use_dataset="true", memory_fit="true", shape=small))["n_embeddings"] < own


def test_too_few_samples_are_400_and_counted(gui: Gui, settings: Settings) -> None:
    refused(gui.fit(), 400, "images")
    ok(gui.upload("ok", good(2)))
    before = stored(settings)
    refused(gui.fit(use_dataset="true"), 400, "at least 4", "found 2")
    refused(gui.fit(good(1, start=50), use_dataset="true"), 400, "found 3")
    assert stored(settings) == before


def test_one_undecodable_image_among_several_stores_and_fits_nothing(gui: Gui, settings: Settings) -> None:
    files = [("images", ("fine.png", good(1)[0])), ("images", ("broken.png", good(2)[1][:500]))]
    refused(gui.post("/fit_ok", files, mm_per_px="0.2"), 400, "broken.png")
    refused(gui.post("/send_ng", files, mm_per_px="0.2"), 400, "broken.png")
    refused(gui.post("/datasets/ok/upload", files), 400, "broken.png")
    assert stored(settings) == set()
    assert not ok(gui.get("/state"))["memory_fitted"]


def test_a_wrong_shape_or_scale_leaves_nothing_behind(gui: Gui, settings: Settings) -> None:
    refused(gui.fit(good(2), shape='{"kind": "circle", "r": 9999}'), 400, "shape")
    refused(gui.post("/fit_ok", [("images", ("a.png", good(1)[0]))], mm_per_px="nan"), 400, "mm_per_px")
    assert stored(settings) == set()


def test_a_bank_that_cannot_be_written_takes_its_samples_and_its_lock_back(
    gui: Gui, settings: Settings
) -> None:
    # A folder where the bank belongs: the real file system refuses the last step of the commit.
    place = settings.data_root / "recipes/default/inspection-1/SW5zcGVjdGlvbg__aW5zcGVjdGlvbi0x.npz"
    place.mkdir(parents=True)
    refused(gui.fit(good(3)), 503)
    assert stored(settings) == set()
    place.rmdir()
    assert ok(gui.fit(good(3)))["bank_generation"] == 1


def test_conveniences_that_cannot_be_written_fail_no_fit(gui: Gui, settings: Settings) -> None:
    ok(gui.fit(good(4)))
    ok(gui.json("/calibrate_dataset", require_ng=False))
    stem = settings.data_root / "recipes/default/inspection-1/SW5zcGVjdGlvbg__aW5zcGVjdGlvbi0x"
    for suffix in ("_calib.json", "_manifest.json", "_fit.log"):
        stem.with_name(stem.name + suffix).unlink()
        stem.with_name(stem.name + suffix).mkdir()
    last = settings.data_root / "status/last_fit.json"
    last.unlink()
    last.mkdir()
    body = ok(gui.fit(good(4, start=10)))
    assert body["bank_generation"] == 2


def test_a_refit_recalibrates_where_samples_are_stored(gui: Gui) -> None:
    ok(gui.fit(good(4)))
    ok(gui.upload("ng", bad(2)))
    before = ok(gui.json("/calibrate_dataset", score_percentile=97, area_mm2_thr=3.5, operator_id="eva"))
    refit = ok(gui.fit(good(3, start=50)))
    assert (refit["recalibrated"], refit["bank_generation"]) == (True, 2)
    manifest = ok(gui.get("/manifest"))
    assert manifest["calib"]["threshold"] == refit["threshold"] != before["threshold"]
    assert manifest["calib"]["bank_generation"] == 2
    assert (manifest["calib"]["score_percentile"], manifest["calib"]["area_mm2_thr"]) == (97, 3.5)
    assert manifest["calib"]["samples_ok"] == 7
    assert manifest["calib"]["operator_id"] == "eva"
    state = ok(gui.get("/state"))
    assert (state["calib_present"], state["calib_stale"]) == (True, False)


def test_a_refit_without_samples_takes_the_calibration_out_of_force(gui: Gui) -> None:
    ok(gui.fit(good(1)))
    ok(gui.json("/calibrate_ng", ok_scores=[0.1, 0.2]))
    ok(gui.delete("/datasets/clear", label="ok"))
    refit = ok(gui.fit(good(1, start=60)))
    assert (refit["recalibrated"], refit["threshold"]) == (False, None)
    state = ok(gui.get("/state"))
    assert (state["calib_present"], state["calib_stale"]) == (False, True)
    assert ok(gui.get("/manifest"))["calib"] is None
    assert ok(gui.infer(good(1)[0]))["threshold"] is None


def test_a_fit_that_cannot_wait_is_429_at_once(make_client: MakeClient) -> None:
    gui = Gui(make_client(max_waiting_fits=0, coreset_rate=1.0))
    statuses: list[int] = []
    images = [png(np.asarray(part(i))) for i in range(24)]

    def fit() -> None:
        statuses.append(gui.fit(images).status_code)

    threads = [threading.Thread(target=fit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(set(statuses)) in ([200], [200, 429])
    assert statuses.count(200) >= 1


def test_the_status_of_fits_is_read_from_the_store(gui: Gui, make_client: MakeClient) -> None:
    idle = ok(gui.client.request("GET", "/train/status"))
    assert (idle["status"], idle["last_train_ts"], idle["coreset_size"], idle["queue_size"]) == (
        "idle", None, 0, 0,
    )  # fmt: skip
    fitted = ok(gui.fit(good(3)))
    other: Any = make_client()
    seen = ok(other.get("/train/status"))
    assert seen["coreset_size"] == fitted["coreset_size"]
    assert seen["last_train_ts"] is not None
    assert ok(Gui(other).infer(good(1)[0]))["bank_generation"] == 1


def test_the_longest_ids_in_the_longest_recipe_can_be_fitted(client: TestClient) -> None:
    longest = "é" * 20 + "a" * 44
    fields = {"role_id": longest, "roi_id": longest, "mm_per_px": "0.2", "recipe_id": "r" * 64}
    files = [("images", (f"{i}.png", data, "image/png")) for i, data in enumerate(good(2))]
    assert ok(client.post("/fit_ok", data=fields, files=files))["ok_added"] == 2


def test_a_damaged_bank_is_replaced_by_the_next_generation(gui: Gui, settings: Settings) -> None:
    assert ok(gui.fit(good(3)))["bank_generation"] == 1
    assert ok(gui.fit(good(4)))["bank_generation"] == 2
    (bank,) = settings.data_root.glob("recipes/*/*/*.npz")
    bank.write_bytes(b"not a bank")
    assert ok(gui.fit(good(3)))["bank_generation"] == 3


@pytest.mark.parametrize("scale", ["1e-200", "1e200"])
def test_a_scale_that_breaks_areas_locks_nothing(gui: Gui, scale: str) -> None:
    files = [("images", ("a.png", good(1)[0]))]
    refused(gui.post("/fit_ok", files, mm_per_px=scale), 400, "mm_per_px")
    ok(gui.fit(good(2)))


def test_a_recipe_in_the_query_of_a_post_is_not_ignored(gui: Gui, client: TestClient) -> None:
    ok(gui.fit(good(3)))
    fields = {"role_id": "Press", "roi_id": "part", "mm_per_px": "0.2"}
    files = {"image": ("a.png", good(1)[0], "image/png")}
    answer = client.post("/infer", params={"recipe_id": "other"}, data=fields, files=files)
    assert refused(answer, 400)["recipe_id"] == "other"
