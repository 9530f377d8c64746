"""Banks of other servers over the API: shown, asked only where their backbone is named, superseded by a fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from orchestrator.settings import Settings
from tests.conftest import MakeClient
from tests.gui import Gui, ok, refused
from tests.pictures import bad, good

PLACES = [
    "recipes/default/inspection-1/SW5zcGVjdGlvbg__aW5zcGVjdGlvbi0x.npz",
    "Inspection_inspection-1.npz",
    "models/Inspection/inspection-1/memory.npz",
]


def leave_bank(root: Path, place: str, make_client: MakeClient) -> None:
    """Write a bank as the published server did, of real features."""
    ok(Gui(make_client(), **{"X-Recipe-Id": "source"}).fit(good(4), memory_fit="true"))
    (ours,) = (root / "recipes" / "source").rglob("*.npz")
    with np.load(ours) as bank:
        rows = bank["emb"].astype(np.float32)
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    np.savez(root / place, emb=rows, token_h=8, token_w=8, metadata=np.array(json.dumps({"n": 4})))


@pytest.mark.parametrize("place", PLACES)
def test_a_legacy_bank_is_shown_and_asked_only_where_its_backbone_is_named(
    place: str, make_client: MakeClient, settings: Settings
) -> None:
    leave_bank(settings.data_root, place, make_client)
    before = (settings.data_root / place).read_bytes()
    gui = Gui(make_client())
    manifest, state = ok(gui.get("/manifest")), ok(gui.get("/state"))
    assert (manifest["memory"], manifest["source"], state["source"]) == (True, "legacy", "legacy")
    answer = gui.infer(good(1)[0])
    assert refused(answer, 409, "/fit_ok", "import-legacy")["error_code"] == "backbone_mismatch"
    refused(Gui(make_client(legacy_backbone="dinov2_vits14")).infer(good(1)[0]), 409, "dinov2_vits14")

    named = Gui(make_client(legacy_backbone="tiny"))
    assert ok(named.infer(good(1)[0]))["score"] < 0.05 < ok(named.infer(bad(1)[0]))["score"]
    calibrated = ok(named.json("/calibrate_ng", ok_scores=[0.05], area_mm2_thr=0))
    verdict = ok(named.infer(bad(1)[0]))
    assert (verdict["threshold"], verdict["decision"]) == (calibrated["threshold"], "ng")
    assert ok(named.get("/manifest"))["calib"]["samples_ok"] == 1
    assert (settings.data_root / place).read_bytes() == before

    assert ok(named.fit(good(3)))["bank_generation"] == 1
    after = ok(named.get("/manifest"))
    assert after["source"] == "patchlight"


def test_a_fit_replaces_a_legacy_bank_whatever_it_says_of_a_calibration(
    make_client: MakeClient, settings: Settings
) -> None:
    place = settings.data_root / PLACES[0]
    place.parent.mkdir(parents=True)
    metadata = np.array(json.dumps({"calibration": "p99"}))
    np.savez(place, emb=np.ones((2, 8), np.float32), token_h=8, token_w=8, metadata=metadata)
    body = ok(Gui(make_client()).fit(good(3)))
    assert (body["bank_generation"], body["recalibrated"]) == (1, False)


def test_a_bank_of_another_backbone_is_409_with_the_remedy(
    make_client: MakeClient, settings: Settings
) -> None:
    gui = Gui(make_client())
    ok(gui.fit(good(3)))
    (stored,) = (settings.data_root / "recipes").rglob("*.npz")
    with np.load(stored) as bank:
        parts = dict(bank)
    metadata = json.loads(str(parts["metadata"])) | {"backbone": "dinov2_vits14", "fingerprint": "0" * 64}
    np.savez(stored, **{**parts, "metadata": np.array(json.dumps(metadata))})
    answers = (
        gui.infer(good(1)[0]),
        gui.json("/infer_dataset"),
        gui.json("/calibrate_dataset", require_ng=False),
    )
    for answer in answers:
        body = refused(answer, 409, "dinov2_vits14", "tiny", "/fit_ok", "BDI_BACKBONE")
        assert body["error_code"] == "backbone_mismatch"
