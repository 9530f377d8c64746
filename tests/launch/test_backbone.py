from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from orchestrator.errors import FeaturesUnavailable
from orchestrator.features.repository import ModelRepository
from orchestrator.launch.backbone import prepare_backbone
from orchestrator.runtime import build_runtime
from orchestrator.settings import Settings, load_settings


def _settings(repository: Path, tmp_path: Path, **options: object) -> Settings:
    return load_settings(model_repository=repository, data_root=tmp_path / "data", **options)


def _other(repository: Path, tmp_path: Path) -> Path:
    """Copy the repository and add a backbone `other`, the same graph under another name."""
    copy = tmp_path / "repository"
    shutil.copytree(repository, copy)
    shutil.copytree(copy / "tiny", copy / "other")
    for path in (copy / "other").glob("*/manifest.json"):
        manifest = json.loads(path.read_text())
        path.write_text(
            json.dumps({**manifest, "name": "other", "fingerprint": manifest["fingerprint"][::-1]})
        )
    return copy


def _settle(settings: Settings) -> None:
    import asyncio

    async def settle() -> None:
        runtime = build_runtime(settings)
        runtime.backbones.settle()
        await runtime.close()

    asyncio.run(settle())


def test_a_named_backbone_is_used_as_it_lies_in_the_repository(tiny_repository: Path, tmp_path: Path) -> None:
    prepared = prepare_backbone(_settings(tiny_repository, tmp_path, backbone="tiny"), print)
    assert prepared.spec == ModelRepository(tiny_repository).spec("tiny")


def test_a_data_root_keeps_its_backbone_and_says_how_to_change_it(
    tiny_repository: Path, tmp_path: Path
) -> None:
    repository = _other(tiny_repository, tmp_path)
    _settle(_settings(repository, tmp_path, backbone="tiny"))
    prepared = prepare_backbone(_settings(repository, tmp_path), print)
    assert prepared.spec.name == "tiny"
    assert prepared.advice is not None
    assert "make run BACKBONE=" in prepared.advice


def test_naming_another_backbone_changes_the_data_root(tiny_repository: Path, tmp_path: Path) -> None:
    repository = _other(tiny_repository, tmp_path)
    _settle(_settings(repository, tmp_path, backbone="tiny"))
    _settle(_settings(repository, tmp_path, backbone="other"))
    assert prepare_backbone(_settings(repository, tmp_path), print).spec.name == "other"


def test_another_graph_under_the_chosen_name_is_refused(tiny_repository: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(tiny_repository, repository)
    _settle(_settings(repository, tmp_path, backbone="tiny"))
    for path in (repository / "tiny").glob("*/manifest.json"):
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps({**manifest, "fingerprint": "0" * 63 + path.parent.name}))
    with pytest.raises(FeaturesUnavailable, match="was fitted with tiny"):
        prepare_backbone(_settings(repository, tmp_path), print)


def test_random_weights_are_never_chosen_where_others_lie_beside_them(
    tiny_repository: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(tiny_repository, repository)
    manifest = repository / "tiny" / "1" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "weights": {**content["weights"], "source": "file"}}))
    assert ModelRepository(repository).spec("tiny").version == 2
    assert prepare_backbone(_settings(repository, tmp_path, backbone="tiny"), print).spec.version == 1


def test_a_new_data_root_is_not_given_random_weights_unasked(tiny_repository: Path, tmp_path: Path) -> None:
    with pytest.raises(FeaturesUnavailable, match="BDI_BACKBONE"):
        _settle(_settings(tiny_repository, tmp_path))
