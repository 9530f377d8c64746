"""What a process takes it gives back: when it stops, when a part of it fails to stop, when it never got to start."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest
import threadpoolctl

from orchestrator.app import create_app
from orchestrator.errors import GpuUnavailable
from orchestrator.features.onnx import OnnxExtractor
from orchestrator.features.repository import ModelRepository
from orchestrator.settings import Settings
from tests.fakes import HeldExtractor


class ClosedExtractor(HeldExtractor):
    """Tells whether it was closed. fails: to close at all."""

    def __init__(self, repository: Path, *, fails: bool = False) -> None:
        super().__init__(OnnxExtractor(ModelRepository(repository), threads=1), held=False)
        self.closed = False
        self._fails = fails

    async def close(self) -> None:
        """Close, or fail to."""
        await super().close()
        self.closed = True
        if self._fails:
            raise OSError("the other side is gone")


def limits() -> tuple[int, set[int]]:
    blas = {int(i["num_threads"]) for i in threadpoolctl.threadpool_info() if i["user_api"] == "blas"}
    return cv2.getNumThreads(), blas


@pytest.fixture(autouse=True)
def _several_threads() -> Iterator[None]:
    # Each library that brings a BLAS of its own, so that none comes while limits are compared.
    importlib.import_module("faiss")
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        yield
    cv2.setNumThreads(before)


def test_a_start_that_is_cut_off_gives_everything_back(settings: Settings, tiny_repository: Path) -> None:
    before, extractor = limits(), ClosedExtractor(tiny_repository)
    app = create_app(settings, extractor=extractor)

    async def start() -> None:
        async with app.router.lifespan_context(app):
            raise AssertionError("it started")

    async def cut_off() -> None:
        starting = asyncio.create_task(start())
        while not hasattr(app.state, "runtime"):  # noqa: ASYNC110
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    asyncio.run(cut_off())
    assert (extractor.closed, limits()) == (True, before)


def test_what_fails_to_close_keeps_nothing_else_open(settings: Settings, tiny_repository: Path) -> None:
    before, extractor = limits(), ClosedExtractor(tiny_repository, fails=True)
    app = create_app(settings, extractor=extractor)

    async def serve() -> None:
        async with app.router.lifespan_context(app):
            assert limits()[0] == 1

    with pytest.raises(OSError, match="the other side is gone"):
        asyncio.run(serve())
    assert (extractor.closed, limits()) == (True, before)


def test_a_process_that_lacks_its_gpu_limits_nothing(make_settings: Callable[..., Settings]) -> None:
    before = limits()
    app = create_app(make_settings(search_device="gpu"))

    async def serve() -> None:
        async with app.router.lifespan_context(app):
            raise AssertionError("it started")

    with pytest.raises(GpuUnavailable):
        asyncio.run(serve())
    assert limits() == before
