"""The reader of the model repository."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from orchestrator.errors import FeatureContractBroken, NotFound
from orchestrator.features.repository import ModelRepository
from tests.triton_fixtures import copy_repository


@pytest.fixture
def models(tiny_repository: Path, tmp_path: Path) -> ModelRepository:
    return ModelRepository(copy_repository(tiny_repository, tmp_path / "repository"))


def test_the_highest_version_is_meant_where_none_is_named(models: ModelRepository) -> None:
    assert models.names() == ["tiny"]
    assert models.versions("tiny") == [1, 2]
    assert models.spec("tiny") == models.spec("tiny", 2)
    assert models.spec("tiny", 1) != models.spec("tiny", 2)


def test_a_new_version_is_seen_at_once(models: ModelRepository) -> None:
    assert models.spec("tiny").version == 2
    third = models.root / "tiny" / "10"
    shutil.copytree(models.root / "tiny" / "1", third)
    manifest = json.loads((third / "manifest.json").read_text())
    (third / "manifest.json").write_text(json.dumps({**manifest, "version": 10, "fingerprint": "a" * 64}))
    assert models.spec("tiny").version == 10
    assert models.find("a" * 64) == models.spec("tiny", 10)


def test_a_rewritten_manifest_is_read_again(models: ModelRepository) -> None:
    path = models.root / "tiny" / "1" / "manifest.json"
    assert models.spec("tiny", 1).reason is None
    path.write_text(json.dumps({**json.loads(path.read_text()), "reason": "the hub is out of reach"}))
    assert models.spec("tiny", 1).reason == "the hub is out of reach"


def test_an_unchanged_manifest_is_parsed_once(models: ModelRepository) -> None:
    assert models.spec("tiny", 1) is models.spec("tiny", 1)


def test_a_version_is_found_by_its_fingerprint(models: ModelRepository) -> None:
    assert models.find(models.spec("tiny", 1).fingerprint) == models.spec("tiny", 1)
    assert models.find("0" * 64) is None


@pytest.mark.parametrize(
    ("name", "version"), [("tiny", 3), ("absent", None), ("../tiny", 1), ("", None), ("tiny/1", 1)]
)
def test_what_is_not_there_is_not_found(models: ModelRepository, name: str, version: int | None) -> None:
    with pytest.raises(NotFound):
        models.spec(name, version)


def test_an_absent_repository_is_empty(tmp_path: Path) -> None:
    models = ModelRepository(tmp_path / "absent")
    assert models.names() == []
    assert models.find("0" * 64) is None
    with pytest.raises(NotFound, match="export"):
        models.spec("tiny")


@pytest.mark.parametrize("content", ["not json", "[]", "{}", '{"schema": 99}'])
def test_an_unreadable_manifest_is_a_broken_contract(models: ModelRepository, content: str) -> None:
    (models.root / "tiny" / "2" / "manifest.json").write_text(content)
    with pytest.raises(FeatureContractBroken):
        models.spec("tiny", 2)


def test_a_manifest_of_another_version_is_a_broken_contract(models: ModelRepository) -> None:
    shutil.copy(models.root / "tiny" / "1" / "manifest.json", models.root / "tiny" / "2" / "manifest.json")
    with pytest.raises(FeatureContractBroken, match="describes tiny/1"):
        models.spec("tiny", 2)


def test_a_graph_that_is_gone_is_not_found(models: ModelRepository) -> None:
    spec = models.spec("tiny")
    models.model_path(spec).unlink()
    with pytest.raises(NotFound):
        models.model_path(spec)


def test_a_folder_without_a_manifest_is_no_version(models: ModelRepository) -> None:
    (models.root / "tiny" / "3").mkdir()
    (models.root / "tiny" / ".staging-1").mkdir()
    assert models.versions("tiny") == [1, 2]
