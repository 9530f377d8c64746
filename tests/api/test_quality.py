"""Quality options over both feature backends: a bank keeps what it was fitted with."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from orchestrator.settings import Settings
from orchestrator.storage.banks import decode_bank, encode_bank
from tests.conftest import MakeClient
from tests.fakes import PatchMeanExtractor
from tests.gui import Gui, files_of, ok, refused
from tests.pictures import bad, good, part, png

pytestmark = pytest.mark.usefixtures("feature_backend")

PLAIN = {
    "augmentation": "none",
    "foreground": False,
    "foreground_share": None,
    "tile_px": None,
    "tile_overlap_px": None,
    "score_rule": "percentile",
    "version": 1,
}
SMALL = {"tile_px": "64", "tile_overlap_px": "16"}


@pytest.fixture
def gui(make_client: MakeClient) -> Gui:
    """Give a GUI whose target is not fitted."""
    return Gui(make_client())


def on_a_table(seed: int, *, defect: bool = False, empty: bool = False) -> bytes:
    """Draw a striped part in the middle of a dark table: PNG of 112 x 112."""
    noise = np.random.default_rng(seed)
    image = noise.normal(20, 2, (112, 112, 3))
    if not empty:
        image[28:84, 28:84] = part(seed, size=(56, 56)).astype(float) + 40
    if defect:
        image[40:56, 40:56] = (250, 30, 240)
    return png(np.clip(image, 0, 255).astype(np.uint8))


def stored_bank(settings: Settings) -> Path:
    (bank,) = settings.data_root.glob("recipes/*/*/*.npz")
    return bank


def test_a_fit_without_options_is_the_plain_one(gui: Gui) -> None:
    assert ok(gui.get("/manifest"))["options"] is None
    assert ok(gui.fit(good(4)))["options"] == PLAIN
    assert ok(gui.get("/manifest"))["options"] == PLAIN
    params = ok(gui.infer(good(1)[0]))["params"]
    assert (params["score_rule"], params["foreground_applied"]) == ("percentile", None)


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ({"augmentation": "flips"}, {"augmentation": "flips"}),
        ({"augmentation": "rotations_flips"}, {"augmentation": "rotations_flips"}),
        (SMALL, {"tile_px": 64, "tile_overlap_px": 16}),
        ({"score_rule": "mean_top1"}, {"score_rule": "mean_top1"}),
        ({"score_rule": "max"}, {"score_rule": "max"}),
        ({"score_rule": "reweighted"}, {"score_rule": "reweighted"}),
        (
            {"augmentation": "flips", "score_rule": "max", **SMALL},
            {"augmentation": "flips", "score_rule": "max", "tile_px": 64, "tile_overlap_px": 16},
        ),
    ],
)
def test_a_bank_of_every_option_is_fitted_calibrated_asked_and_refitted(
    gui: Gui, sent: dict[str, str], shown: dict[str, Any]
) -> None:
    fitted = ok(gui.fit(good(4), **sent))
    assert fitted["options"] == {**PLAIN, **shown}
    ok(gui.upload("ng", bad(2)))
    calibrated = ok(gui.json("/calibrate_dataset"))
    found = ok(gui.infer(bad(1, start=2000)[0]))
    assert found["decision"] == "ng"
    assert found["threshold"] == calibrated["threshold"]
    assert found["token_shape"] == fitted["token_shape"]
    heat = cv2.imdecode(np.frombuffer(base64.b64decode(found["heatmap_png_base64"]), np.uint8), -1)
    assert heat.shape == (96, 128)
    # The same photographs, the same options: the recalibration of a refit finds the same threshold.
    refit = ok(gui.fit(good(4), **sent))
    assert refit["recalibrated"]
    assert refit["threshold"] == pytest.approx(calibrated["threshold"], abs=1e-5)
    assert ok(gui.get("/manifest"))["options"] == fitted["options"]


def test_every_view_of_a_photograph_is_counted(gui: Gui, settings: Settings) -> None:
    # 96 x 128 in a square of 8 x 8 patches: 6 rows of content.
    for augmentation, copies in {"flips": 3, "rotations": 4, "rotations_flips": 8}.items():
        fitted = ok(gui.fit(good(2), augmentation=augmentation, memory_fit="true"))
        assert fitted["n_embeddings"] == copies * 2 * 48
        record = decode_bank(stored_bank(settings).read_bytes(), "k")
        rows, counts = np.unique(record.row_patch, return_counts=True)
        # Whatever the view, a row names a patch of the original's content.
        assert rows.tolist() == list(range(8, 56))
        assert set(counts.tolist()) == {copies * 2}


def test_a_bank_with_mirror_images_knows_a_mirrored_part(gui: Gui) -> None:
    lopsided = part(1)
    lopsided[10:40, 8:40] //= 3
    mirrored = png(np.ascontiguousarray(lopsided[:, ::-1]))
    plain, viewed = (
        ok(gui.fit([png(lopsided)], memory_fit="true", augmentation=augmentation))
        and ok(gui.infer(mirrored))["score"]
        for augmentation in ("none", "flips")
    )
    assert viewed < 0.05 < plain


def test_verdicts_follow_the_bank_whatever_the_settings_say_now(gui: Gui, make_client: MakeClient) -> None:
    ok(gui.fit(good(4), augmentation="flips", score_rule="max", **SMALL))
    first = ok(gui.json("/calibrate_dataset", require_ng=False))
    photograph = bad(1)[0]
    before = ok(gui.infer(photograph))
    other = Gui(make_client(augmentation="rotations", score_rule="mean_top1", tile_px=80, foreground=True))
    after = ok(other.infer(photograph))
    assert (after["score"], after["token_shape"]) == (before["score"], before["token_shape"])
    again = ok(other.json("/calibrate_dataset", require_ng=False))
    assert again["threshold"] == pytest.approx(first["threshold"], abs=1e-6)
    assert ok(other.get("/manifest"))["options"]["score_rule"] == "max"


def test_a_refit_takes_the_request_s_options_else_the_settings_never_the_old_bank_s(
    make_client: MakeClient,
) -> None:
    gui = Gui(make_client(augmentation="flips", tile_px=80, score_rule="max"))
    deployed = ok(gui.fit(good(3)))["options"]
    assert deployed == {
        **PLAIN, "augmentation": "flips", "tile_px": 80, "tile_overlap_px": 20, "score_rule": "max",
    }  # fmt: skip
    asked = ok(gui.fit(good(3), augmentation="none", tile_px="0", score_rule="mean_top1"))["options"]
    assert asked == {**PLAIN, "score_rule": "mean_top1"}
    assert ok(gui.fit(good(3)))["options"] == deployed


def test_a_small_defect_on_a_large_part_is_found_in_windows_and_lost_without(gui: Gui) -> None:
    size = (448, 448)
    parts = [png(part(seed, size=size)) for seed in range(4)]
    scratched, whole = part(9, size=size), png(part(10, size=size))
    scratched[304:308, 124:128] = (200, 90, 180)
    # A percentile of the map passes over what covers less than its rest: 16 px of 200,704.
    tiled = ok(gui.fit(parts, tile_px="112", tile_overlap_px="28", score_rule="max"))
    assert min(tiled["token_shape"]) >= 32
    assert ok(gui.get("/manifest"))["token_shape"] == tiled["token_shape"]
    ok(gui.json("/calibrate_dataset", require_ng=False))
    found = ok(gui.infer(png(scratched)))
    assert found["decision"] == "ng"
    # Nothing but the scratch, within two patches of its place.
    ((x, y, w, h),) = (region["bbox"] for region in found["regions"])
    assert 124 - 28 <= x <= 124 < 128 <= x + w <= 128 + 28
    assert 304 - 28 <= y <= 304 < 308 <= y + h <= 308 + 28
    good_one = ok(gui.infer(whole))
    assert (good_one["decision"], good_one["n_regions"]) == ("ok", 0)
    ok(gui.fit(parts, tile_px="0", score_rule="max"))
    shrunk = ok(gui.infer(png(scratched)))
    assert (shrunk["token_shape"], shrunk["decision"]) == ([8, 8], "ok")


def test_a_tiled_bank_judges_crops_of_other_sizes_on_their_own_grid(gui: Gui) -> None:
    ok(gui.fit(good(3), **SMALL))
    grid = ok(gui.infer(good(1)[0]))["token_shape"]
    larger = ok(gui.infer(good(1, size=(150, 200))[0]))
    assert larger["token_shape"][0] > grid[0]
    assert larger["token_shape"][1] > grid[1]
    assert ok(gui.infer(good(1, size=(60, 50))[0]))["token_shape"] == [8, 8]


def test_an_addition_may_name_an_option_that_the_bank_has(gui: Gui) -> None:
    ok(gui.fit(good(3), score_rule="max", **SMALL))
    for number, named in enumerate(({"score_rule": "max"}, {"tile_px": "64"}, {"foreground": "false"})):
        added = ok(gui.fit(good(1, start=50 + number), accumulate="true", **named))
        assert (added["ok_added"], added["options"]["tile_overlap_px"]) == (1, 16)
    answer = gui.fit(good(1, start=60), accumulate="true", score_rule="max", tile_px="80")
    assert "score_rule" not in refused(answer, 409, "tile_px", "without accumulate")["detail"]


def test_a_batch_of_photographs_in_windows_is_held_two_at_a_time(make_client: MakeClient) -> None:
    extractor = PatchMeanExtractor()
    gui = Gui(make_client(extractor=extractor))
    plain = Gui(gui.client, roi="plain")
    ok(gui.fit(good(3), score_rule="max", **SMALL))
    ok(plain.fit(good(3), score_rule="max"))
    images = [*good(4, start=20), *bad(3), b"no image"]
    alone = [ok(g.infer(i))["score"] for i in images[:-1] for g in (gui, plain)]
    extractor.calls.clear()
    rois = ["inspection-1", "plain"] * len(images)
    targets = json.dumps([{"role_id": "Inspection", "roi_id": roi} for roi in rois])
    sent = files_of([i for i in images for _ in range(2)])
    body = ok(gui.client.request("POST", "/predict/batch", files=sent, data={"targets": targets}))
    # Two batches of 8, half of them in 6 windows each; the plain ones together.
    assert sorted(extractor.calls) == [3, 4, 6, 12, 12, 12]
    assert [item["score"] for item in body["results"][:-2]] == alone


def test_a_stored_crop_of_another_size_hinders_no_calibration_of_a_tiled_bank(gui: Gui) -> None:
    ok(gui.fit(good(4), **SMALL))
    ok(gui.upload("ok", [*good(1, start=9, size=(150, 200)), *good(1, start=10, size=(60, 50))]))
    assert ok(gui.json("/calibrate_dataset", require_ng=False))["samples_ok"] == 6
    assert ok(gui.fit(good(4), **SMALL))["recalibrated"] is True


def test_crops_of_several_sizes_make_no_tiled_bank(gui: Gui) -> None:
    odd = [*good(2), good(1, start=5, size=(96, 120))[0]]
    refused(gui.fit(odd, **SMALL), 400, "2.png: is 120 x 96 px", "0.png is 128 x 96", "tile_px=0")
    assert not ok(gui.get("/state"))["memory_fitted"]
    ok(gui.fit(odd))


def test_a_bank_of_foregrounds_is_fitted_calibrated_asked_and_refitted(gui: Gui) -> None:
    parts = [on_a_table(seed) for seed in range(5)]
    whole = ok(gui.fit(parts, memory_fit="true"))["n_embeddings"]
    fitted = ok(gui.fit(parts, memory_fit="true", foreground="true"))
    assert fitted["n_embeddings"] < whole
    assert fitted["options"]["foreground"] is True
    assert 0.05 < fitted["options"]["foreground_share"] < 0.5
    ok(gui.upload("ng", [on_a_table(70, defect=True)]))
    calibrated = ok(gui.json("/calibrate_dataset"))
    found = ok(gui.infer(on_a_table(50, defect=True)))
    assert (found["decision"], found["params"]["foreground_applied"]) == ("ng", True)
    refit = ok(gui.fit(parts, memory_fit="true", foreground="true"))
    assert refit["threshold"] == pytest.approx(calibrated["threshold"], abs=1e-5)


def test_the_background_counts_for_nothing(make_client: MakeClient) -> None:
    gui = Gui(make_client(extractor=PatchMeanExtractor()))
    fitted = ok(gui.fit([on_a_table(seed) for seed in range(5)], memory_fit="true", foreground="true"))
    # The part covers 4 x 4 of 8 x 8 patches, and a rim of one patch stays around it.
    assert fitted["options"]["foreground_share"] == 16 / 64
    assert fitted["n_embeddings"] == 5 * 36
    ok(gui.json("/calibrate_dataset", require_ng=False))
    littered = cv2.imdecode(np.frombuffer(on_a_table(50), np.uint8), cv2.IMREAD_COLOR)[..., ::-1].copy()
    littered[:12, :12] = (60, 10, 10)
    clean, soiled, broken = (
        ok(gui.infer(image)) for image in (on_a_table(50), png(littered), on_a_table(50, defect=True))
    )
    assert soiled["score"] == clean["score"]
    assert broken["decision"] == "ng"
    heat = cv2.imdecode(np.frombuffer(base64.b64decode(soiled["heatmap_png_base64"]), np.uint8), -1)
    # Black outside what counts: the part and its rim.
    outside = np.ones((112, 112), np.bool_)
    outside[14:98, 14:98] = False
    assert heat[outside].max() == 0
    assert heat[~outside].max() == 255


def test_a_photograph_without_the_part_is_judged_whole_and_is_no_silent_ok(gui: Gui) -> None:
    ok(gui.fit([on_a_table(seed) for seed in range(5)], foreground="true"))
    ok(gui.json("/calibrate_dataset", require_ng=False))
    found = ok(gui.infer(on_a_table(60, empty=True)))
    assert found["params"]["foreground_applied"] is False
    assert found["decision"] == "ng"
    ok(gui.upload("ng", [on_a_table(61, empty=True)]))
    (stored,) = (i for i in ok(gui.json("/infer_dataset", labels=["ng"]))["items"])
    assert (stored["foreground_applied"], stored["decision"]) == (False, "ng")


def test_photographs_without_a_background_are_refused_as_such(make_client: MakeClient) -> None:
    gui = Gui(make_client(extractor=PatchMeanExtractor()))
    # The same patch all over; and a slope from dark to bright, with no step in it.
    flat = np.full((112, 112, 3), 90, np.uint8)
    slope = (
        np.linspace(40, 90, 112)[:, None, None] * np.ones((1, 112, 3))
        + np.arange(3) * np.linspace(0, 90, 112)[:, None, None]
    )
    for image in (flat, slope.astype(np.uint8)):
        refused(gui.fit([png(image)], foreground="true"), 400, "foreground", "foreground=false", "shape")
    assert not ok(gui.get("/state"))["memory_fitted"]


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        ({"augmentation": "shear"}, 422, ("augmentation", "'rotations_flips'", "shear")),
        ({"score_rule": "median"}, 422, ("score_rule", "'mean_top1'", "median")),
        ({"foreground": "perhaps"}, 422, ("foreground",)),
        ({"tile_px": "wide"}, 422, ("tile_px",)),
        ({"tile_px": "-3"}, 422, ("tile_px",)),
        ({"tile_px": "10"}, 400, ("tile_px", "64")),
        ({"tile_px": "64", "tile_overlap_px": "64"}, 400, ("tile_overlap_px", "63")),
        ({"tile_overlap_px": "8"}, 400, ("tile_overlap_px", "tile_px")),
        ({"tile_px": "64", "tile_overlap_px": "63"}, 400, ("tile_px", "windows", "256")),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(
    gui: Gui, sent: dict[str, str], status: int, words: tuple[str, ...]
) -> None:
    refused(gui.fit(good(2), **sent), status, *words)
    assert not ok(gui.get("/state"))["memory_fitted"]


def test_a_bank_made_by_other_rules_is_refused_until_it_is_fitted_anew(gui: Gui, settings: Settings) -> None:
    ok(gui.fit(good(4)))
    ok(gui.json("/calibrate_dataset", require_ng=False))
    bank = stored_bank(settings)
    record = decode_bank(bank.read_bytes(), "k")
    later = dataclasses.replace(record.metadata.options, version=2)
    metadata = dataclasses.replace(record.metadata, options=later)
    bank.write_bytes(encode_bank(dataclasses.replace(record, metadata=metadata)))
    asked: list[Callable[[], Any]] = [
        lambda: gui.infer(good(1)[0]),
        lambda: gui.json("/calibrate_dataset", require_ng=False),
        lambda: gui.json("/infer_dataset"),
        lambda: gui.get("/manifest"),
        lambda: gui.get("/state"),
    ]
    for ask in asked:
        body = refused(ask(), 409, "version=2", "/fit_ok")
        assert body["error_code"] == "bank_options_unknown"
    assert ok(gui.fit(good(4)))["bank_generation"] == 2
    assert ok(gui.infer(good(1)[0]))["bank_generation"] == 2
