from __future__ import annotations

import asyncio
import resource
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest

from orchestrator.domain.drift import DriftState, DriftTrack, Rules, Stream
from orchestrator.domain.identity import Target
from orchestrator.errors import DatabaseUnavailable, NotFound
from orchestrator.services import drift, replays
from orchestrator.services.drift import Counted, DriftMonitor
from orchestrator.storage.database import Database, embedded
from orchestrator.storage.verdicts import JudgedPart, VerdictLog

STREAM = Stream(Target.of("default", "Top", "bore"), 1, "then")
RULES = Rules(0.01, 0)


class Process:
    """What one process has: a database of its own on the shared file, and a monitor."""

    def __init__(self, root: Path) -> None:
        self.database = Database(embedded(root))
        self.states: list[DriftState] = []
        self.monitor = DriftMonitor(VerdictLog(self.database, RULES), self.states.append)

    async def count(self, request_id: int | str, score: float) -> Counted | None:
        return await self.monitor.record(STREAM, JudgedPart(str(request_id), 0, score, None, None))


def normal(count: int, *, seed: int = 0, shift: float = 0.0) -> list[float]:
    values: list[float] = (np.random.default_rng(seed).normal(size=count) + shift).tolist()
    return values


def test_processes_that_take_turns_give_what_one_would(tmp_path: Path) -> None:
    scores = normal(90) + normal(40, seed=1, shift=2.0)

    async def run() -> tuple[list[Counted | None], list[DriftState]]:
        processes = [Process(tmp_path) for _ in range(3)]
        turns = np.random.default_rng(2).integers(0, 3, len(scores))
        counted = [await processes[turn].count(i, scores[i]) for i, turn in enumerate(turns)]
        states = [await p.monitor.state(STREAM) for p in processes]
        for process in processes:
            await process.database.close()
        return counted, states

    counted, states = asyncio.run(run())
    alone = DriftTrack(STREAM, 0, RULES)
    alone.extend(scores)
    assert [c.point for c in counted if c] == alone.tail(len(scores))
    assert states == [alone.state()] * 3
    assert alone.state().alarm_at is not None


def test_requests_at_the_same_time_and_requests_sent_again_agree_with_the_log(tmp_path: Path) -> None:
    async def run() -> None:
        process = Process(tmp_path)
        await process.monitor.check(budget_s=20)
        first = await asyncio.gather(*(process.count(i, s) for i, s in enumerate(normal(80))))
        again = await asyncio.gather(*(process.count(i, 9.9) for i in range(80)))
        assert first == again
        found = [c for c in first if c]
        assert sorted(c.sequence for c in found) == list(range(1, 81))
        replayed = DriftTrack(STREAM, 0, RULES)
        replayed.extend(c.score for c in sorted(found, key=lambda c: c.sequence))
        assert await process.monitor.state(STREAM) == replayed.state() == process.states[-1]
        await process.database.close()

    asyncio.run(run())


def test_a_process_that_starts_late_replays_what_it_has_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "CHUNK", 7)

    async def run() -> None:
        early, late = Process(tmp_path), Process(tmp_path)
        for i, score in enumerate(normal(70)):
            await early.count(i, score)
        ours, theirs = await late.count("late", 0.5), await early.count("late", 0.5)
        assert ours == theirs
        assert ours is not None
        assert (ours.sequence, ours.point is None) == (71, False)
        for process in (early, late):
            await process.database.close()

    asyncio.run(run())


def test_a_long_log_is_replayed_beside_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "CHUNK", 7)
    monkeypatch.setattr(drift, "IN_LINE", 20)

    async def run() -> None:
        early, late = Process(tmp_path), Process(tmp_path)
        for i, score in enumerate(normal(70)):
            await early.count(i, score)
        first = await late.count("late", 0.5)
        assert first is not None
        assert (first.sequence, first.point) == (71, None)
        for _ in range(1000):
            again = await late.count("late", 0.5)
            if again is None or again.point is not None:
                break
            await asyncio.sleep(0.01)
        assert again == await early.count("late", 0.5)
        for process in (early, late):
            await process.monitor.close()
            await process.database.close()

    asyncio.run(run())


def test_a_reset_begins_a_new_reference_for_every_process(tmp_path: Path) -> None:
    async def run() -> None:
        one, other = Process(tmp_path), Process(tmp_path)
        for i, score in enumerate(normal(70) + normal(20, shift=9.0)):
            await one.count(i, score)
        assert (await other.monitor.state(STREAM)).phase == "alarm"
        assert (await other.monitor.reset(STREAM)).phase == "reference"
        counted = await one.count("next", 0.5)
        assert counted is not None
        assert (counted.epoch, counted.sequence) == (1, 1)
        state, points = await other.monitor.history(STREAM, 10)
        assert (state.epoch, state.parts, [p.score for p in points]) == (1, 1, [0.5])
        for process in (one, other):
            await process.database.close()

    asyncio.run(run())


def test_a_reset_frees_what_it_ends_and_an_old_part_sent_again_is_not_shown(tmp_path: Path) -> None:
    async def run() -> None:
        one, other = Process(tmp_path), Process(tmp_path)
        for i, score in enumerate(normal(70) + normal(20, shift=9.0)):
            await one.count(i, score)
        assert one.states[-1].alarm_at is not None
        await one.monitor.reset(STREAM)
        await one.count("next", 0.5)
        assert held(one) == 1
        for process in (one, other):
            # The other has neither seen the reset nor counted anything.
            again = await process.count(89, 0.0)
            assert again is not None
            assert (again.epoch, again.sequence, again.point and again.point.alarm) == (0, 90, True)
        assert (one.states[-1].epoch, one.states[-1].parts, other.states) == (1, 1, [])
        for process in (one, other):
            await process.database.close()

    asyncio.run(run())


def held(process: Process) -> int:
    kept = process.monitor._replays
    assert kept is not None
    return kept.parts


def test_what_is_held_in_memory_has_a_bound_also_while_no_stream_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "CACHE_PARTS", 100)
    monkeypatch.setattr(replays, "_LOOK_AGAIN", 10)

    async def run() -> None:
        process = Process(tmp_path)
        banks = [Stream(STREAM.target, generation, "then") for generation in range(3)]
        for i in range(180):
            part = JudgedPart(str(i), 0, float(i), None, None)
            await process.monitor.record(banks[i % 3], part)
        assert held(process) <= 110
        states = [await process.monitor.state(bank) for bank in banks]
        assert [s.parts for s in states] == [60] * 3
        await process.database.close()

    asyncio.run(run())


def test_a_long_log_is_replayed_in_slices_and_who_asks_does_not_wait_for_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "SLICE_S", -1.0)
    monkeypatch.setattr(drift, "BUDGET_S", 0.3)

    async def run() -> None:
        early, late = Process(tmp_path), Process(tmp_path)
        await early.monitor.check(budget_s=20)
        await late.monitor.check(budget_s=20)
        for i, score in enumerate(normal(20)):
            assert await early.count(i, score)
        with sqlite3.connect(tmp_path / "patchlight.db") as log:
            log.execute(
                "WITH RECURSIVE n(i) AS (SELECT 21 UNION ALL SELECT i + 1 FROM n WHERE i < 60000) "
                "INSERT INTO verdicts SELECT stream_id, epoch, i, 'r' || i, 0, i * 0.7 % 1, NULL, NULL, "
                "recorded_at FROM n, verdicts WHERE sequence = 1"
            )
        log.close()
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        beside = asyncio.create_task(others())
        with pytest.raises(DatabaseUnavailable, match="being replayed"):
            await late.monitor.state(STREAM)
        # Every part let the others run.
        assert 0 < held(late) <= turns
        beside.cancel()
        monkeypatch.setattr(replays, "SLICE_S", 0.005)
        for _ in range(3000):
            if held(late) == 60_000:
                break
            await asyncio.sleep(0.02)
        assert (await late.monitor.state(STREAM)).parts == 60_000
        for process in (early, late):
            await process.monitor.close()
            await process.database.close()

    asyncio.run(run())


def test_a_log_that_was_emptied_or_put_back_is_counted_in_from_its_own_end(tmp_path: Path) -> None:
    async def run() -> None:
        one, other = Process(tmp_path), Process(tmp_path)
        for process in (one, other):
            await process.count("first", 0.5)
        for i, score in enumerate(normal(5)):
            await one.count(i, score)
        await other.monitor.state(STREAM)
        with sqlite3.connect(tmp_path / "patchlight.db") as log:
            log.execute("DELETE FROM verdicts WHERE sequence > 2")
        # The sequence says so; what had been replayed of the lost parts is forgotten.
        counted = await one.count("after", 9.0)
        assert counted is not None
        assert (counted.sequence, counted.score, counted.point) == (3, 9.0, None)
        assert (await one.monitor.state(STREAM)).parts == 3
        for table in ("verdicts", "epochs", "streams"):
            log.execute(f"DELETE FROM {table}")
        log.commit()
        log.close()
        with pytest.raises(DatabaseUnavailable, match="lost"):
            await one.monitor.state(STREAM)
        assert (await one.monitor.state(STREAM)).parts == 0
        assert await other.count("again", 0.5) is None
        assert "lost" in (other.monitor.fault or "")
        await asyncio.sleep(drift.PAUSE_S)
        counted = await other.count("again", 0.5)
        assert counted is not None
        assert (counted.epoch, counted.sequence) == (0, 1)
        for process in (one, other):
            await process.database.close()

    asyncio.run(run())


def test_a_full_disk_is_told_until_something_can_be_written_again(tmp_path: Path) -> None:
    async def run() -> None:
        process = Process(tmp_path)
        assert await process.count("a", 0.1)
        size = (tmp_path / "patchlight.db-wal").stat().st_size
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            assert await process.count("b", 0.2) is None
            await asyncio.sleep(drift.PAUSE_S)
            await process.monitor.check()
            assert process.monitor.status == "unavailable"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        await asyncio.sleep(drift.PAUSE_S)
        await process.monitor.check()
        assert process.monitor.status == "on"
        counted = await process.count("b", 0.2)
        assert counted is not None
        assert counted.sequence == 2
        await process.database.close()

    asyncio.run(run())


def test_a_locked_database_costs_the_drift_and_never_more_than_a_second(tmp_path: Path) -> None:
    async def run() -> None:
        process = Process(tmp_path)
        assert await process.count("a", 0.1)
        assert process.monitor.status == "on"
        locker = sqlite3.connect(tmp_path / "patchlight.db", isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        assert await process.count("b", 0.2) is None
        waited = time.monotonic() - started
        # While it pauses, nobody waits at all.
        assert [await process.count(f"c{i}", 0.3) for i in range(50)] == [None] * 50
        assert time.monotonic() - started - waited < drift.PAUSE_S
        assert waited < drift.BUDGET_S + 1
        assert process.monitor.status == "unavailable"
        assert "locked" in (process.monitor.fault or "")
        locker.execute("ROLLBACK")
        locker.close()
        await asyncio.sleep(drift.PAUSE_S)
        counted = await process.count("b", 0.2)
        assert counted is not None
        assert (counted.sequence, process.monitor.status) == (2, "on")
        await process.database.close()

    asyncio.run(run())


def test_a_damaged_database_is_told_and_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "patchlight.db").write_bytes(b"no database" * 1000)

    async def run() -> None:
        process = Process(tmp_path)
        assert await process.count("a", 0.1) is None
        assert "not a database" in (process.monitor.fault or "")
        with pytest.raises(DatabaseUnavailable):
            await process.monitor.state(STREAM)
        await process.database.close()

    asyncio.run(run())


def test_a_score_that_is_no_number_is_not_counted(tmp_path: Path) -> None:
    async def run() -> None:
        process = Process(tmp_path)
        assert await process.count("a", float("nan")) is None
        assert process.monitor.status == "on"
        assert (await process.monitor.state(STREAM)).parts == 0
        await process.database.close()

    asyncio.run(run())


def test_switched_off_nothing_is_counted_and_asking_says_so() -> None:
    async def run() -> None:
        monitor = DriftMonitor(None)
        assert await monitor.record(STREAM, JudgedPart("a", 0, 0.5, None, None)) is None
        assert monitor.status == "off"
        with pytest.raises(NotFound, match="BDI_DRIFT"):
            await monitor.state(STREAM)

    asyncio.run(run())
