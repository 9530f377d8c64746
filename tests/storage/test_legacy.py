"""Banks of other generations read in place: found on a miss, for the default recipe only, shown as what they are."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.api.inspection.bodies import source
from orchestrator.domain.backbone import BackboneSpec
from orchestrator.domain.bank import BankRecord
from orchestrator.domain.identity import Target, encode_identifier
from orchestrator.errors import BackboneMismatch, MemoryNotFitted, NotFound, StoreCorrupt
from orchestrator.features.repository import ModelRepository
from orchestrator.runtime import build_runtime
from orchestrator.services.backbones import Backbones
from orchestrator.services.banks import Banks, check_grid
from orchestrator.services.score import Scoring
from orchestrator.services.state import TargetState
from orchestrator.settings import Settings
from orchestrator.storage.banks import BankStore, legacy_metadata
from orchestrator.storage.calibrations import CalibrationStore
from orchestrator.storage.choice import BackboneChoice, ChoiceStore
from orchestrator.storage.files import FileStore
from orchestrator.storage.legacy import LegacyBanks

TARGET = Target.of("default", "Inspection", "r1")
DIM = 8


def banks_of(root: Path) -> Banks:
    store = FileStore(root)
    legacy = LegacyBanks((store, FileStore(root / "models")))
    return Banks(BankStore(store), legacy, CalibrationStore(store), Scoring("euclidean", 1.0))


def rows(count: int = 12) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(count).standard_normal((count, DIM)).astype(np.float32)


def put_bank(path: Path, count: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, emb=rows(count), token_h=4, token_w=5)


def put_array(path: Path, array: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


PLACES = ("Inspection_r1.npz", "Inspection/r1/memory.npz", f"{TARGET.stem}.npz")


@pytest.mark.parametrize("place", [*PLACES, "models/Inspection_r1.npz", "models/Inspection/r1/memory.npz"])
def test_a_bank_of_every_published_place_is_read_as_legacy(tmp_path: Path, place: str) -> None:
    put_bank(tmp_path / place)
    bank = banks_of(tmp_path).load(TARGET)
    assert (bank.generation, bank.record.metadata.source) == (0, "legacy")
    assert bank.record.metadata.model_version is None
    assert bank.record.grid == (4, 5)
    unit = rows() / np.linalg.norm(rows(), axis=1, keepdims=True)
    np.testing.assert_allclose(bank.search.memory.embeddings, unit, atol=1e-3)


def test_the_published_read_order_holds(tmp_path: Path) -> None:
    put_array(tmp_path / "Inspection" / "r1" / "embeddings.npy", rows(10))
    for count, place in zip((13, 12, 11), reversed(PLACES), strict=True):
        put_bank(tmp_path / place, count)
    banks = banks_of(tmp_path)
    for place, count in ((PLACES[2], 13), (PLACES[0], 11), (PLACES[1], 12)):
        assert len(banks.load(TARGET).record.embeddings) == count
        (tmp_path / place).unlink()
    assert len(banks.load(TARGET).record.embeddings) == 10


@pytest.mark.parametrize("place", PLACES[:2])
def test_another_recipe_never_falls_back_on_legacy_banks(tmp_path: Path, place: str) -> None:
    put_bank(tmp_path / place)
    banks = banks_of(tmp_path)
    with pytest.raises(MemoryNotFitted):
        banks.load(Target.of("other", "Inspection", "r1"))
    assert banks.find(TARGET) is not None


def test_a_legacy_bank_that_appears_or_changes_is_seen_at_once(tmp_path: Path) -> None:
    banks = banks_of(tmp_path)
    assert banks.find(TARGET) is None
    put_bank(tmp_path / "Inspection_r1.npz", 12)
    assert len(banks.load(TARGET).record.embeddings) == 12
    put_bank(tmp_path / "Inspection_r1.npz", 13)
    assert len(banks.load(TARGET).record.embeddings) == 13


@pytest.mark.parametrize(
    ("manifest", "grid"),
    [
        ('{"token_shape": [24, 25]}', (24, 25)),
        (None, (1, 1)),
        ("{", (1, 1)),
        ('{"token_shape": "x"}', (1, 1)),
        ('{"token_shape": [3]}', (1, 1)),
    ],
)
def test_an_array_takes_its_grid_from_the_manifest_beside_it(
    tmp_path: Path, manifest: str | None, grid: tuple[int, int]
) -> None:
    folder = tmp_path / "models" / "Inspection" / "r1"
    put_array(folder / "embeddings.npy", rows())
    if manifest is not None:
        (folder / "manifest.json").write_text(manifest)
    assert banks_of(tmp_path).load(TARGET).record.grid == grid


@pytest.mark.parametrize(
    "array",
    [np.zeros((0, 8), np.float32), np.zeros(8, np.float32), np.zeros((3, 8), np.int64)],
    ids=["no rows", "one axis", "integers"],
)
def test_an_array_that_is_no_bank_is_called_corrupt(tmp_path: Path, array: np.ndarray[Any, Any]) -> None:
    put_array(tmp_path / "Inspection" / "r1" / "embeddings.npy", array)
    with pytest.raises(StoreCorrupt):
        banks_of(tmp_path).load(TARGET)


@pytest.mark.parametrize("name", ["Inspection/r1/embeddings.npy", "Inspection_r1.npz"])
@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04cut"])
def test_damaged_legacy_banks_are_called_corrupt(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt):
        banks_of(tmp_path).load(TARGET)


def test_a_damaged_compressed_bank_is_called_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "Inspection_r1.npz"
    np.savez_compressed(path, emb=rows(), token_h=4, token_w=5)
    data = bytearray(path.read_bytes())
    data[60:90] = bytes(30)
    path.write_bytes(data)
    with pytest.raises(StoreCorrupt):
        banks_of(tmp_path).load(TARGET)


def test_an_archive_under_an_arrays_name_is_called_corrupt(tmp_path: Path) -> None:
    put_bank(tmp_path / "bank.npz")
    path = tmp_path / "Inspection" / "r1" / "embeddings.npy"
    path.parent.mkdir(parents=True)
    (tmp_path / "bank.npz").rename(path)
    with pytest.raises(StoreCorrupt):
        banks_of(tmp_path).load(TARGET)


def test_pickled_arrays_are_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "Inspection" / "r1" / "embeddings.npy"
    put_array(path, np.array([{"a": 1}], dtype=object))
    with pytest.raises(StoreCorrupt):
        banks_of(tmp_path).load(TARGET)


@pytest.mark.parametrize(
    ("role", "roi"), [("..", "r1"), ("a/b", "r1"), ("Inspection", "../r1"), ("a", "b\\c")]
)
def test_identifiers_cannot_climb_out_of_the_legacy_layouts(tmp_path: Path, role: str, roi: str) -> None:
    root = tmp_path / "root" / "below"
    root.mkdir(parents=True)
    for path in (tmp_path / "root", root):
        put_bank(path / "r1" / "memory.npz")
        put_bank(path / "a" / "b" / "r1" / "memory.npz")
    legacy = LegacyBanks((FileStore(root),))
    target = Target.of("default", role, roi)
    assert legacy.etag(target) is None
    assert legacy.calibration(target) is None
    with pytest.raises(NotFound):
        legacy.read(target)


@pytest.mark.parametrize(
    ("bank", "calibration"),
    [
        ("Inspection_r1.npz", "Inspection_r1_calib.json"),
        ("Inspection/r1/memory.npz", "Inspection/r1/calibration.json"),
        ("Inspection/r1/memory.npz", "Inspection/r1/calib.json"),
        (f"{TARGET.stem}.npz", f"{TARGET.stem}_calib.json"),
    ],
)
def test_a_legacy_bank_keeps_its_own_threshold(tmp_path: Path, bank: str, calibration: str) -> None:
    put_bank(tmp_path / bank)
    (tmp_path / calibration).write_text(json.dumps({"threshold": 0.42, "score_percentile": 95}))
    banks = banks_of(tmp_path)
    found = banks.in_force(TARGET, banks.load(TARGET))
    assert found is not None
    assert (found.threshold, found.score_percentile, found.bank_generation) == (0.42, 95.0, 0)


@pytest.mark.parametrize("threshold", [0, -1, None, "0.4", True, [0.4]])
def test_a_legacy_threshold_that_is_none_is_not_in_force(tmp_path: Path, threshold: object) -> None:
    put_bank(tmp_path / "Inspection_r1.npz")
    (tmp_path / "Inspection_r1_calib.json").write_text(json.dumps({"threshold": threshold}))
    banks = banks_of(tmp_path)
    assert banks.in_force(TARGET, banks.load(TARGET)) is None


def test_a_damaged_legacy_calibration_is_none(tmp_path: Path) -> None:
    put_bank(tmp_path / "Inspection_r1.npz")
    (tmp_path / "Inspection_r1_calib.json").write_text("{")
    banks = banks_of(tmp_path)
    assert banks.in_force(TARGET, banks.load(TARGET)) is None


def write_manifest(models: Path) -> BackboneSpec:
    folder = models / "scattering" / "1"
    folder.mkdir(parents=True)
    manifest = {
        "schema": 1,
        "name": "scattering",
        "version": 1,
        "fingerprint": "f" * 64,
        "spec": {"input_size": [32, 40], "grid": [4, 5], "dim": DIM},
        "preprocessing": {"padding": "black"},
        "weights": {"source": "test"},
        "input": {"name": "image"},
        "output": {"name": "tokens"},
        "files": {"model.onnx": {"sha256": "0" * 64}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return BackboneSpec.from_manifest(manifest)


def backbones_of(tmp_path: Path, legacy: str | None) -> tuple[Backbones, BackboneSpec]:
    spec = write_manifest(tmp_path / "repository")
    choices = ChoiceStore(FileStore(tmp_path))
    choices.write(BackboneChoice(spec.name, spec.version, spec.fingerprint, "2026-01-01"), replace=True)
    return Backbones(ModelRepository(tmp_path / "repository"), choices, wanted=None, legacy=legacy), spec


def test_a_legacy_bank_gives_verdicts_only_where_its_backbone_is_named(tmp_path: Path) -> None:
    put_bank(tmp_path / "Inspection_r1.npz")
    record = banks_of(tmp_path).load(TARGET).record
    backbones, spec = backbones_of(tmp_path, "scattering")
    assert backbones.for_bank(record) == spec


@pytest.mark.parametrize("named", [None, "dinov2_vits14"])
def test_a_legacy_bank_of_another_or_unnamed_backbone_is_refused_with_the_remedy(
    tmp_path: Path, named: str | None
) -> None:
    put_bank(tmp_path / "Inspection_r1.npz")
    record = banks_of(tmp_path).load(TARGET).record
    backbones, _ = backbones_of(tmp_path, named)
    with pytest.raises(BackboneMismatch, match="/fit_ok"):
        backbones.for_bank(record)


def test_a_legacy_bank_of_another_dimension_or_grid_is_refused(tmp_path: Path) -> None:
    put_bank(tmp_path / "Inspection_r1.npz")
    loaded = banks_of(tmp_path).load(TARGET)
    backbones, spec = backbones_of(tmp_path, "scattering")
    none = np.zeros(0, dtype=np.int64)
    wide = BankRecord(np.zeros((3, DIM + 1), np.float16), (4, 5), legacy_metadata(3, {}), none, none)
    with pytest.raises(BackboneMismatch, match=f"{DIM + 1}-dimensional"):
        backbones.for_bank(wide)
    check_grid(loaded, spec.grid)
    with pytest.raises(BackboneMismatch, match="Token grid mismatch"):
        check_grid(loaded, (32, 32))
    check_grid(replace(loaded, record=replace(loaded.record, grid=(1, 1))), (32, 32))


def state_of(settings: Settings, recipe_id: str = "default") -> TargetState:
    async def read() -> TargetState:
        runtime = build_runtime(settings)
        try:
            return runtime.states.target(Target.of(recipe_id, "Inspection", "r1"))
        finally:
            await runtime.close()

    return asyncio.run(read())


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_root=tmp_path / "data", model_repository=tmp_path / "repository")


@pytest.mark.parametrize("place", [*PLACES, "models/Inspection_r1.npz"])
def test_the_state_of_a_target_shows_a_legacy_bank_as_legacy(settings: Settings, place: str) -> None:
    put_bank(settings.data_root / place)
    found = state_of(settings)
    assert found.bank is not None
    assert found.bank.metadata.source == "legacy"
    assert source(found.bank) == "legacy"
    assert len(found.bank.embeddings) == 12


def test_the_state_of_another_recipe_shows_no_legacy_bank(settings: Settings) -> None:
    put_bank(settings.data_root / "Inspection_r1.npz")
    assert state_of(settings, "other").bank is None


def test_reading_a_legacy_bank_writes_nothing(settings: Settings) -> None:
    path = settings.data_root / "Inspection" / "r1" / "memory.npz"
    put_bank(path)
    state_of(settings)
    assert [p for p in settings.data_root.rglob("*") if p.is_file()] == [path]


def test_a_pair_name_is_what_the_published_server_wrote() -> None:
    assert encode_identifier("Inspection") == "SW5zcGVjdGlvbg"
    assert TARGET.stem == "recipes/default/r1/SW5zcGVjdGlvbg__cjE"
