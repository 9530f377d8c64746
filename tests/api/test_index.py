"""An inverted file belongs to its bank: made at the fit, known by its checksum, and never missing silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from orchestrator.settings import Settings
from tests.conftest import MakeClient
from tests.gui import Gui, ok
from tests.pictures import bad, good


@pytest.fixture
def gui(make_client: MakeClient) -> Gui:
    """Give a GUI whose banks of more than 50 rows get an index."""
    return Gui(make_client(index_min_rows=50))


def calibrated(gui: Gui) -> dict[str, Any]:
    ok(gui.upload("ok", good(6)))
    ok(gui.fit([], use_dataset="true", memory_fit="true"))
    ok(gui.upload("ng", bad(2)))
    return ok(gui.json("/calibrate_dataset"))


def index_file(settings: Settings) -> Path:
    (path,) = settings.data_root.rglob("*_index.faiss")
    return path


def metadata(settings: Settings) -> dict[str, Any]:
    (path,) = settings.data_root.glob("recipes/*/*/*.npz")
    with np.load(path) as bank:
        content: dict[str, Any] = json.loads(str(bank["metadata"]))
    return content


def assert_in_force(gui: Gui, threshold: float) -> None:
    assert ok(gui.infer(bad(1)[0]))["threshold"] == threshold
    assert ok(gui.get("/manifest"))["index"] == "ivf"
    state = ok(gui.get("/state"))
    assert (state["calib_present"], state["calib_stale"]) == (True, False)


def assert_lost(gui: Gui) -> None:
    verdict = ok(gui.infer(bad(1)[0]))
    assert (verdict["threshold"], verdict["decision"]) == (None, None)
    manifest = ok(gui.get("/manifest"))
    assert (manifest["index"], manifest["calib"]) == ("exact", None)
    state = ok(gui.get("/state"))
    assert (state["calib_present"], state["calib_stale"]) == (False, True)


def test_a_bank_above_the_size_is_searched_through_an_index_that_its_metadata_names(
    gui: Gui, settings: Settings
) -> None:
    body = calibrated(gui)
    described = metadata(settings)["index"]
    assert described["kind"] == "ivf"
    assert described["rows"] == ok(gui.get("/manifest"))["coreset_size"]
    index: Any = faiss.read_index(str(index_file(settings)))
    assert (index.ntotal, index.nlist) == (described["rows"], described["nlist"])
    (stored,) = settings.data_root.rglob("*_calib.json")
    assert json.loads(stored.read_text())["index_sha256"] == described["sha256"]
    assert_in_force(gui, body["threshold"])


def test_a_bank_up_to_the_size_is_searched_exactly(make_client: MakeClient, settings: Settings) -> None:
    gui = Gui(make_client())
    body = calibrated(gui)
    assert not list(settings.data_root.rglob("*.faiss"))
    assert metadata(settings)["index"] is None
    assert ok(gui.get("/manifest"))["index"] == "exact"
    assert ok(gui.infer(bad(1)[0]))["threshold"] == body["threshold"]


def test_a_lost_index_leaves_an_exact_search_without_a_threshold(gui: Gui, settings: Settings) -> None:
    threshold, path = calibrated(gui)["threshold"], index_file(settings)
    kept = path.read_bytes()
    path.unlink()
    assert_lost(gui)
    # The very bytes bring it back.
    path.write_bytes(kept)
    assert_in_force(gui, threshold)


def test_a_damaged_index_is_a_lost_one(gui: Gui, settings: Settings, make_client: MakeClient) -> None:
    calibrated(gui)
    path = index_file(settings)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    assert_lost(gui)
    # For a process that never saw it whole, too.
    assert_lost(Gui(make_client(index_min_rows=50)))


def test_an_index_is_found_where_it_was_staged_for_its_commit(gui: Gui, settings: Settings) -> None:
    threshold, path = calibrated(gui)["threshold"], index_file(settings)
    # As a process leaves it that ends between the commit and the index's move to its place.
    path.rename(path.with_name(path.name.replace("_index", "_next_index")))
    assert_in_force(gui, threshold)


def test_calibrating_without_the_index_is_in_force_for_the_exact_search(gui: Gui, settings: Settings) -> None:
    calibrated(gui)
    path = index_file(settings)
    kept = path.read_bytes()
    path.unlink()
    threshold = ok(gui.json("/calibrate_dataset"))["threshold"]
    assert ok(gui.infer(bad(1)[0]))["threshold"] == threshold
    assert ok(gui.get("/manifest"))["index"] == "exact"
    # It came through no index, so it does not hold for one.
    path.write_bytes(kept)
    assert ok(gui.infer(bad(1)[0]))["threshold"] is None
    assert ok(gui.get("/state"))["calib_stale"] is True


def test_a_refit_brings_a_lost_index_back_and_calibrates_through_it(gui: Gui, settings: Settings) -> None:
    calibrated(gui)
    index_file(settings).unlink()
    body = ok(gui.fit([], use_dataset="true", memory_fit="true"))
    assert (body["recalibrated"], body["bank_generation"]) == (True, 2)
    assert_in_force(gui, ok(gui.get("/manifest"))["calib"]["threshold"])


def test_a_refit_replaces_the_index_and_one_below_the_size_removes_it(gui: Gui, settings: Settings) -> None:
    calibrated(gui)
    first = metadata(settings)["index"]["sha256"]
    ok(gui.fit(good(5, start=40), memory_fit="true"))
    second = metadata(settings)["index"]["sha256"]
    assert second != first
    assert ok(gui.get("/manifest"))["index"] == "ivf"
    assert index_file(settings).name.count("next") == 0
    ok(gui.fit(good(1)))
    assert metadata(settings)["index"] is None
    assert not list(settings.data_root.rglob("*.faiss"))
    assert ok(gui.get("/manifest"))["index"] == "exact"


def test_another_process_sees_a_new_index_at_once(gui: Gui, make_client: MakeClient) -> None:
    other = Gui(make_client(index_min_rows=50))
    threshold = calibrated(gui)["threshold"]
    assert_in_force(other, threshold)
    body = ok(gui.fit(good(6, start=60), memory_fit="true"))
    verdict = ok(other.infer(bad(1)[0]))
    assert verdict["bank_generation"] == body["bank_generation"]
    assert verdict["threshold"] == ok(gui.get("/manifest"))["calib"]["threshold"]
    assert ok(other.get("/manifest"))["index"] == "ivf"
