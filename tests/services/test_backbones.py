"""Which backbone is in force, over real exported versions."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain.bank import BankRecord
from orchestrator.errors import BackboneMismatch, BackboneVersionGone, FeaturesUnavailable
from orchestrator.features.repository import ModelRepository
from orchestrator.services.backbones import Backbones
from orchestrator.storage.choice import ChoiceStore
from orchestrator.storage.files import FileStore
from tests.storage.test_banks import record


def backbones(tmp_path: Path, repository: Path, wanted: str | None = None) -> Backbones:
    choices = ChoiceStore(FileStore(tmp_path / "data"))
    return Backbones(ModelRepository(repository), choices, wanted=wanted, legacy=None)


@pytest.fixture
def repository(tiny_repository: Path, tmp_path: Path) -> Path:
    """Give a repository to be changed."""
    return Path(shutil.copytree(tiny_repository, tmp_path / "repository"))


def test_the_choice_of_a_data_root_stands_though_a_newer_version_comes(
    tmp_path: Path, repository: Path
) -> None:
    newer = repository / "tiny" / "2"
    newer.rename(tmp_path / "kept")
    assert backbones(tmp_path, repository, "tiny").settle().version == 1
    (tmp_path / "kept").rename(newer)
    assert backbones(tmp_path, repository, "tiny").settle().version == 1
    assert backbones(tmp_path / "fresh", repository, "tiny").settle().version == 2


def test_a_version_that_is_gone_is_replaced_only_on_request(tmp_path: Path, repository: Path) -> None:
    assert backbones(tmp_path, repository, "tiny").settle().version == 2
    shutil.rmtree(repository / "tiny" / "2")
    with pytest.raises(FeaturesUnavailable, match="BDI_BACKBONE"):
        backbones(tmp_path, repository).settle()
    assert backbones(tmp_path, repository, "tiny").settle().version == 1


def test_an_empty_repository_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FeaturesUnavailable, match="export"):
        backbones(tmp_path, tmp_path / "none").settle()
    with pytest.raises(FeaturesUnavailable, match="--backbone tiny"):
        backbones(tmp_path, tmp_path / "none", "tiny").settle()


def test_a_bank_is_asked_with_its_own_version_or_not_at_all(tmp_path: Path, repository: Path) -> None:
    chosen = backbones(tmp_path, repository, "tiny")
    assert chosen.settle().version == 2
    older = ModelRepository(repository).spec("tiny", 1)

    def bank(**changes: Any) -> BankRecord:
        made = record()
        return dataclasses.replace(made, metadata=dataclasses.replace(made.metadata, **changes))

    assert chosen.for_bank(bank(fingerprint=older.fingerprint)).version == 1
    with pytest.raises(BackboneMismatch, match="fit_ok"):
        chosen.for_bank(bank(backbone="dinov2_vits14"))
    with pytest.raises(BackboneVersionGone, match="fit_ok"):
        chosen.for_bank(bank())
