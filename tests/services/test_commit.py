"""Commits that meet: what was acknowledged is never overwritten unseen."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from orchestrator.domain.bank import BankIndex, BankRecord
from orchestrator.domain.calibration import Calibration, FalseReject
from orchestrator.domain.identity import Target
from orchestrator.errors import Conflict, StoreUnavailable
from orchestrator.services.commit import CALIBRATED_MEANWHILE, Committer
from orchestrator.storage.banks import BankStore
from orchestrator.storage.calibrations import CalibrationStore
from orchestrator.storage.datasets import DatasetStore
from orchestrator.storage.files import FileStore
from orchestrator.storage.recipes import RecipeStore
from tests.storage.test_banks import record
from tests.storage.test_files import full_disk_beyond

TARGET = Target.of("default", "a", "b")


def indexed(index: bytes) -> BankRecord:
    """Give a bank that is searched through these bytes."""
    bank = record()
    described = BankIndex("ivf", 1, 1, len(bank.embeddings), hashlib.sha256(index).hexdigest())
    return dataclasses.replace(bank, metadata=dataclasses.replace(bank.metadata, index=described))


def test_a_calibration_put_in_force_during_a_fit_is_not_lost(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    calibrations = CalibrationStore(store)
    committer = Committer(store, RecipeStore(store), BankStore(store), calibrations, DatasetStore(store))
    committed, _, _ = committer.fit(TARGET, record(), [], lambda _: None)
    metadata = committed.metadata
    calibration = Calibration(
        bank_generation=metadata.generation,
        fingerprint=metadata.fingerprint,
        method="percentile",
        threshold=0.5,
        score_percentile=99.0,
        area_mm2_thr=1.0,
        mm_per_px=0.2,
        ok_mean=0.1,
        ng_mean=0.0,
        p99_ok=0.4,
        p5_ng=None,
        samples_ok=3,
        samples_ng=0,
        calibrated_at="2026-01-01T00:00:00.000Z",
        false_reject=FalseReject(0.1, 0.2, 0.95, 3),
    )
    committer.calibrate(TARGET, calibration, None)
    with pytest.raises(Conflict) as refused:
        committer.fit(TARGET, record(), [], lambda _: None, before=None)
    assert refused.value.code == CALIBRATED_MEANWHILE
    other = dataclasses.replace(calibration, score_percentile=95.0)
    with pytest.raises(Conflict):
        committer.fit(TARGET, record(), [], lambda _: None, before=other)
    # By the same rules it is what another fit's recalibration leaves behind.
    same = dataclasses.replace(calibration, calibrated_at="2025-01-01T00:00:00.000Z", threshold=0.4)
    again, _, _ = committer.fit(TARGET, record(), [], lambda _: None, before=same)
    assert again.metadata.generation == metadata.generation + 1


def test_an_index_that_an_interrupted_commit_left_staged_outlives_a_failed_one(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    banks = BankStore(store)
    committer = Committer(store, RecipeStore(store), banks, CalibrationStore(store), DatasetStore(store))
    committer.fit(TARGET, indexed(b"first"), [], lambda _: None, index=b"first")
    committer.fit(TARGET, indexed(b"second"), [], lambda _: None, index=b"second")
    place = tmp_path / f"{TARGET.stem}_index.faiss"
    staged = place.with_name(place.name.replace("_index", "_next_index"))
    # As a process leaves it that ends between the commit and the index's move to its place.
    place.rename(staged)
    place.write_bytes(b"first")
    larger = dataclasses.replace(indexed(b"third"), embeddings=np.zeros((50_000, 8), np.float16))
    with full_disk_beyond(4096), pytest.raises(StoreUnavailable):
        committer.fit(TARGET, larger, [], lambda _: None, index=b"third")
    assert banks.read(TARGET).metadata.index == indexed(b"second").metadata.index
    assert (place.read_bytes(), staged.exists()) == (b"second", False)
    with full_disk_beyond(4096), pytest.raises(StoreUnavailable):
        committer.fit(TARGET, indexed(b"-" * 5000), [], lambda _: None, index=b"-" * 5000)
    assert set(banks.indexes(TARGET)) == {b"second"}


def test_an_index_that_cannot_be_moved_after_the_commit_is_moved_by_the_next_one(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    banks = BankStore(store)
    committer = Committer(store, RecipeStore(store), banks, CalibrationStore(store), DatasetStore(store))
    place = tmp_path / f"{TARGET.stem}_index.faiss"
    (place / "in the way").mkdir(parents=True)
    committer.fit(TARGET, indexed(b"first"), [], lambda _: None, index=b"first")
    assert set(banks.indexes(TARGET)) == {b"first"}
    # While it cannot be moved, nothing may be staged over it.
    with pytest.raises(StoreUnavailable):
        committer.fit(TARGET, indexed(b"second"), [], lambda _: None, index=b"second")
    assert set(banks.indexes(TARGET)) == {b"first"}
    (place / "in the way").rmdir()
    place.rmdir()
    committer.fit(TARGET, indexed(b"second"), [], lambda _: None, index=b"second")
    assert set(banks.indexes(TARGET)) == {b"second"}


def test_a_fit_that_cannot_commit_leaves_the_old_index(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    banks = BankStore(store)
    committer = Committer(store, RecipeStore(store), banks, CalibrationStore(store), DatasetStore(store))
    committer.fit(TARGET, record(), [], lambda _: None, index=b"first")
    bank = tmp_path / f"{TARGET.stem}.npz"
    bank.unlink()
    # What cannot be replaced by a file.
    (bank / "in the way").mkdir(parents=True)
    with pytest.raises(StoreUnavailable):
        committer.fit(TARGET, record(), [], lambda _: None, index=b"second")
    assert set(banks.indexes(TARGET)) == {b"first"}
