"""Importing every published layout into real stores."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator.domain.identity import Part, Target, encode_identifier, split_pair
from orchestrator.domain.samples import Label, sample_shape
from orchestrator.domain.shapes import Circle, parse_shape
from orchestrator.errors import BackboneMismatch, InvalidInput
from orchestrator.features.preprocess import ImageLimits
from orchestrator.features.repository import ModelRepository
from orchestrator.services.backbones import Backbones
from orchestrator.services.banks import Banks
from orchestrator.services.commit import Committer
from orchestrator.services.import_legacy import LegacyImport
from orchestrator.services.import_report import ImportReport
from orchestrator.services.score import Scoring
from orchestrator.storage.banks import BankStore
from orchestrator.storage.calibrations import CalibrationStore
from orchestrator.storage.choice import ChoiceStore
from orchestrator.storage.datasets import DatasetStore
from orchestrator.storage.files import FileStore
from orchestrator.storage.legacy import LegacyBanks
from orchestrator.storage.recipes import RecipeStore

DIM, GRID = 8, (2, 3)


@dataclass(frozen=True)
class House:
    """A data root with everything that an import touches."""

    root: Path
    datasets: DatasetStore
    banks: BankStore
    recipes: RecipeStore
    backbones: Backbones
    read: Banks
    importer: LegacyImport

    def meta(self, part: Part, label: Label = "ok") -> dict[str, Any]:
        """Read the sidecar of the only sample."""
        (name,) = self.datasets.listing(part, label).files
        return self.datasets.meta(part, label, name)


def build(tmp_path: Path, root: Path) -> House:
    models = tmp_path / "models_of_ours"
    for number, name in enumerate(("scattering", "other")):
        write_manifest(models, name, fingerprint=str(number) * 64)
    store, repository = FileStore(root), ModelRepository(models)
    recipes, banks = RecipeStore(store), BankStore(store)
    calibrations, datasets, choices = CalibrationStore(store), DatasetStore(store), ChoiceStore(store)
    committer = Committer(store, recipes, banks, calibrations, datasets)
    backbones = Backbones(repository, choices, wanted=None, legacy=None)
    limits = ImageLimits(100_000, 1_000_000)
    importer = LegacyImport(datasets, banks, recipes, committer, backbones, choices, repository, limits)
    return House(
        root,
        datasets,
        banks,
        recipes,
        backbones,
        Banks(banks, LegacyBanks((store,)), calibrations, Scoring("euclidean", 1.0)),
        importer,
    )


@pytest.fixture
def house(tmp_path: Path) -> House:
    return build(tmp_path, tmp_path / "new")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = tmp_path / "old"
    folder.mkdir()
    return folder


def write_manifest(models: Path, name: str, *, fingerprint: str) -> None:
    folder = models / name / "1"
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "schema": 1,
        "name": name,
        "version": 1,
        "fingerprint": fingerprint,
        "spec": {"input_size": [32, 48], "grid": list(GRID), "dim": DIM},
        "preprocessing": {"padding": "black"},
        "weights": {"source": "test"},
        "input": {"name": "image"},
        "output": {"name": "tokens"},
        "files": {"model.onnx": {"sha256": "0" * 64}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def photograph(seed: int, image_format: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


def put_sample(folder: Path, name: str, data: bytes, meta: object = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    if meta is not None:
        (folder / name).with_suffix(".json").write_text(json.dumps(meta), encoding="utf-8")


def rows(count: int = 12, dim: int = DIM) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(count).standard_normal((count, dim)).astype(np.float32)


def put_bank(path: Path, emb: np.ndarray[Any, Any] | None = None, metadata: str = "{}") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    emb = rows() if emb is None else emb
    np.savez(path, emb=emb, token_h=GRID[0], token_w=GRID[1], metadata=np.array(metadata))


def pair(role: str, roi: str) -> str:
    return f"{encode_identifier(role)}__{encode_identifier(roi)}"


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def sentences(report: ImportReport) -> str:
    return "\n".join(f"{line.path}: {line.sentence}" for line in report.lines)


@pytest.mark.parametrize(
    ("folder", "part"),
    [
        ("data/rois/Inspection_1", Part("default", "Inspection", "Inspection_1")),
        ("data/datasets/Inspection_1", Part("default", "Inspection", "Inspection_1")),
        ("datasets/Prüfung/Öse 1", Part("default", "Prüfung", "Öse 1")),
        ("models/datasets/Master1/roi", Part("default", "Master1", "roi")),
        (
            f"models/recipes/brake_disc/datasets/{pair('Prüfung', '孔 ½?')}",
            Part("brake_disc", "Prüfung", "孔 ½?"),
        ),
        (f"models/recipes/Mixed-Case/datasets/{pair('r', 's')}", Part("mixed-case", "r", "s")),
    ],
)
def test_samples_of_every_layout_arrive_with_their_bytes(
    house: House, old: Path, folder: str, part: Part
) -> None:
    put_sample(old / folder / "ok", "OK_20250101_101010123.png", photograph(1), {"operator": "eva"})
    put_sample(old / folder / "ng", "x.bmp", photograph(2, "BMP"))
    report = house.importer.run(old)
    assert report.counts == {("sample", "imported"): 2}
    (good,) = house.datasets.listing(part, "ok").files
    (bad,) = house.datasets.listing(part, "ng").files
    assert house.datasets.read(part, "ok", good) == photograph(1)
    assert house.datasets.read(part, "ng", bad) == photograph(2, "BMP")
    assert house.meta(part)["operator"] == "eva"
    assert "has no sidecar" in sentences(report)


@pytest.mark.parametrize("below", [".", "data", "data/models", "models"])
def test_the_root_its_parent_and_its_folders_are_all_accepted(house: House, old: Path, below: str) -> None:
    put_sample(old / below / "datasets" / "r1" / "ok", "a.png", photograph(1))
    assert house.importer.run(old).count("sample", "imported") == 1
    assert house.importer.run(old / below).count("sample", "known") == 1


def test_layouts_of_both_depths_are_told_apart_by_their_labels(house: House, old: Path) -> None:
    put_sample(old / "datasets" / "roi_a" / "ok", "a.png", photograph(1))
    put_sample(old / "datasets" / "roi_a" / "roi_b" / "ok", "a.png", photograph(2))
    put_sample(old / "datasets" / "role" / "ok" / "NG", "a.png", photograph(3))
    house.importer.run(old, role_id="Named", recipe_id="Line-2")
    assert house.datasets.listing(Part("line-2", "Named", "roi_a"), "ok").files
    assert house.datasets.listing(Part("line-2", "roi_a", "roi_b"), "ok").files
    assert house.datasets.listing(Part("line-2", "role", "ok"), "ng").files


def test_every_key_of_the_client_is_kept(house: House, old: Path) -> None:
    circle = {"kind": "circle", "cx": 12, "cy": 10, "r": 5}
    meta = {
        "role_id": "inspection",
        "roi_id": "r1",
        "label": "ok",
        "filename": "mía.png",
        "angle": 12.5,
        "mm_per_px": 0.25,
        "timestamp": "2026-01-14T10:00:00",
        "shape_json": json.dumps(circle),
        "created_at_utc": "2026-01-14T09:00:00Z",
        "preset_name": "ñandú",
    }
    put_sample(old / "datasets" / "Inspection" / "r1" / "ok", "a.png", photograph(1), meta)
    house.importer.run(old)
    part = Part("default", "Inspection", "r1")
    stored = house.meta(part)
    assert {k: stored[k] for k in meta if k != "role_id"} == {k: v for k, v in meta.items() if k != "role_id"}
    assert stored["role_id"] == "Inspection"
    assert stored["imported_role_id"] == "inspection"
    assert isinstance(stored["shape_json"], str)
    assert parse_shape(stored["shape_json"], (20, 24)) == Circle(12, 10, 5)
    assert house.recipes.mm_per_px("default") == 0.25


def test_a_doubly_encoded_shape_stays_usable(house: House, old: Path) -> None:
    twice = json.dumps(json.dumps({"kind": "rect", "x": 0, "y": 0, "w": 5, "h": 5}))
    put_sample(old / "rois" / "r1" / "ok", "a.png", photograph(1), {"shape_json": twice})
    assert house.importer.run(old).count("sample", "imported") == 1
    shape = sample_shape(house.meta(Part("default", "Inspection", "r1")))
    assert isinstance(shape, str)
    assert parse_shape(shape, (20, 24)) is not None


def test_the_second_generations_shape_becomes_the_roi(house: House, old: Path) -> None:
    shape = {"kind": "circle", "cx": 12, "cy": 10, "r": 5}
    put_sample(old / "datasets" / "r" / "s" / "ok", "a.png", photograph(1), {"shape": shape, "width": 24})
    house.importer.run(old)
    assert house.meta(Part("default", "r", "s"))["shape_json"] == shape


def test_a_shape_outside_its_crop_is_refused_with_its_photograph(house: House, old: Path) -> None:
    shape = {"shape_json": {"kind": "rect", "x": 0, "y": 0, "w": 500, "h": 5}}
    put_sample(old / "rois" / "r1" / "ok", "a.png", photograph(1), shape)
    report = house.importer.run(old)
    assert report.counts == {("sample", "refused"): 1}
    assert "its ROI cannot be used" in sentences(report)


@pytest.mark.parametrize(
    "sidecar",
    [b"{", b"[1]", b'{"a": NaN}', b'{"a": 1e999}', b'{"a": "\\ud800"}', b"\xff\xfe\xff", b""],
)
def test_an_unusable_sidecar_is_reported_and_its_photograph_kept(
    house: House, old: Path, sidecar: bytes
) -> None:
    folder = old / "rois" / "r1" / "ok"
    put_sample(folder, "a.png", photograph(1))
    (folder / "a.json").write_bytes(sidecar)
    report = house.importer.run(old)
    assert report.counts == {("sample", "imported"): 1}
    assert "sidecar cannot be read" in sentences(report)


def test_a_sidecar_with_a_byte_order_mark_is_read(house: House, old: Path) -> None:
    folder = old / "rois" / "r1" / "ok"
    put_sample(folder, "a.PNG", photograph(1))
    (folder / "a.JSON").write_text('{"operator_id": "José"}', encoding="utf-8-sig")
    house.importer.run(old)
    assert house.meta(Part("default", "Inspection", "r1"))["operator_id"] == "José"


def test_what_does_not_decode_is_reported_and_never_copied(house: House, old: Path) -> None:
    folder = old / "rois" / "r1" / "ok"
    put_sample(folder, "cut.png", photograph(1)[:-400])
    put_sample(folder, "empty.png", b"")
    put_sample(folder, "big.png", b"x" * 100_001)
    put_sample(folder, "Thumbs.db", b"no image")
    put_sample(folder, "whole.png", photograph(2))
    (folder / "left.json").write_text("{}")
    report = house.importer.run(old)
    assert report.counts == {("sample", "refused"): 4, ("sample", "imported"): 1, ("sidecar", "skipped"): 1}
    for name in ("cut.png", "empty.png", "big.png", "Thumbs.db", "left.json"):
        assert str(folder / name) in sentences(report)
    assert len(house.datasets.listing(Part("default", "Inspection", "r1"), "ok").files) == 1


def test_names_that_are_no_unicode_or_too_long_are_reported(house: House, old: Path) -> None:
    put_sample(old / "rois" / ("x" * 65) / "ok", "a.png", photograph(1))
    folder = os.fsencode(old / "rois") + b"/ok\xff"
    os.makedirs(folder + b"/ok")
    Path(os.fsdecode(folder + b"/ok/a.png")).write_bytes(photograph(2))
    put_sample(old / "rois" / "r1" / "ok", os.fsdecode(b"\xe9.png"), photograph(3), {})
    report = house.importer.run(old)
    assert report.counts == {("sample", "refused"): 2, ("sample", "imported"): 1}
    assert "\\xe9.png" in sentences(report)
    sentences(report).encode()


def test_a_reserved_recipe_is_refused_not_renamed(house: House, old: Path) -> None:
    put_sample(old / "recipes" / "last" / "datasets" / pair("r", "s") / "ok", "a.png", photograph(1))
    put_bank(old / "recipes" / "last" / "s" / f"{pair('r', 's')}.npz")
    report = house.importer.run(old, backbone="scattering")
    assert report.counts == {("sample", "refused"): 1, ("memory", "refused"): 1}


def test_the_same_bytes_are_stored_once(house: House, old: Path) -> None:
    for folder in ("rois/r1", "datasets/r1", "datasets/Inspection/r1"):
        for name in ("a.png", "b.png"):
            put_sample(old / folder / "ok", name, photograph(1))
    expected = {("sample", "imported"): 1, ("sample", "known"): 5}
    assert house.importer.run(old, dry_run=True).counts == expected
    assert house.importer.run(old).counts == expected


def test_a_second_import_adds_nothing(house: House, old: Path) -> None:
    fill(old)
    first = house.importer.run(old, backbone="scattering")
    before = snapshot(house.root)
    second = house.importer.run(old, backbone="scattering")
    assert first.count("sample", "imported") == 9
    assert first.count("memory", "imported") == 4
    assert second.count("sample", "imported") == second.count("memory", "imported") == 0
    assert second.count("sample", "known") == 9
    assert second.count("memory", "known") == 4
    assert snapshot(house.root) == before


def test_a_dry_run_foretells_the_import_and_changes_nothing(house: House, old: Path) -> None:
    fill(old)
    house.backbones.settle()
    before, source = snapshot(house.root), snapshot(old)
    foretold = house.importer.run(old, backbone="scattering", dry_run=True)
    assert snapshot(house.root) == before
    assert house.importer.run(old, backbone="scattering").counts == foretold.counts
    assert snapshot(old) == source
    assert foretold.dry_run


def test_a_dry_run_into_nothing_makes_no_data_root(house: House, old: Path) -> None:
    fill(old)
    report = house.importer.run(old, backbone="scattering", dry_run=True)
    assert not house.root.exists()
    assert "BDI_BACKBONE=scattering" in sentences(report)
    assert report.count("memory", "imported") == 4


def test_progress_counts_every_file_to_the_end(house: House, old: Path) -> None:
    fill(old)
    seen: list[tuple[int, int]] = []
    house.importer.run(old, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 13) for n in range(1, 14)]


def fill(old: Path) -> None:
    """Write 9 photographs in one folder, so more than one batch, and 4 banks; 2 more banks come second."""
    for seed in range(9):
        put_sample(old / "rois" / "r1" / "ok", f"{seed}.png", photograph(seed), {"mm_per_px": 0.2})
    put_bank(old / "models" / "recipes" / "other" / "r1" / f"{pair('Inspection', 'r1')}.npz")
    put_bank(old / "models" / "Inspection_r1.npz")
    put_bank(old / "models" / "Inspection" / "r2" / "memory.npz", rows(13))
    folder = old / "models" / "Prüfung" / "r3"
    folder.mkdir(parents=True)
    np.save(folder / "embeddings.npy", rows(14))


def test_another_scale_than_the_recipes_is_a_conflict_and_not_stored(house: House, old: Path) -> None:
    house.recipes.lock("default", 0.2)
    folder = old / "rois" / "r1" / "ok"
    put_sample(folder, "a.png", photograph(1), {"mm_per_px": 0.3})
    put_sample(folder, "b.png", photograph(2), {"mm_per_px": 0.2})
    put_sample(folder, "c.png", photograph(3), {"mm_per_px": "0.20000000001"})
    report = house.importer.run(old)
    assert report.counts == {("sample", "conflict"): 1, ("sample", "imported"): 2}
    assert "expected 0.2, got 0.3" in sentences(report)
    assert house.recipes.mm_per_px("default") == 0.2


def test_scales_that_disagree_among_themselves_conflict_even_in_a_dry_run(house: House, old: Path) -> None:
    for seed, scale in enumerate((0.2, 0.3, 0.2)):
        put_sample(old / "rois" / "r1" / "ok", f"{seed}.png", photograph(seed), {"mm_per_px": scale})
    expected = {("sample", "imported"): 2, ("sample", "conflict"): 1}
    assert house.importer.run(old, dry_run=True).counts == expected
    assert house.importer.run(old).counts == expected


@pytest.mark.parametrize("value", [0, -1, "a", True, [], 10**400])
def test_a_scale_that_is_none_is_set_aside(house: House, old: Path, value: object) -> None:
    put_sample(old / "rois" / "r1" / "ok", "a.png", photograph(1), {"mm_per_px": value})
    report = house.importer.run(old)
    meta = house.meta(Part("default", "Inspection", "r1"))
    assert "mm_per_px" not in meta
    assert meta["imported_mm_per_px"] == value
    assert "is no scale" in sentences(report)
    assert house.recipes.mm_per_px("default") is None


def test_a_photograph_without_a_scale_has_its_recipes(house: House, old: Path) -> None:
    house.recipes.lock("default", 0.2)
    put_sample(old / "rois" / "r1" / "ok", "a.png", photograph(1), {"angle": 1})
    house.importer.run(old)
    assert house.meta(Part("default", "Inspection", "r1"))["mm_per_px"] == 0.2


def test_an_old_recipes_lock_is_taken_along(house: House, old: Path) -> None:
    recipe = old / "recipes" / "disc"
    put_sample(recipe / "datasets" / pair("r", "s") / "ok", "a.png", photograph(1), {"angle": 1})
    (recipe / "recipe_meta.json").write_text('{"mm_per_px": 0.125}')
    report = house.importer.run(old)
    assert report.count("scale", "imported") == 1
    assert house.recipes.mm_per_px("disc") == 0.125
    assert house.meta(Part("disc", "r", "s"))["mm_per_px"] == 0.125


def test_an_old_recipe_of_another_scale_conflicts_as_a_whole(house: House, old: Path) -> None:
    house.recipes.lock("disc", 0.5)
    house.backbones.settle()
    recipe = old / "recipes" / "disc"
    put_sample(recipe / "datasets" / pair("r", "s") / "ok", "a.png", photograph(1))
    put_bank(recipe / "s" / f"{pair('r', 's')}.npz")
    (recipe / "recipe_meta.json").write_text('{"mm_per_px": 0.125}')
    expected = {("scale", "conflict"): 1, ("sample", "conflict"): 1, ("memory", "conflict"): 1}
    assert house.importer.run(old, backbone="scattering", dry_run=True).counts == expected
    assert house.importer.run(old, backbone="scattering").counts == expected
    assert house.banks.etag(Target.of("disc", "r", "s")) is None


@pytest.mark.parametrize(
    ("key", "target"),
    [
        (
            f"recipes/disc/Inspection_1/{pair('Prüfung', 'Inspection 1')}.npz",
            Target.of("disc", "Prüfung", "Inspection 1"),
        ),
        (f"recipes/disc/special/{pair('r', 's')}.npz", Target.of("disc", "r", "s", "special")),
        ("Inspection_r_1.npz", Target.of("default", "Inspection", "r_1")),
        ("Master1_r1.npz", Target.of("default", "Master1", "r1")),
        ("Inspection/r1/memory.npz", Target.of("default", "Inspection", "r1")),
    ],
)
def test_a_bank_of_every_layout_becomes_ours(house: House, old: Path, key: str, target: Target) -> None:
    put_bank(old / "models" / key, metadata='{"made_by": "v3"}')
    report = house.importer.run(old, backbone="scattering")
    assert report.counts == {("memory", "imported"): 1}
    bank = house.read.load(target)
    spec = house.backbones.current()
    assert (bank.generation, bank.record.metadata.source) == (1, "patchlight")
    assert bank.record.metadata.fingerprint == spec.fingerprint
    assert house.backbones.for_bank(bank.record) == spec
    unit = rows() / np.linalg.norm(rows(), axis=1, keepdims=True)
    np.testing.assert_allclose(bank.search.memory.embeddings, unit, atol=1e-3)
    extra = bank.record.metadata.extra
    assert extra["imported_from"] == str(old / "models" / key)
    assert extra["legacy"] == {"made_by": "v3"}


def test_an_array_of_embeddings_becomes_a_bank_with_the_backbones_grid(house: House, old: Path) -> None:
    folder = old / "Inspection" / "r1"
    folder.mkdir(parents=True)
    np.save(folder / "embeddings.npy", rows())
    house.importer.run(old, backbone="scattering")
    assert house.read.load(Target.of("default", "Inspection", "r1")).record.grid == GRID


def test_a_flat_name_is_split_at_the_role_that_is_named_or_known(house: House, old: Path) -> None:
    put_bank(old / "Front_side_r1.npz")
    put_sample(old / "datasets" / "Left_side" / "r1" / "ok", "a.png", photograph(1))
    put_bank(old / "Left_side_r1.npz", rows(13))
    put_bank(old / "Other_side_r1.npz", rows(14))
    report = house.importer.run(old, role_id="Front_side", backbone="scattering")
    assert report.count("memory", "imported") == 3
    for role, roi in (("Front_side", "r1"), ("Left_side", "r1"), ("Other", "side_r1")):
        assert house.banks.etag(Target.of("default", role, roi)) is not None
        assert f"read as role '{role}', ROI '{roi}'" in sentences(report)


def test_a_file_name_without_role_and_roi_is_reported(house: House, old: Path) -> None:
    put_bank(old / "bank.npz")
    put_bank(old / "recipes" / "a" / "k" / "plain.npz")
    (old / "recipes" / "a" / "datasets" / "plain" / "ok").mkdir(parents=True)
    assert house.importer.run(old, backbone="scattering").counts == {("folder", "skipped"): 3}


def test_a_threshold_stays_behind_and_the_report_asks_for_a_calibration(house: House, old: Path) -> None:
    stem = old / "recipes" / "disc" / "s" / pair("r", "s")
    put_bank(Path(f"{stem}.npz"))
    Path(f"{stem}_calib.json").write_text('{"threshold": 0.4375}')
    report = house.importer.run(old, backbone="scattering")
    target = Target.of("disc", "r", "s")
    assert house.read.in_force(target, house.read.load(target)) is None
    assert "its threshold 0.4375 belongs to scores that were computed otherwise" in sentences(report)
    assert "/calibrate_dataset" in sentences(report)


def test_imported_samples_count_as_the_banks_own_for_a_calibration(house: House, old: Path) -> None:
    for seed in range(4):
        put_sample(old / "datasets" / "r" / "s" / "ok", f"{seed}.png", photograph(seed))
    put_sample(old / "datasets" / "r" / "s" / "ng", "n.png", photograph(9))
    put_bank(old / "r" / "s" / "memory.npz")
    house.importer.run(old, backbone="scattering")
    target = Target.of("default", "r", "s")
    metadata = house.read.load(target).record.metadata
    names = house.datasets.listing(target.part, "ok").files
    stored = {house.datasets.meta(target.part, "ok", name)["sha256"] for name in names}
    assert set(metadata.sample_sha256) == stored
    assert metadata.coreset_rate_applied == pytest.approx(12 / (4 * GRID[0] * GRID[1]))


def test_without_a_backbone_banks_stay_behind_and_say_why(house: House, old: Path) -> None:
    put_bank(old / "Inspection_r1.npz")
    report = house.importer.run(old)
    assert report.counts == {("memory", "skipped"): 1}
    assert "--backbone" in sentences(report)
    assert not (house.root / "recipes").exists()


def test_rows_of_another_dimension_or_grid_are_refused(house: House, old: Path) -> None:
    put_bank(old / "a_r1.npz", rows(dim=DIM + 1))
    np.savez(old / "b_r1.npz", emb=rows(), token_h=32, token_w=32)
    broken = rows()
    broken[3, 3] = np.nan
    put_bank(old / "c_r1.npz", broken)
    (old / "d_r1.npz").write_bytes(b"no archive")
    for roi, content in (("r2", b"PK\x03\x04cut"), ("r3", b"")):
        (old / "d" / roi).mkdir(parents=True)
        (old / "d" / roi / "embeddings.npy").write_bytes(content)
    put_bank(old / "e_r1.npz")
    report = house.importer.run(old, backbone="scattering")
    assert report.counts == {("memory", "refused"): 6, ("memory", "imported"): 1}
    assert f"its rows have {DIM + 1} dimensions, but 'scattering' gives {DIM}" in sentences(report)
    assert "its token grid is (32, 32)" in sentences(report)
    assert "not finite" in sentences(report)


def test_a_backbone_that_is_not_in_force_changes_nothing(house: House, old: Path) -> None:
    fill(old)
    house.backbones.settle()
    before = snapshot(house.root)
    with pytest.raises(BackboneMismatch, match="'other' is not in force here, 'scattering' is"):
        house.importer.run(old, backbone="other")
    assert snapshot(house.root) == before


def test_metadata_that_json_cannot_hold_does_not_stop_a_bank(house: House, old: Path) -> None:
    put_bank(old / "a_r1.npz", metadata='{"loss": NaN}')
    assert house.importer.run(old, backbone="scattering").count("memory", "imported") == 1


def test_a_bank_of_ours_is_never_overwritten(house: House, old: Path) -> None:
    put_bank(old / "Inspection" / "r1" / "memory.npz", rows(13))
    house.importer.run(old, backbone="scattering")
    before = snapshot(house.root)
    put_bank(old / "Inspection" / "r1" / "memory.npz", rows(14))
    report = house.importer.run(old, backbone="scattering")
    assert report.counts == {("memory", "skipped"): 1}
    assert "is not overwritten" in sentences(report)
    assert snapshot(house.root) == before


def test_a_legacy_bank_in_the_targets_place_is_not_overwritten_by_another(house: House, old: Path) -> None:
    target = Target.of("default", "Inspection", "r1")
    put_bank(house.root / f"{target.stem}.npz", rows(20))
    put_bank(old / "Inspection_r1.npz")
    report = house.importer.run(old, backbone="scattering")
    assert report.counts == {("memory", "refused"): 1}
    assert len(house.read.load(target).record.embeddings) == 20


def test_a_data_root_can_be_imported_into_itself(house: House) -> None:
    part, target = Part("default", "r", "s"), Target.of("disc", "r", "s")
    put_sample(house.root / "datasets" / "r" / "s" / "ok", "a.png", photograph(1), {"mm_per_px": 0.2})
    put_sample(house.root / "recipes" / "disc" / "datasets" / pair("r", "s") / "ok", "b.png", photograph(2))
    put_bank(house.root / f"{target.stem}.npz")
    assert house.read.load(target).record.metadata.source == "legacy"
    first = house.importer.run(house.root, backbone="scattering")
    assert (first.count("sample", "imported"), first.count("memory", "imported")) == (2, 1)
    assert house.read.load(target).record.metadata.source == "patchlight"
    before = snapshot(house.root)
    second = house.importer.run(house.root, backbone="scattering")
    assert (second.count("sample", "imported"), second.count("memory", "imported")) == (0, 0)
    assert second.count("sample", "known") == 2
    assert snapshot(house.root) == before
    assert len(house.datasets.listing(part, "ok").files) == 1


def test_a_source_that_is_no_folder_is_refused(house: House, old: Path) -> None:
    with pytest.raises(InvalidInput, match="is no folder"):
        house.importer.run(old / "missing")
    assert house.importer.run(old).lines == ()


@pytest.mark.parametrize(
    ("recipe", "role"), [("last", "r"), ("a b", "r"), ("default", ""), ("default", "r" * 65)]
)
def test_bad_names_on_the_command_line_are_refused(house: House, old: Path, recipe: str, role: str) -> None:
    with pytest.raises(InvalidInput):
        house.importer.run(old, recipe_id=recipe, role_id=role)


@pytest.mark.parametrize(
    ("role", "roi"), [("a", "b"), ("ab?", "cd"), ("a", "?>?"), ("~~~", "???"), ("Ünï", "孔")]
)
def test_pairs_split_back_into_role_and_roi(role: str, roi: str) -> None:
    assert split_pair(pair(role, roi)) == (role, roi)


@pytest.mark.parametrize("name", ["", "_", "__", "Inspection_1", "left__right", "a__", "__a", "Öl__x"])
def test_other_names_are_no_pairs(name: str) -> None:
    assert split_pair(name) is None
