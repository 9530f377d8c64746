"""Adding to a bank and taking a photograph out of it: whole or not at all, whatever else happens."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.domain.bank import BankRecord
from orchestrator.domain.memory_options import MemoryOptions
from orchestrator.features.onnx import OnnxExtractor
from orchestrator.features.repository import ModelRepository
from orchestrator.patchcore.memory_bank import l2_normalise
from orchestrator.settings import Settings
from orchestrator.storage.banks import decode_bank, encode_bank
from orchestrator.storage.files import FileStore
from tests.conftest import MakeClient
from tests.fakes import HeldExtractor
from tests.gui import Gui, files_of, ok, refused
from tests.pictures import bad, good, part, png

PATCHES = 48
"""Of a test photograph: 6 of 8 rows are content."""
DELETE = "/datasets/file"


@pytest.fixture
def extractor(tiny_repository: Path) -> HeldExtractor:
    """Give an extractor that counts."""
    return HeldExtractor(OnnxExtractor(ModelRepository(tiny_repository), threads=1), held=False)


@pytest.fixture
def gui(make_client: MakeClient, extractor: HeldExtractor) -> Gui:
    """Give a GUI whose target is not fitted."""
    return Gui(make_client(extractor=extractor))


def bank_of(settings: Settings, key: str = "inspection-1") -> BankRecord:
    (path,) = settings.data_root.glob(f"recipes/*/{key}/*.npz")
    return decode_bank(path.read_bytes(), str(path))


def names(gui: Gui) -> list[str]:
    classes: dict[str, Any] = ok(gui.get("/datasets/list"))["classes"]
    return list(classes.get("ok", {}).get("files", []))


def everything(settings: Settings) -> dict[str, bytes]:
    """Give every stored file that a request may not change unless it succeeds."""
    root = settings.data_root
    files = {str(p.relative_to(root)): p for p in root.rglob("*") if p.is_file()}
    kept = {
        k: p for k, p in files.items() if not k.startswith((".locks", "status", "cache/", "patchlight.db"))
    }
    return {k: p.read_bytes() for k, p in kept.items()}


def cached(settings: Settings) -> list[Path]:
    return sorted((settings.data_root / "cache/tokens").rglob("*.npz"))


def test_accumulation_adds_to_the_bank_that_is_there(gui: Gui, settings: Settings) -> None:
    ok(gui.fit(good(6), operator_id="ana"))
    before = bank_of(settings)
    body = ok(gui.fit(good(3, start=50), accumulate="true", notes="late shift"))
    assert (body["bank_generation"], body["ok_added"], body["n_embeddings"]) == (2, 3, 9 * PATCHES)
    assert body["coreset_size"] == math.ceil(0.1 * 9 * PATCHES)
    after = bank_of(settings)
    assert np.array_equal(after.embeddings[: len(before.embeddings)], before.embeddings)
    assert after.metadata.sample_sha256[:6] == before.metadata.sample_sha256
    assert len(set(after.metadata.sample_sha256)) == 9
    assert set(after.row_sample[len(before.row_sample) :]) <= {6, 7, 8}
    assert (after.metadata.operator_id, after.metadata.notes) == ("ana", "late shift")
    assert after.metadata.extra["accumulated"] == 3
    assert ok(gui.infer(good(1)[0]))["bank_generation"] == 2


def test_accumulation_without_a_bank_is_a_fit(gui: Gui, settings: Settings) -> None:
    refused(gui.fit(accumulate="true"), 400, "images")
    refused(gui.fit(good(2), accumulate="true", use_dataset="true"), 400, "at least 4")
    assert everything(settings).keys() <= {"backbone.json"}
    assert ok(gui.fit(good(4), accumulate="true"))["bank_generation"] == 1
    assert ok(gui.fit(good(4, start=9), accumulate="true"))["n_embeddings"] == 8 * PATCHES


def test_what_the_bank_holds_is_not_added_again(gui: Gui, settings: Settings) -> None:
    ok(gui.fit(good(5)))
    ok(gui.json("/calibrate_dataset", require_ng=False))
    before = everything(settings)
    again = ok(gui.fit(good(4), accumulate="true"))
    assert (again["bank_generation"], again["ok_added"], again["recalibrated"]) == (1, 0, False)
    assert again["threshold"] == ok(gui.get("/manifest"))["calib"]["threshold"]
    assert everything(settings) == before
    mixed = ok(gui.fit([*good(5), *good(1, start=70), *good(1, start=70)], accumulate="true"))
    assert (mixed["n_embeddings"], mixed["bank_generation"]) == (6 * PATCHES, 2)


def test_accumulation_from_the_dataset_adds_what_is_stored_and_not_held(gui: Gui) -> None:
    ok(gui.fit(good(4)))
    ok(gui.upload("ok", good(3, start=30)))
    body = ok(gui.fit(good(1, start=90), accumulate="true", use_dataset="true"))
    assert (body["n_embeddings"], body["ok_added"]) == (8 * PATCHES, 1)
    assert ok(gui.fit(accumulate="true", use_dataset="true"))["bank_generation"] == 2


def test_a_bank_of_everything_takes_everything(gui: Gui) -> None:
    ok(gui.fit(good(3), memory_fit="true"))
    for field in ("true", "false"):
        body = ok(gui.fit(good(1, start=40 + len(field)), accumulate="true", memory_fit=field))
        assert body["coreset_size"] == body["n_embeddings"]
    refused(gui.fit(good(1, start=3), accumulate="true", memory_fit="no way"), 422, "memory_fit")


def test_what_contradicts_the_bank_is_refused_and_changes_nothing(gui: Gui, settings: Settings) -> None:
    circle = '{"kind": "circle", "cx": 64, "cy": 48, "r": 40}'
    ok(gui.fit(good(4), shape=circle))
    before = everything(settings)
    new = good(2, start=60)
    refused(gui.fit(new, accumulate="true", memory_fit="true"), 409, "memory_fit")
    refused(gui.fit(new, accumulate="true", shape='{"kind": "circle", "r": 30}'), 409, "shape")
    refused(gui.fit([*new, new[0][:400]], accumulate="true"), 400, "2.png")
    refused(gui.post("/fit_ok", files_of(new), mm_per_px="0.5", accumulate="true"), 409, "0.2", "0.5")
    refused(gui.fit(new, accumulate="perhaps"), 422, "accumulate")
    assert everything(settings) == before
    ok(gui.fit(new[:1], accumulate="true", shape='{"r": 40, "kind": "circle", "cx": 64, "cy": 48}'))
    added = ok(gui.fit(new[1:], accumulate="true"))
    name = Path(added["samples"][0]["file"]).name
    # The bank's own ROI holds for what is added without one, and stays with it.
    assert ok(gui.get("/datasets/meta", label="ok", filename=name))["shape_json"] == circle
    assert added["n_embeddings"] < 6 * PATCHES


def test_a_damaged_or_foreign_bank_is_not_continued(gui: Gui, settings: Settings) -> None:
    ok(gui.fit(good(4)))
    (name, *_) = names(gui)
    (path,) = settings.data_root.glob("recipes/*/*/*.npz")
    whole = path.read_bytes()
    path.write_bytes(b"no bank")
    refused(gui.fit(good(1, start=9), accumulate="true"), 409, "accumulate", "damaged")
    refused(gui.delete(DELETE, label="ok", filename=name, refit="true"), 409, "refit", "damaged")
    rows = l2_normalise(np.random.default_rng(0).normal(size=(9, 8)).astype(np.float32))
    np.savez(path, emb=rows, token_h=8, token_w=8)
    refused(gui.fit(good(1, start=9), accumulate="true"), 409, "accumulate", "another server")
    path.write_bytes(whole)
    assert len(names(gui)) == 4


def test_a_photograph_that_owns_no_row_of_the_bank_is_taken_out(
    make_client: MakeClient, settings: Settings
) -> None:
    gui = Gui(make_client(coreset_rate=0.001))
    ok(gui.fit(good(4)))
    before = bank_of(settings)
    owners = {before.metadata.sample_sha256[place] for place in before.row_sample}
    stored = [p for n in names(gui) for p in settings.data_root.rglob(n)]
    idle = next(p.name for p in stored if hashlib.sha256(p.read_bytes()).hexdigest() not in owners)
    body = ok(gui.delete(DELETE, label="ok", filename=idle, refit="true"))
    assert (body["refitted"], body["n_embeddings"]) == (True, 3 * PATCHES)
    assert np.array_equal(bank_of(settings).embeddings, before.embeddings)


def test_a_bank_of_another_backbone_or_a_lost_version_of_it_is_not_continued(
    gui: Gui, settings: Settings
) -> None:
    ok(gui.fit(good(4)))
    record, (path,) = bank_of(settings), settings.data_root.glob("recipes/*/*/*.npz")
    for change, words in (
        ({"backbone": "other"}, ["'other'", "'tiny'"]),
        ({"fingerprint": "e" * 64}, ["no longer"]),
        ({"options": MemoryOptions(augmentation="flips")}, ["augmentation"]),
    ):
        changed = replace(record.metadata, **change)  # type: ignore[arg-type]
        path.write_bytes(encode_bank(replace(record, metadata=changed)))
        refused(gui.fit(good(1, start=9), accumulate="true"), 409, "without accumulate", *words)
        answer = gui.delete(DELETE, label="ok", filename=names(gui)[0], refit="true")
        refused(answer, 409, "without refit", *words)
    assert len(names(gui)) == 4


def test_a_continued_bank_keeps_its_windows_and_its_score_rule(gui: Gui, settings: Settings) -> None:
    fitted = ok(gui.fit(good(5), score_rule="max", tile_px=80))
    ok(gui.json("/calibrate_dataset", require_ng=False))
    grown = ok(gui.fit(good(2, start=30), accumulate="true"))
    assert grown["options"] == fitted["options"]
    assert grown["token_shape"] == fitted["token_shape"] != [8, 8]
    assert grown["recalibrated"]
    assert grown["n_embeddings"] == fitted["n_embeddings"] * 7 // 5
    removed = ok(gui.delete(DELETE, label="ok", filename=names(gui)[0], refit="true"))
    assert (removed["n_embeddings"], removed["recalibrated"]) == (fitted["n_embeddings"] * 6 // 5, True)
    assert bank_of(settings).metadata.options.score_rule == "max"
    explained = ok(gui.infer(bad(1)[0], explain="true"))["explanation"]
    assert explained["nearest"]["sample"] in names(gui)
    refused(gui.fit(good(1, start=60), accumulate="true", score_rule="mean_top1"), 409, "score_rule")
    refused(gui.fit(good(1, start=60, size=(128, 160)), accumulate="true"), 400, "one size")
    assert ok(gui.get("/state"))["bank_generation"] == 3


def test_an_accumulation_recalibrates_by_the_rules_in_force(gui: Gui) -> None:
    ok(gui.fit(good(5)))
    ok(gui.upload("ng", bad(2)))
    ok(gui.json("/calibrate_dataset", score_percentile=97))
    body = ok(gui.fit(good(3, start=30), accumulate="true"))
    calibration = ok(gui.get("/manifest"))["calib"]
    assert (body["recalibrated"], body["threshold"]) == (True, calibration["threshold"])
    assert (calibration["samples_ok"], calibration["samples_ng"]) == (8, 2)
    assert (calibration["score_percentile"], calibration["bank_generation"]) == (97, 2)


def test_stored_photographs_are_embedded_once(gui: Gui, extractor: HeldExtractor, settings: Settings) -> None:
    ok(gui.fit(good(5)))
    ok(gui.upload("ng", bad(2)))
    assert extractor.images == 5
    first = ok(gui.json("/calibrate_dataset"))
    assert extractor.images == 7
    assert ok(gui.fit(use_dataset="true"))["recalibrated"] is True
    again = ok(gui.json("/calibrate_dataset"))
    ok(gui.delete(DELETE, label="ok", filename=names(gui)[0], refit="true"))
    assert extractor.images == 7
    assert again["threshold"] == first["threshold"]
    ok(gui.fit(good(1, start=77), accumulate="true"))
    assert extractor.images == 8
    assert len(cached(settings)) == 7


@pytest.mark.parametrize("damage", [None, b"", b"PK\x03\x04 no archive"])
def test_missing_or_damaged_tokens_are_computed_again(
    gui: Gui, extractor: HeldExtractor, settings: Settings, damage: bytes | None
) -> None:
    ok(gui.fit(good(6)))
    for file in cached(settings):
        file.unlink() if damage is None else file.write_bytes(damage)
    body = ok(gui.delete(DELETE, label="ok", filename=names(gui)[2], refit="true"))
    assert (body["refitted"], body["samples_without_tokens"], extractor.images) == (True, 0, 6 + 5)
    assert body["n_embeddings"] == 5 * PATCHES
    assert len(cached(settings)) == 5


def test_without_a_cache_everything_works_and_nothing_is_kept(
    make_client: MakeClient, settings: Settings
) -> None:
    gui = Gui(make_client(token_cache_bytes=0))
    ok(gui.fit(good(5)))
    ok(gui.fit(good(2, start=40), accumulate="true"))
    assert ok(gui.delete(DELETE, label="ok", filename=names(gui)[0], refit="true"))["refitted"] is True
    assert cached(settings) == []


def test_a_removal_leaves_no_patch_of_the_photograph_behind(gui: Gui, settings: Settings) -> None:
    images = [*good(5), png(np.asarray(part(7, bad=True)))]
    ok(gui.fit(images, memory_fit="true"))
    whole = bank_of(settings)
    own = whole.embeddings[whole.row_sample == 5]
    name = names(gui)[-1]
    digest = whole.metadata.sample_sha256[5]
    body = ok(gui.delete(DELETE, label="ok", filename=name, refit="true"))
    assert (body["deleted"], body["refitted"], body["bank_generation"]) == (True, True, 2)
    assert (body["n_embeddings"], body["coreset_size"]) == (5 * PATCHES, 5 * PATCHES)
    left = bank_of(settings)
    assert digest not in left.metadata.sample_sha256
    assert set(left.row_sample) == set(range(5))
    others = whole.embeddings[whole.row_sample != 5]
    for row in own:
        if not (others == row).all(axis=1).any():
            assert not (left.embeddings == row).all(axis=1).any()
    assert name not in names(gui)
    assert not [f for f in cached(settings) if f.name.startswith(digest)]


def test_a_removal_re_covers_to_the_rate_and_recalibrates(gui: Gui, settings: Settings) -> None:
    ok(gui.fit(good(8)))
    ok(gui.upload("ng", bad(2)))
    ok(gui.json("/calibrate_dataset", operator_id="eva"))
    body = ok(gui.delete(DELETE, label="ok", filename=names(gui)[3], refit="true"))
    assert body["coreset_size"] == math.ceil(0.1 * 7 * PATCHES) == len(bank_of(settings).embeddings)
    calibration = ok(gui.get("/manifest"))["calib"]
    assert (body["recalibrated"], body["threshold"]) == (True, calibration["threshold"])
    assert (calibration["samples_ok"], calibration["samples_ng"]) == (7, 2)
    assert calibration["bank_generation"] == body["bank_generation"] == 2
    assert ok(gui.infer(good(1)[0]))["bank_generation"] == 2


def test_what_no_bank_holds_is_only_deleted(gui: Gui) -> None:
    ok(gui.upload("ok", good(2, start=80)))
    first, second = names(gui)
    for bank in (False, True):
        if bank:
            ok(gui.fit(good(3)))
        body = ok(gui.delete(DELETE, label="ok", filename=(first, second)[bank], refit="true"))
        assert (body["deleted"], body["refitted"], body["bank_generation"]) == (True, False, None)
    assert ok(gui.delete(DELETE, label="ok", filename=first, refit="true"))["deleted"] is False
    plain = ok(gui.delete(DELETE, label="ok", filename=names(gui)[0]))
    assert (plain["deleted"], plain["refitted"], plain["recalibrated"]) == (True, False, False)
    assert ok(gui.infer(good(1)[0]))["bank_generation"] == 1


def test_the_last_photograph_and_ng_ones_cannot_be_taken_out(gui: Gui, settings: Settings) -> None:
    ok(gui.fit(good(1)))
    ok(gui.upload("ng", bad(1)))
    before = everything(settings)
    refused(gui.delete(DELETE, label="ok", filename=names(gui)[0], refit="true"), 400, "refit", "only")
    refused(gui.delete(DELETE, label="ng", filename="x.png", refit="true"), 400, "refit", "label=ok")
    refused(gui.delete(DELETE, label="ok", filename="x.png", refit="maybe"), 422, "refit")
    assert everything(settings) == before


def test_each_model_key_has_a_removal_of_its_own(gui: Gui, settings: Settings) -> None:
    ok(gui.fit(good(4)))
    ok(gui.fit(good(5), model_key="k2"))
    name = names(gui)[1]
    digest = bank_of(settings).metadata.sample_sha256[1]
    body = ok(gui.delete(DELETE, label="ok", filename=name, refit="true", model_key="k2"))
    assert (body["model_key"], body["bank_generation"], body["deleted"]) == ("k2", 2, True)
    assert digest in bank_of(settings).metadata.sample_sha256
    # The photograph is gone; its name still says which one it was.
    late = ok(gui.delete(DELETE, label="ok", filename=name, refit="true"))
    assert (late["deleted"], late["refitted"], late["n_embeddings"]) == (False, True, 3 * PATCHES)
    assert digest not in bank_of(settings).metadata.sample_sha256
    assert ok(gui.delete(DELETE, label="ok", filename=name, refit="true"))["refitted"] is False


def test_rows_of_photographs_deleted_before_stay_and_are_counted(gui: Gui, settings: Settings) -> None:
    ok(gui.fit(good(6)))
    listed = names(gui)
    digest = bank_of(settings).metadata.sample_sha256[0]
    ok(gui.delete(DELETE, label="ok", filename=listed[0]))
    assert ok(gui.delete(DELETE, label="ok", filename=listed[1], refit="true"))["samples_without_tokens"] == 0
    for file in cached(settings):
        file.unlink()
    rows = bank_of(settings).embeddings[bank_of(settings).row_sample == 0]
    body = ok(gui.delete(DELETE, label="ok", filename=listed[2], refit="true"))
    assert body["samples_without_tokens"] == 1
    after = bank_of(settings)
    assert after.metadata.sample_sha256[0] == digest
    assert np.array_equal(after.embeddings[after.row_sample == 0], rows)
    assert body["n_embeddings"] == 3 * PATCHES + len(rows)


@pytest.mark.parametrize("known", [True, False])
def test_a_removal_takes_in_no_patch_outside_a_deleted_photograph_s_own_roi(
    gui: Gui, settings: Settings, known: bool
) -> None:
    images = good(5)
    roi = '{"kind": "circle", "cx": 64, "cy": 48, "r": 20}'
    ok(gui.upload("ok", images, [*({} for _ in images[1:]), {"shape_json": roi}]))
    ok(gui.fit(use_dataset="true", memory_fit="true"))
    before = bank_of(settings)
    digest = hashlib.sha256(images[4]).hexdigest()
    own = set(before.row_patch[before.row_sample == before.metadata.sample_sha256.index(digest)])
    # The same bytes as another part's photograph, which has no ROI: the cache knows them whole, too.
    ok(Gui(gui.client, role="Other", roi="other").fit(images[4:]))
    if not known:
        # As a bank of an earlier release, which does not say which ROI a photograph had.
        extra = {k: v for k, v in before.metadata.extra.items() if k != "own_shapes"}
        (path,) = settings.data_root.glob("recipes/*/inspection-1/*.npz")
        path.write_bytes(encode_bank(replace(before, metadata=replace(before.metadata, extra=extra))))
    other, *_ = (name for name in names(gui) if digest[:8] not in name)
    (name,) = (name for name in names(gui) if digest[:8] in name)
    ok(gui.delete(DELETE, label="ok", filename=name))
    body = ok(gui.delete(DELETE, label="ok", filename=other, refit="true"))
    after = bank_of(settings)
    assert set(after.row_patch[after.row_sample == after.metadata.sample_sha256.index(digest)]) == own
    assert 0 < len(own) < PATCHES
    assert body["samples_without_tokens"] == (0 if known else 1)
    assert after.metadata.extra.get("own_shapes") == ({digest: roi} if known else None)


def test_a_removal_that_cannot_be_committed_changes_nothing(
    gui: Gui, settings: Settings, extractor: HeldExtractor, make_client: MakeClient
) -> None:
    ok(gui.fit(good(5)))
    before, name = everything(settings), names(gui)[0]
    for file in cached(settings):
        file.unlink()
    held = HeldExtractor(extractor)
    slow = Gui(make_client(extractor=held, fit_timeout_s=0.2))
    refused(slow.delete(DELETE, label="ok", filename=name, refit="true"), 504)
    refused(slow.fit(good(1, start=70), accumulate="true"), 504)
    assert everything(settings) == before


def test_what_cannot_be_deleted_after_the_commit_fails_no_removal(gui: Gui, settings: Settings) -> None:
    ok(gui.fit(good(4)))
    name = names(gui)[0]
    (photograph,) = settings.data_root.rglob(name)
    sidecar = photograph.with_suffix(".json")
    sidecar.unlink()
    sidecar.mkdir()
    body = ok(gui.delete(DELETE, label="ok", filename=name, refit="true"))
    assert (body["deleted"], body["refitted"], body["bank_generation"]) == (True, True, 2)
    assert len(names(gui)) == 3


def test_a_dataset_that_cannot_be_listed_after_the_commit_fails_no_removal(
    gui: Gui, settings: Settings
) -> None:
    ok(gui.fit(good(4)))
    name = names(gui)[0]
    (photograph,) = settings.data_root.rglob(name)
    folder, kept = photograph.parent, photograph.parent.with_name("kept")
    (path,) = settings.data_root.glob("recipes/*/*/*.npz")
    log = path.with_name(path.name.replace(".npz", "_fit.log"))
    log.unlink()
    os.mkfifo(log)
    answers: list[dict[str, Any]] = []
    removal = threading.Thread(
        target=lambda: answers.append(ok(gui.delete(DELETE, label="ok", filename=name, refit="true")))
    )
    removal.start()
    # The commit's line, which waits for its reader, is written after the bank and before the photograph goes.
    while removal.is_alive() and bank_of(settings).metadata.generation == 1:
        time.sleep(0.005)
    folder.rename(kept)
    folder.symlink_to(folder)
    log.read_bytes()
    removal.join()
    assert [(a["deleted"], a["refitted"], a["bank_generation"]) for a in answers] == [(False, True, 2)]
    folder.unlink()
    kept.rename(folder)
    again = ok(gui.delete(DELETE, label="ok", filename=name, refit="true"))
    assert (again["deleted"], again["refitted"]) == (True, False)


def test_a_dataset_that_cannot_be_locked_keeps_its_photograph_and_its_bank(
    gui: Gui, settings: Settings
) -> None:
    ok(gui.fit(good(4)))
    before, name = everything(settings), names(gui)[0]
    (photograph,) = settings.data_root.rglob(name)
    lock = settings.data_root / ".locks" / photograph.parent.relative_to(settings.data_root)
    lock = lock.with_name(lock.name + ".lock")
    lock.unlink()
    lock.mkdir()
    refused(gui.delete(DELETE, label="ok", filename=name, refit="true"), 503)
    assert everything(settings) == before


def wait_for(extractor: HeldExtractor) -> None:
    deadline = time.monotonic() + 20
    while extractor.waiting == 0:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_fits_that_are_overtaken_are_computed_again_on_top(
    gui: Gui, extractor: HeldExtractor, make_client: MakeClient, settings: Settings
) -> None:
    """An accumulation and a dataset fit wait for features, while another worker adds and removes."""
    ok(gui.fit(good(5)))
    ok(gui.upload("ok", good(1, start=300)))
    other_extractor = HeldExtractor(extractor)
    other = Gui(make_client(extractor=other_extractor, fit_timeout_s=60))
    late = Gui(make_client(extractor=(late_extractor := HeldExtractor(extractor)), fit_timeout_s=60))
    for waiting in (other, late):
        # An application builds its routes at its first request, and not beside another one's.
        refused(waiting.fit(), 400)
    answers: dict[str, dict[str, Any]] = {}

    def send(name: str, gui: Gui, images: list[bytes], **fields: str) -> threading.Thread:
        thread = threading.Thread(target=lambda: answers.update({name: ok(gui.fit(images, **fields))}))
        thread.start()
        return thread

    removed = names(gui)[0]
    digest = bank_of(settings).metadata.sample_sha256[0]
    adding = send("added", other, good(2, start=100), accumulate="true")
    fitting = send("fitted", late, [], use_dataset="true")
    wait_for(other_extractor)
    wait_for(late_extractor)
    ok(gui.fit(good(1, start=200), accumulate="true"))
    ok(gui.delete(DELETE, label="ok", filename=removed, refit="true"))
    other_extractor.release.set()
    adding.join()
    assert answers["added"]["bank_generation"] == 4
    assert answers["added"]["n_embeddings"] == (5 + 1 - 1 + 2) * PATCHES
    assert digest not in bank_of(settings).metadata.sample_sha256
    late_extractor.release.set()
    fitting.join()
    assert digest not in bank_of(settings).metadata.sample_sha256
    assert answers["fitted"]["n_embeddings"] == (4 + 1 + 1 + 2) * PATCHES


def test_a_photograph_that_enters_the_bank_while_it_is_removed_is_taken_out_of_it(
    gui: Gui, settings: Settings
) -> None:
    ok(gui.fit(good(5)))
    (path,) = settings.data_root.glob("recipes/*/*/*.npz")
    holding = bank_of(settings)
    ok(gui.fit(good(4)))
    name, digest = names(gui)[4], holding.metadata.sample_sha256[4]
    answers: list[dict[str, Any]] = []
    removal = threading.Thread(
        target=lambda: answers.append(ok(gui.delete(DELETE, label="ok", filename=name, refit="true")))
    )
    store = FileStore(settings.data_root)
    with store.lock("recipe-default"):
        removal.start()
        # It has looked at a bank without the photograph once it waits for the lock that commits hold.
        lock = str(settings.data_root / ".locks/recipe-default.lock")
        while removal.is_alive() and _open_files().count(lock) < 2:
            time.sleep(0.005)
        third = replace(holding, metadata=replace(holding.metadata, generation=3))
        store.write(str(path.relative_to(settings.data_root)), encode_bank(third))
    removal.join()
    assert [(a["deleted"], a["refitted"], a["bank_generation"]) for a in answers] == [(True, True, 4)]
    assert digest not in bank_of(settings).metadata.sample_sha256
    assert name not in names(gui)


def _open_files() -> list[str]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(link.readlink()))
    return found


def test_a_running_removal_is_shown(
    gui: Gui, settings: Settings, make_client: MakeClient, extractor: Any
) -> None:
    ok(gui.fit(good(4)))
    for file in cached(settings):
        file.unlink()
    held = HeldExtractor(extractor)
    slow = Gui(make_client(extractor=held, fit_timeout_s=60))
    name = names(gui)[0]
    thread = threading.Thread(target=lambda: slow.delete(DELETE, label="ok", filename=name, refit="true"))
    thread.start()
    wait_for(held)
    assert ok(gui.client.request("GET", "/train/status"))["status"] == "running"
    held.release.set()
    thread.join()
    status = ok(gui.client.request("GET", "/train/status"))
    assert (status["status"], status["coreset_size"]) == ("idle", math.ceil(0.1 * 3 * PATCHES))
