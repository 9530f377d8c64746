from __future__ import annotations

import asyncio

import pytest

from orchestrator.errors import Overloaded
from orchestrator.services.turns import Turns


def test_one_works_one_waits_and_a_third_is_refused_at_once() -> None:
    async def crowd() -> list[str]:
        turns, done, finish = Turns("calibrations", 1), list[str](), asyncio.Event()

        async def work(name: str) -> None:
            async with turns.take():
                await finish.wait()
                done.append(name)

        tasks = [asyncio.create_task(work(name)) for name in ("first", "second")]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="2 calibrations"):
            async with turns.take():
                done.append("third")
        finish.set()
        await asyncio.gather(*tasks)
        async with turns.take():
            done.append("later")
        return done

    assert asyncio.run(crowd()) == ["first", "second", "later"]
