from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator.errors import Overloaded
from orchestrator.services.gate import FitGate
from orchestrator.storage.activity import ActivityStore
from orchestrator.storage.files import FileStore


def test_fits_run_one_at_a_time_and_are_seen_waiting(tmp_path: Path) -> None:
    activity = ActivityStore(FileStore(tmp_path))

    async def run() -> None:
        gate, release, entered = FitGate(activity, 5), asyncio.Event(), 0

        async def fit() -> None:
            nonlocal entered
            async with gate.enter("a/b"):
                entered += 1
                await release.wait()

        tasks = [asyncio.create_task(fit()) for _ in range(3)]
        # What is waited for lies in the store.
        async with asyncio.timeout(30):
            while (activity.read().running, activity.read().waiting) != (1, 2):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert entered == 1
        release.set()
        await asyncio.gather(*tasks)
        assert (entered, activity.read().running, activity.read().waiting) == (3, 0, 0)

    asyncio.run(run())


@pytest.mark.parametrize("max_waiting", [0, 2])
def test_more_than_may_wait_are_refused_at_once(tmp_path: Path, max_waiting: int) -> None:
    async def run() -> None:
        gate, release = FitGate(ActivityStore(FileStore(tmp_path)), max_waiting), asyncio.Event()

        async def fit() -> None:
            async with gate.enter("a/b"):
                await release.wait()

        tasks = [asyncio.create_task(fit()) for _ in range(max_waiting + 4)]
        await asyncio.sleep(0.05)
        assert [type(t.exception()) for t in tasks if t.done()] == [Overloaded] * 3
        release.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with gate.enter("a/b"):
            pass

    asyncio.run(run())


def test_a_store_that_is_gone_holds_no_fit_up_and_a_cancelled_one_frees_its_place(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("a file")

    async def run() -> None:
        gate = FitGate(ActivityStore(FileStore(tmp_path / "root")), 0)
        for _ in range(3):
            async with gate.enter("a/b") as progress:
                assert progress.state == "running"

        async def forever() -> None:
            async with gate.enter("a/b"):
                await asyncio.Event().wait()

        task = asyncio.create_task(forever())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with gate.enter("a/b"):
            pass

    asyncio.run(run())
