from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from orchestrator.domain.drift import Rules, Stream
from orchestrator.domain.identity import Target
from orchestrator.storage.database import Database, embedded
from orchestrator.storage.verdicts import Epoch, JudgedPart, Place, VerdictLog

T = TypeVar("T")
RULES = Rules(0.01, 0)
STREAM = Stream(Target.of("default", "Top", "bore"), 1, "2026-01-01T00:00:00.000Z", "law")


def part(request_id: str, score: float = 0.5, item: int = 0) -> JudgedPart:
    return JudgedPart(request_id, item, score, 0.7, "ok")


def using(root: Path, work: Callable[[VerdictLog], Awaitable[T]], rules: Rules = RULES) -> T:
    async def run() -> T:
        database = Database(embedded(root))
        try:
            return await work(VerdictLog(database, rules))
        finally:
            await database.close()

    return asyncio.run(run())


def test_parts_are_numbered_from_one_and_their_scores_come_back_to_the_bit(tmp_path: Path) -> None:
    scores = [0.1 + 0.2, 5e-324, 1.7976931348623157e308, 0.0, 1 / 3]

    async def work(log: VerdictLog) -> tuple[list[Place], list[float]]:
        stream = await log.open(STREAM)
        places = [await log.append(stream, "law", part(str(i), s)) for i, s in enumerate(scores)]
        return places, list(await log.read_after(stream, 0, 0, limit=99))

    places, read = using(tmp_path, work)
    assert places == [Place(0, i, s) for i, s in enumerate(scores, 1)]
    assert [s.hex() for s in read] == [s.hex() for s in scores]


def test_a_request_that_is_sent_again_keeps_its_place_and_score_even_after_a_reset(tmp_path: Path) -> None:
    async def work(log: VerdictLog) -> list[Place]:
        stream = await log.open(STREAM)
        places = [
            await log.append(stream, "law", part("a", 0.1)),
            await log.append(stream, "law", part("b", 0.2)),
        ]
        places.append(await log.append(stream, "law", part("a", 0.9)))
        places.append(await log.append(stream, "law", part("a", 0.3, item=1)))
        await log.reset(stream, "law")
        places.append(await log.append(stream, "law", part("b", 0.9)))
        places.append(await log.append(stream, "law", part("c", 0.4)))
        return places

    assert using(tmp_path, work) == [
        Place(0, 1, 0.1), Place(0, 2, 0.2), Place(0, 1, 0.1, again=True), Place(0, 3, 0.3),
        Place(0, 2, 0.2, again=True), Place(1, 1, 0.4),
    ]  # fmt: skip


def test_an_epoch_keeps_the_rules_that_it_began_with(tmp_path: Path) -> None:
    async def begin(log: VerdictLog) -> int:
        return await log.open(STREAM)

    async def later(log: VerdictLog) -> list[Epoch]:
        stream = await log.open(STREAM)
        before = await log.current(stream, "law")
        await log.reset(stream, "law")
        assert await log.epoch(stream, 0) == before
        return [before, await log.current(stream, "law")]

    using(tmp_path, begin, Rules(0.05, 7))
    assert using(tmp_path, later, Rules(0.01, 8)) == [
        Epoch(0, 0, Rules(0.05, 7)),
        Epoch(1, 1, Rules(0.01, 8)),
    ]


@pytest.mark.parametrize(
    "other",
    [
        replace(STREAM, generation=2),
        replace(STREAM, fitted_at="2026-01-02T00:00:00.000Z"),
        replace(STREAM, target=Target.of("other", "Top", "bore")),
        replace(STREAM, target=Target.of("default", "Top", "bore", "key")),
    ],
)
def test_another_bank_is_another_stream(tmp_path: Path, other: Stream) -> None:
    async def work(log: VerdictLog) -> tuple[Place, int | None]:
        await log.append(await log.open(STREAM), "law", part("a"))
        assert await log.find(other) is None
        return await log.append(await log.open(other), "law", part("a")), await log.find(other)

    place, number = using(tmp_path, work)
    assert place.sequence == 1
    assert number is not None


def test_processes_that_append_at_once_leave_no_hole_and_count_nothing_twice(tmp_path: Path) -> None:
    places: list[Place] = []
    failures: list[BaseException] = []
    start = threading.Barrier(4)

    def write(own: int) -> None:
        async def work(log: VerdictLog) -> None:
            # The stream itself is begun by all of them at once, too.
            stream = await log.open(STREAM)
            for i in range(40):
                # Every second request is sent by all of them.
                name = f"shared-{i}" if i % 2 else f"{own}-{i}"
                places.append(await log.append(stream, "law", part(name)))

        try:
            start.wait()
            using(tmp_path, work)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {p.sequence for p in places} == set(range(1, 4 * 20 + 20 + 1))
    assert len(places) == 4 * 40
