"""What every FeatureExtractor does, over every implementation."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from orchestrator.domain.arrays import HalfArray
from orchestrator.domain.backbone import BackboneSpec
from orchestrator.errors import DeadlineExceeded, FeatureContractBroken, FeaturesUnavailable
from orchestrator.features.base import FeatureExtractor
from orchestrator.features.onnx import OnnxExtractor
from orchestrator.features.repository import ModelRepository
from orchestrator.features.triton import TritonExtractor
from tests.fakes import HeldExtractor
from tests.triton_fixtures import THREADS, call, draw_images

MakeExtractor = Callable[[], FeatureExtractor]


@pytest.fixture(params=["triton", "onnxruntime", "held"])
def make_extractor(request: pytest.FixtureRequest, tiny_models: ModelRepository) -> MakeExtractor:
    if request.param == "triton":
        url = request.getfixturevalue("triton").grpc_url
        return lambda: TritonExtractor(url)
    if request.param == "held":
        return lambda: HeldExtractor(OnnxExtractor(tiny_models, threads=THREADS), held=False)
    return lambda: OnnxExtractor(tiny_models, threads=THREADS)


@pytest.fixture
def spec(tiny_models: ModelRepository) -> BackboneSpec:
    return tiny_models.spec("tiny", 1)


def extract(
    make: MakeExtractor, spec: BackboneSpec, images: np.ndarray, timeout_s: float = 20.0
) -> HalfArray:
    async def run() -> HalfArray:
        extractor = make()
        try:
            return await extractor.extract(images, spec, call(timeout_s))
        finally:
            await extractor.close()

    return asyncio.run(run())


def test_tokens_are_unit_length_halves_in_the_manifest_s_shape(
    make_extractor: MakeExtractor, spec: BackboneSpec
) -> None:
    tokens = extract(make_extractor, spec, draw_images(3))
    assert tokens.dtype == np.float16
    assert tokens.shape == (3, spec.grid[0] * spec.grid[1], spec.dim)
    np.testing.assert_allclose(np.linalg.norm(tokens.astype(np.float32), axis=-1), 1.0, atol=2e-3)


def test_tokens_are_those_of_the_graph_itself(
    make_extractor: MakeExtractor, spec: BackboneSpec, tiny_repository: Path
) -> None:
    images = draw_images(5)
    graph = onnxruntime.InferenceSession(str(tiny_repository / "tiny" / "1" / "model.onnx"))
    (expected,) = graph.run(None, {"image": images})
    np.testing.assert_allclose(
        extract(make_extractor, spec, images).astype(np.float32), expected.astype(np.float32), atol=1e-3
    )


def test_order_is_kept_when_a_batch_is_split(make_extractor: MakeExtractor, spec: BackboneSpec) -> None:
    images = draw_images(20)
    together = extract(make_extractor, spec, images).astype(np.float32)
    alone = np.concatenate([extract(make_extractor, spec, images[[i]]) for i in (0, 7, 8, 19)])
    np.testing.assert_allclose(together[[0, 7, 8, 19]], alone.astype(np.float32), atol=1e-3)


def test_callers_at_once_each_get_their_own_tokens(make_extractor: MakeExtractor, spec: BackboneSpec) -> None:
    images = draw_images(24)
    sizes = [1, 3, 1, 2, 8, 1, 1, 5, 2]
    parts = np.split(images, np.cumsum(sizes)[:-1])
    alone = extract(make_extractor, spec, images).astype(np.float32)

    async def run() -> list[HalfArray]:
        extractor = make_extractor()
        try:
            return await asyncio.gather(*(extractor.extract(part, spec, call()) for part in parts))
        finally:
            await extractor.close()

    np.testing.assert_allclose(np.concatenate(asyncio.run(run())).astype(np.float32), alone, atol=1e-3)


def test_an_older_version_answers_with_its_own_features(
    make_extractor: MakeExtractor, tiny_models: ModelRepository
) -> None:
    images = draw_images(2)
    older, newer = (
        extract(make_extractor, tiny_models.spec("tiny", version), images).astype(np.float32)
        for version in (1, 2)
    )
    assert np.abs(older - newer).max() > 0.05


def test_no_images_give_no_tokens(make_extractor: MakeExtractor, spec: BackboneSpec) -> None:
    assert extract(make_extractor, spec, draw_images(0)).shape == (0, 64, spec.dim)


@pytest.mark.parametrize("side", [56, 224])
def test_images_of_another_size_are_refused(
    make_extractor: MakeExtractor, spec: BackboneSpec, side: int
) -> None:
    with pytest.raises(FeatureContractBroken):
        extract(make_extractor, spec, draw_images(1, side=side))


def test_a_graph_that_takes_another_size_than_the_manifest_says_is_a_broken_contract(
    make_extractor: MakeExtractor, spec: BackboneSpec
) -> None:
    with pytest.raises(FeatureContractBroken):
        extract(make_extractor, dataclasses.replace(spec, input_size=(56, 56)), draw_images(1, side=56))


def test_tokens_of_another_shape_than_the_manifest_says_are_refused(
    make_extractor: MakeExtractor, spec: BackboneSpec
) -> None:
    with pytest.raises(FeatureContractBroken):
        extract(make_extractor, dataclasses.replace(spec, dim=spec.dim + 1), draw_images(1))


def test_features_of_another_fingerprint_are_never_used(
    make_extractor: MakeExtractor, spec: BackboneSpec
) -> None:
    with pytest.raises(FeatureContractBroken):
        extract(make_extractor, dataclasses.replace(spec, fingerprint="0" * 64), draw_images(1))


def test_a_missing_version_is_unavailable_within_a_second(
    make_extractor: MakeExtractor, spec: BackboneSpec
) -> None:
    started = time.monotonic()
    with pytest.raises(FeaturesUnavailable):
        extract(make_extractor, dataclasses.replace(spec, version=9), draw_images(1))
    assert time.monotonic() - started < 1.0


def test_a_call_without_time_is_past_its_deadline(make_extractor: MakeExtractor, spec: BackboneSpec) -> None:
    with pytest.raises(DeadlineExceeded):
        extract(make_extractor, spec, draw_images(8), timeout_s=0.0005)


def test_readiness_is_of_the_very_version(make_extractor: MakeExtractor, spec: BackboneSpec) -> None:
    asked = [
        spec,
        dataclasses.replace(spec, version=9),
        dataclasses.replace(spec, fingerprint="0" * 64),
        dataclasses.replace(spec, name="absent"),
    ]

    async def run() -> list[bool]:
        extractor = make_extractor()
        try:
            return [await extractor.is_ready(one) for one in asked]
        finally:
            await extractor.close()

    assert asyncio.run(run()) == [True, False, False, False]
