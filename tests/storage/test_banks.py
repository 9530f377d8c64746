from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from orchestrator.domain.bank import BankMetadata, BankRecord
from orchestrator.domain.foreground import ForegroundAxis
from orchestrator.domain.identity import Target
from orchestrator.domain.memory_options import MemoryOptions, Tiling
from orchestrator.errors import BankOptionsUnknown, NotFound, StoreCorrupt
from orchestrator.storage.banks import BankStore, decode_bank, encode_bank
from orchestrator.storage.files import FileStore

TARGET = Target.of("default", "Inspección", "r1", "pieza.A")


def record(generation: int = 1) -> BankRecord:
    rows = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float16)
    metadata = BankMetadata(
        generation=generation,
        backbone="tiny",
        backbone_version=1,
        fingerprint="f" * 64,
        n_embeddings=50,
        coreset_rate_requested=0.1,
        coreset_rate_applied=0.1,
        mm_per_px=0.2,
        fit_started_at="2026-01-01T00:00:00Z",
        fit_duration_s=1.5,
        sample_sha256=("a", "b"),
        notes="ñ",
        extra={"memory_fit": False},
    )
    index = np.arange(5, dtype=np.int64)
    return BankRecord(rows, (2, 3), metadata, index, index)


def test_a_bank_is_read_back_as_written(tmp_path: Path) -> None:
    store = BankStore(FileStore(tmp_path))
    with pytest.raises(NotFound):
        store.read(TARGET)
    store.write(TARGET, record())
    read = store.read(TARGET)
    assert read.metadata == record().metadata
    assert read.grid == (2, 3)
    assert np.array_equal(read.embeddings, record().embeddings)
    assert np.array_equal(read.row_patch, record().row_patch)
    place = "recipes/default/~cGllemEuQQ/SW5zcGVjY2nDs24__cjE.npz"
    assert (tmp_path / place).is_file()
    assert store.fitted_pairs("default") == ["SW5zcGVjY2nDs24__cjE"]


def test_every_commit_changes_the_etag(tmp_path: Path) -> None:
    store = BankStore(FileStore(tmp_path))
    seen = {store.etag(TARGET)}
    for generation in range(1, 4):
        store.write(TARGET, record(generation))
        seen.add(store.etag(TARGET))
    assert len(seen) == 4


def test_the_log_has_one_line_a_fit(tmp_path: Path) -> None:
    store = BankStore(FileStore(tmp_path))
    store.write(TARGET, record())
    for notes in ("one", "two"):
        store.describe(TARGET, {"notes": notes}, fit_line={"notes": notes})
    store.describe(TARGET, {"notes": "calibrated"})
    (log,) = tmp_path.rglob("*_fit.log")
    assert len(log.read_text().splitlines()) == 2


def test_damaged_banks_are_corrupt() -> None:
    good = encode_bank(record())
    infinite = dataclasses.replace(record(), embeddings=np.full((5, 8), np.inf, np.float16))
    for data in (b"", b"x", good[:100], good[:-30], encode_bank(infinite)):
        with pytest.raises(StoreCorrupt):
            decode_bank(data, "k")


def with_options(options: MemoryOptions) -> BankRecord:
    made = record()
    return dataclasses.replace(made, metadata=dataclasses.replace(made.metadata, options=options))


def test_options_and_the_foreground_axis_are_stored_with_the_bank() -> None:
    axis = ForegroundAxis(np.linspace(-1, 1, 8, dtype=np.float32), 0.25)
    options = MemoryOptions("flips", foreground=True, tiling=Tiling(512, 64), score_rule="max")
    read = decode_bank(encode_bank(dataclasses.replace(with_options(options), foreground=axis)), "k")
    assert read.metadata.options == options
    assert read.foreground is not None
    assert read.foreground.cut == 0.25
    np.testing.assert_array_equal(read.foreground.direction, axis.direction)
    assert decode_bank(encode_bank(record()), "k").foreground is None


@pytest.mark.parametrize(
    "axis",
    [
        None,
        ForegroundAxis(np.zeros(7, np.float32), 0.0),
        ForegroundAxis(np.full(8, np.nan, np.float32), 0.0),
    ],
)
def test_a_bank_without_the_axis_that_it_asks_for_is_corrupt(axis: ForegroundAxis | None) -> None:
    made = dataclasses.replace(with_options(MemoryOptions(foreground=True)), foreground=axis)
    with pytest.raises(StoreCorrupt, match="foreground"):
        decode_bank(encode_bank(made), "k")


def test_a_bank_made_by_rules_of_another_release_is_not_read() -> None:
    with pytest.raises(BankOptionsUnknown, match=r"version=9.*fit_ok"):
        decode_bank(encode_bank(with_options(MemoryOptions(version=9))), "k")
