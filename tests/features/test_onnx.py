"""The in-process extractor: what it loads, and what it refuses to."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator.errors import FeatureContractBroken, FeaturesUnavailable
from orchestrator.features.onnx import OnnxExtractor
from orchestrator.features.repository import ModelRepository
from tests.triton_fixtures import THREADS, call, copy_repository, draw_images


@pytest.fixture
def models(tiny_repository: Path, tmp_path: Path) -> ModelRepository:
    return ModelRepository(copy_repository(tiny_repository, tmp_path / "repository"))


def test_a_graph_that_was_tampered_with_is_not_run(models: ModelRepository) -> None:
    spec = models.spec("tiny", 1)
    models.model_path(spec).write_bytes(models.model_path(models.spec("tiny", 2)).read_bytes())

    async def run() -> None:
        extractor = OnnxExtractor(models, threads=THREADS)
        with pytest.raises(FeatureContractBroken, match="manifest"):
            await extractor.extract(draw_images(1), spec, call())
        assert not await extractor.is_ready(spec)
        await extractor.close()

    asyncio.run(run())


def test_a_graph_that_comes_back_is_loaded_without_a_restart(models: ModelRepository) -> None:
    spec = models.spec("tiny", 1)
    graph = models.model_path(spec).read_bytes()
    models.model_path(spec).unlink()

    async def run() -> None:
        extractor = OnnxExtractor(models, threads=THREADS)
        with pytest.raises(FeaturesUnavailable):
            await extractor.extract(draw_images(1), spec, call())
        (models.root / "tiny" / "1" / "model.onnx").write_bytes(graph)
        assert (await extractor.extract(draw_images(1), spec, call())).shape == (1, 64, spec.dim)
        await extractor.close()

    asyncio.run(run())


def test_a_loaded_graph_no_longer_needs_its_file(models: ModelRepository) -> None:
    spec = models.spec("tiny", 1)

    async def run() -> None:
        extractor = OnnxExtractor(models, threads=THREADS)
        assert await extractor.is_ready(spec)
        models.model_path(spec).unlink()
        assert (await extractor.extract(draw_images(9), spec, call())).shape == (9, 64, spec.dim)
        await extractor.close()

    asyncio.run(run())
