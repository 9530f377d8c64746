"""The twin keeps what a client can see."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import FeatureContractBroken, NotFound
from orchestrator.twin.repository import build_twin, read_config
from tests.triton_fixtures import copy_repository


def build(shipped: Path, target: Path) -> Path:
    build_twin(shipped, ["tiny"], target, stub_packages=Path("/nowhere"), threads=3)
    return target / "tiny"


def test_the_contract_is_the_shipped_one(tiny_repository: Path, tmp_path: Path) -> None:
    shipped = read_config(tiny_repository / "tiny")
    twin = read_config(build(tiny_repository, tmp_path / "twin"))
    assert twin.backend == "python"
    for field in ("name", "max_batch_size", "input", "output", "version_policy", "model_warmup"):
        assert getattr(twin, field) == getattr(shipped, field), field
    batching = twin.dynamic_batching
    assert batching.priority_levels == shipped.dynamic_batching.priority_levels == 2
    assert batching.default_queue_policy == shipped.dynamic_batching.default_queue_policy
    for level in (1, 2):
        policy = batching.priority_queue_policy[level]
        assert policy == shipped.dynamic_batching.priority_queue_policy[level]
        assert policy.max_queue_size > 0
    for key, parameter in shipped.parameters.items():
        assert twin.parameters[key] == parameter


def test_the_graph_is_the_shipped_file_itself(tiny_repository: Path, tmp_path: Path) -> None:
    model = build(tiny_repository, tmp_path / "twin")
    for version in ("1", "2"):
        assert (model / version / "model.onnx").samefile(tiny_repository / "tiny" / version / "model.onnx")


def test_only_the_listed_versions_are_served(tiny_repository: Path, tmp_path: Path) -> None:
    def list_the_second(config: object) -> None:
        config.version_policy.specific.versions[:] = [2]  # type: ignore[attr-defined]

    shipped = copy_repository(tiny_repository, tmp_path / "shipped", list_the_second)
    model = build(shipped, tmp_path / "twin")
    assert [entry.name for entry in model.iterdir() if entry.is_dir()] == ["2"]


def test_a_listed_version_without_a_graph_is_not_found(tiny_repository: Path, tmp_path: Path) -> None:
    shipped = copy_repository(tiny_repository, tmp_path / "shipped")
    (shipped / "tiny" / "2" / "model.onnx").unlink()
    with pytest.raises(NotFound, match="version 2"):
        build(shipped, tmp_path / "twin")


def test_a_config_that_is_not_one_is_a_broken_contract(tiny_repository: Path, tmp_path: Path) -> None:
    shipped = copy_repository(tiny_repository, tmp_path / "shipped")
    (shipped / "tiny" / "config.pbtxt").write_text("name = tiny")
    with pytest.raises(FeatureContractBroken):
        build(shipped, tmp_path / "twin")


def test_the_shipped_repository_is_only_read(tiny_repository: Path, tmp_path: Path) -> None:
    shipped = copy_repository(tiny_repository, tmp_path / "shipped")
    before = {path: path.stat().st_mtime_ns for path in shipped.rglob("*")}
    build(shipped, tmp_path / "twin")
    assert {path: path.stat().st_mtime_ns for path in shipped.rglob("*")} == before
