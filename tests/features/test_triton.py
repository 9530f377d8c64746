"""The Triton extractor against a real Triton: back-pressure, priorities, loss and return of the server."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from orchestrator.domain.backbone import BackboneSpec
from orchestrator.errors import (
    DeadlineExceeded,
    FeatureContractBroken,
    FeaturesUnavailable,
    PatchlightError,
)
from orchestrator.features.base import Priority
from orchestrator.features.onnx import OnnxExtractor
from orchestrator.features.repository import ModelRepository
from orchestrator.features.triton import TritonExtractor
from orchestrator.twin.process import TritonServer
from orchestrator.twin.serving import serve_repository
from tests.triton_fixtures import THREADS, call, copy_repository, draw_images, stubs_of


@pytest.fixture
def spec(tiny_models: ModelRepository) -> BackboneSpec:
    return tiny_models.spec("tiny", 1)


def with_extractor(url: str, use: Callable[[TritonExtractor], Awaitable[None]], **options: int) -> None:
    async def run() -> None:
        extractor = TritonExtractor(url, **options)
        try:
            await use(extractor)
        finally:
            await extractor.close()

    asyncio.run(run())


@contextmanager
def frozen(processes: list[psutil.Process]) -> Iterator[None]:
    """Stop the graphs while Triton itself goes on, so that its queue fills."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


async def outcome(work: Coroutine[Any, Any, Any]) -> str:
    try:
        await work
    except PatchlightError as error:
        return type(error).__name__
    return "ok"


def test_both_extractors_give_the_same_tokens(
    triton: TritonServer, tiny_models: ModelRepository, spec: BackboneSpec
) -> None:
    images = draw_images(20, seed=3)

    async def compare(extractor: TritonExtractor) -> None:
        reference = OnnxExtractor(tiny_models, threads=THREADS)
        served = await extractor.extract(images, spec, call())
        computed = await reference.extract(images, spec, call())
        await reference.close()
        np.testing.assert_allclose(served.astype(np.float32), computed.astype(np.float32), atol=1e-3)

    with_extractor(triton.grpc_url, compare)


def test_an_extractor_follows_its_caller_to_another_event_loop(
    triton: TritonServer, spec: BackboneSpec
) -> None:
    extractor = TritonExtractor(triton.grpc_url)
    for _ in range(2):
        tokens = asyncio.run(extractor.extract(draw_images(1), spec, call()))
        assert tokens.shape == (1, 64, spec.dim)


def test_a_call_right_behind_another_does_not_wait_for_a_third(
    triton: TritonServer, spec: BackboneSpec
) -> None:
    """Triton's batcher naps for 500 ms then, unless the installed copy is patched."""

    async def second_after(gap_s: float, extractor: TritonExtractor) -> float:
        async def timed(delay_s: float, count: int) -> float:
            await asyncio.sleep(delay_s)
            started = time.monotonic()
            await extractor.extract(draw_images(count), spec, call())
            return time.monotonic() - started

        return (await asyncio.gather(timed(0, 8), timed(gap_s, 1)))[1]

    async def check(extractor: TritonExtractor) -> None:
        waits = [await second_after(gap_s, extractor) for gap_s in (0.001, 0.002, 0.003) * 8]
        assert max(waits) < 0.4

    with_extractor(triton.grpc_url, check)


def test_a_full_queue_is_overload_at_once(
    tiny_repository: Path, triton_home: Path, tmp_path: Path, spec: BackboneSpec
) -> None:
    def shorten_queues(config: Any) -> None:
        config.dynamic_batching.default_queue_policy.max_queue_size = 1
        for level in (1, 2):
            config.dynamic_batching.priority_queue_policy[level].max_queue_size = 1

    repository = copy_repository(tiny_repository, tmp_path / "repository", shorten_queues)

    async def overload(extractor: TritonExtractor) -> None:
        await extractor.extract(draw_images(1), spec, call())
        with frozen(stubs_of(server)):
            calls = [
                asyncio.create_task(outcome(extractor.extract(draw_images(8), spec, call())))
                for _ in range(8)
            ]
            refused, _ = await asyncio.wait(calls, timeout=1.0)
        assert [call.result() for call in refused] == ["Overloaded"] * len(refused)
        assert len(refused) >= 4
        assert {await call for call in calls} == {"ok", "Overloaded"}

    with serve_repository(repository, ["tiny"], triton_home=triton_home, threads=THREADS) as server:
        with_extractor(server.grpc_url, overload)


def test_too_long_in_the_queue_is_unavailable(
    tiny_repository: Path, triton_home: Path, tmp_path: Path, spec: BackboneSpec
) -> None:
    def limit_waiting(config: Any) -> None:
        for level in (1, 2):
            config.dynamic_batching.priority_queue_policy[level].default_timeout_microseconds = 100_000

    repository = copy_repository(tiny_repository, tmp_path / "repository", limit_waiting)

    async def wait_in_vain(extractor: TritonExtractor) -> None:
        await extractor.extract(draw_images(1), spec, call())
        with frozen(stubs_of(server)):
            running = asyncio.create_task(outcome(extractor.extract(draw_images(8), spec, call())))
            await asyncio.sleep(0.1)
            queued = asyncio.create_task(outcome(extractor.extract(draw_images(8), spec, call())))
            await asyncio.sleep(0.5)
        assert await queued == "FeaturesUnavailable"
        assert await running == "ok"

    with serve_repository(repository, ["tiny"], triton_home=triton_home, threads=THREADS) as server:
        with_extractor(server.grpc_url, wait_in_vain)


def test_an_inspection_goes_before_fits_that_came_first(own_triton: TritonServer, spec: BackboneSpec) -> None:
    finished: list[str] = []

    async def ask(extractor: TritonExtractor, name: str, count: int, priority: Priority) -> None:
        await extractor.extract(draw_images(count), spec, call(priority=priority))
        finished.append(name)

    async def crowd(extractor: TritonExtractor) -> None:
        await ask(extractor, "warm", 1, Priority.INSPECT)
        with frozen(stubs_of(own_triton)):
            fits = [asyncio.create_task(ask(extractor, f"fit{i}", 8, Priority.FIT)) for i in range(6)]
            await asyncio.sleep(0.3)
            inspection = asyncio.create_task(ask(extractor, "inspection", 1, Priority.INSPECT))
            await asyncio.sleep(0.3)
        await asyncio.gather(inspection, *fits)

    with_extractor(own_triton.grpc_url, crowd)
    # One fit ran already, and one batch may have been formed before the inspection came.
    assert finished.index("inspection") <= 3


def test_a_hung_server_costs_a_call_its_deadline_and_readiness_a_second(
    own_triton: TritonServer, spec: BackboneSpec
) -> None:
    async def hang(extractor: TritonExtractor) -> None:
        await extractor.extract(draw_images(1), spec, call())
        own_triton.pause()
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await extractor.extract(draw_images(1), spec, call(1.0))
        assert 0.9 < time.monotonic() - started < 1.4
        started = time.monotonic()
        assert not await extractor.is_ready(spec)
        assert time.monotonic() - started < 1.1
        own_triton.resume()
        await extractor.extract(draw_images(1), spec, call())
        assert await extractor.is_ready(spec)

    with_extractor(own_triton.grpc_url, hang)


def test_a_killed_server_is_unavailable_within_a_second_and_found_again_within_one(
    own_triton: TritonServer, spec: BackboneSpec
) -> None:
    """Eight callers without pause, one extractor, killed and restarted twice."""
    log: list[tuple[float, float, str]] = []
    over = asyncio.Event()

    async def hammer(extractor: TritonExtractor) -> None:
        while not over.is_set():
            started = time.monotonic()
            result = await outcome(extractor.extract(draw_images(1), spec, call(5.0)))
            log.append((time.monotonic(), time.monotonic() - started, result))
            if result != "ok":
                await asyncio.sleep(0.05)

    async def kill_and_restart(extractor: TritonExtractor) -> None:
        callers = [asyncio.create_task(hammer(extractor)) for _ in range(8)]
        for _ in range(2):
            await asyncio.sleep(0.5)
            killed = time.monotonic()
            await asyncio.to_thread(own_triton.kill)
            await asyncio.sleep(1.0)
            await asyncio.to_thread(own_triton.restart)
            ready = time.monotonic()
            await asyncio.sleep(1.2)
            failures = [(took, result) for at, took, result in log if at > killed and result != "ok"]
            assert failures
            assert {result for _, result in failures} == {"FeaturesUnavailable"}
            assert max(took for took, _ in failures) < 1.0
            assert any(ready - 1 < at < ready + 1.0 and result == "ok" for at, _, result in log)
        over.set()
        await asyncio.gather(*callers)

    with_extractor(own_triton.grpc_url, kill_and_restart)


def test_a_single_poller_sees_the_server_back_within_a_second(
    own_triton: TritonServer, spec: BackboneSpec
) -> None:
    async def poll(extractor: TritonExtractor) -> None:
        await extractor.extract(draw_images(1), spec, call())
        await asyncio.to_thread(own_triton.kill)
        restart = asyncio.create_task(asyncio.to_thread(own_triton.restart))
        ready = 0.0
        while await outcome(extractor.extract(draw_images(1), spec, call(2.0))) != "ok":
            if restart.done() and ready == 0.0:
                ready = time.monotonic()
            assert ready == 0.0 or time.monotonic() - ready < 1.0
            await asyncio.sleep(0.05)
        await restart

    with_extractor(own_triton.grpc_url, poll)


def test_another_model_behind_the_same_address_is_noticed(
    own_triton: TritonServer, spec: BackboneSpec, tmp_path: Path
) -> None:
    """The restarted server has other weights under the same name and version."""

    async def replace(extractor: TritonExtractor) -> None:
        await extractor.extract(draw_images(1), spec, call())
        own_triton.kill()
        model = tmp_path / "repository" / "tiny"
        shutil.copy(model / "2" / "model.onnx", model / "1" / "model.onnx")
        config = (model / "config.pbtxt").read_text()
        other = ModelRepository(tmp_path / "repository").spec("tiny", 2).fingerprint
        (model / "config.pbtxt").write_text(config.replace(spec.fingerprint, other))
        await asyncio.to_thread(own_triton.restart)
        outcomes: list[str] = []
        while outcomes[-1:] in ([], ["FeaturesUnavailable"]):
            outcomes.append(await outcome(extractor.extract(draw_images(1), spec, call())))
        assert set(outcomes) <= {"FeaturesUnavailable", "FeatureContractBroken"}
        assert not await extractor.is_ready(spec)

    with_extractor(own_triton.grpc_url, replace)


def test_a_server_that_was_never_there_is_unavailable_within_a_second(spec: BackboneSpec) -> None:
    async def ask(extractor: TritonExtractor) -> None:
        started = time.monotonic()
        with pytest.raises(FeaturesUnavailable):
            await extractor.extract(draw_images(1), spec, call())
        assert not await extractor.is_ready(spec)
        assert time.monotonic() - started < 1.0

    with_extractor("127.0.0.1:9", ask)


def test_an_answer_above_the_channel_s_limit_is_a_broken_contract(
    triton: TritonServer, spec: BackboneSpec
) -> None:
    async def ask(extractor: TritonExtractor) -> None:
        with pytest.raises(FeatureContractBroken, match="RESOURCE_EXHAUSTED"):
            await extractor.extract(draw_images(8), spec, call())

    with_extractor(triton.grpc_url, ask, max_receive_bytes=20_000)


def test_a_restricted_protocol_is_a_broken_contract(
    tiny_repository: Path, triton_home: Path, spec: BackboneSpec
) -> None:
    async def ask(extractor: TritonExtractor) -> None:
        with pytest.raises(FeatureContractBroken, match="restricted"):
            await extractor.extract(draw_images(1), spec, call())

    with serve_repository(
        tiny_repository,
        ["tiny"],
        triton_home=triton_home,
        threads=THREADS,
        extra_arguments=["--grpc-restricted-protocol=inference:admin-key=secret"],
    ) as server:
        with_extractor(server.grpc_url, ask)
