from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from orchestrator.domain.identity import Part
from orchestrator.domain.samples import NewSample
from orchestrator.errors import NotFound, StoreUnavailable
from orchestrator.storage.datasets import DatasetStore
from orchestrator.storage.files import FileStore
from tests.storage.test_files import full_disk_beyond

PART = Part.of("default", "Inspection", "r/1")


def sample(data: bytes, **meta: object) -> NewSample:
    return NewSample(data, hashlib.sha256(data).hexdigest(), "PNG", meta)


@pytest.fixture
def datasets(tmp_path: Path) -> DatasetStore:
    """Give an empty dataset store."""
    return DatasetStore(FileStore(tmp_path))


def files(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "datasets").rglob("*") if p.is_file())


def test_known_bytes_keep_their_first_name(datasets: DatasetStore) -> None:
    first = datasets.add(PART, "ok", [sample(b"a"), sample(b"b"), sample(b"a")])
    assert [s.added for s in first] == [True, True, False]
    assert first[0].name == first[2].name
    again = datasets.add(PART, "ok", [sample(b"b"), sample(b"c")])
    assert [s.added for s in again] == [False, True]
    assert again[0].name == first[1].name
    assert len(datasets.listing(PART, "ok").files) == 3
    assert datasets.add(PART, "ng", [sample(b"a")])[0].added


def test_a_full_disk_stores_none_of_them(datasets: DatasetStore, tmp_path: Path) -> None:
    datasets.add(PART, "ok", [sample(b"before")])
    before = files(tmp_path)
    with full_disk_beyond(1500), pytest.raises(StoreUnavailable):
        datasets.add(PART, "ok", [sample(b"small"), sample(b"another"), sample(bytes(3000))])
    assert files(tmp_path) == before
    with full_disk_beyond(100), pytest.raises(StoreUnavailable):
        datasets.add(PART, "ok", [sample(b"tiny")])
    assert files(tmp_path) == before


def test_the_sidecar_says_what_the_contract_names(datasets: DatasetStore) -> None:
    (stored,) = datasets.add(PART, "ng", [sample(b"a", mm_per_px=0.2, role_id="other", angle=None)])
    meta = datasets.meta(PART, "ng", stored.name)
    assert (meta["role_id"], meta["roi_id"], meta["recipe_id"]) == ("Inspection", "r/1", "default")
    assert (meta["label"], meta["filename"], meta["mm_per_px"]) == ("ng", stored.name, 0.2)
    assert meta["sha256"] == stored.sha256
    assert "angle" not in meta
    assert {"timestamp_utc", "created_at_utc", "source"} <= set(meta)


def test_removing_takes_the_sidecar_along(datasets: DatasetStore, tmp_path: Path) -> None:
    (stored,) = datasets.add(PART, "ok", [sample(b"a")])
    assert datasets.remove(PART, "ok", stored.name)
    assert not datasets.remove(PART, "ok", stored.name)
    assert files(tmp_path) == []
    with pytest.raises(NotFound):
        datasets.read(PART, "ok", stored.name)


def test_clearing_counts_photographs_and_sidecars(datasets: DatasetStore) -> None:
    datasets.add(PART, "ok", [sample(bytes([i])) for i in range(3)])
    datasets.add(PART, "ng", [sample(b"n")])
    assert datasets.clear(PART, "ok") == 6
    assert datasets.listing(PART, "ok").files == ()
    assert len(datasets.listing(PART, "ng").files) == 1


def test_a_photograph_is_found_by_its_digest_and_by_no_name_alone(
    datasets: DatasetStore, tmp_path: Path
) -> None:
    first, second = datasets.add(PART, "ok", [sample(b"a"), sample(b"b")])
    assert datasets.find(PART, "ok", first.sha256) == (first.name, b"a")
    with pytest.raises(NotFound):
        datasets.find(PART, "ng", first.sha256)
    with pytest.raises(NotFound):
        datasets.find(PART, "ok", first.sha256[:8] + second.sha256[8:])
    folder = tmp_path / datasets.folder(PART, "ok")
    (folder / "20240101-080000-000000.png").write_bytes(b"c")
    (folder / first.name).rename(folder / "A_foreign.png")
    assert datasets.find(PART, "ok", sample(b"c").sha256) == ("20240101-080000-000000.png", b"c")
    assert datasets.find(PART, "ok", first.sha256) == ("A_foreign.png", b"a")
    datasets.remove(PART, "ok", second.name)
    with pytest.raises(NotFound):
        datasets.find(PART, "ok", second.sha256)
