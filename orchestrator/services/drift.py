"""Records every inspected part and tells whether the scores of its target have drifted.

The log of verdicts is the truth, shared by all processes; a process keeps what it has replayed of it. A database that
fails costs the answer its drift, never its verdict.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import structlog

from orchestrator.domain.drift import DriftPoint, DriftState, DriftTrack, Stream, countable
from orchestrator.errors import DatabaseUnavailable, NotFound
from orchestrator.storage.verdicts import JudgedPart, Place, VerdictLog

BUDGET_S = 1.0
PAUSE_S = 1.0
CHUNK = 2000
IN_LINE = 5 * CHUNK
CACHE_PARTS = 2_000_000
_MAX_STREAMS = 10_000

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Counted:
    """A part in its stream. point: None while this process still replays what came before."""

    epoch: int
    sequence: int
    score: float
    point: DriftPoint | None


@dataclass(slots=True)
class _Replay:
    track: DriftTrack
    turn: asyncio.Lock
    chase: asyncio.Task[None] | None = None


class DriftMonitor:
    """Counts parts. log: None switches everything off. observe: is told every state that changed."""

    def __init__(self, log: VerdictLog | None, observe: Callable[[DriftState], None] | None = None) -> None:
        self._log = log
        self._observe = observe or (lambda _: None)
        self._numbers: OrderedDict[Stream, int] = OrderedDict()
        self._replays: OrderedDict[tuple[int, int], _Replay] = OrderedDict()
        self._opening = asyncio.Lock()
        self._fault: str | None = None
        self._resume_at = 0.0

    @property
    def status(self) -> Literal["on", "off", "unavailable"]:
        """Whether parts are being counted by this process."""
        if self._log is None:
            return "off"
        return "on" if self._fault is None else "unavailable"

    @property
    def fault(self) -> str | None:
        """Why parts are not being counted; None where they are."""
        return self._fault

    async def record(self, stream: Stream, part: JudgedPart) -> Counted | None:
        """Count a judged part, within a second; None where drift is off or the database unavailable."""
        if self._log is None or not countable(part.score):
            return None
        started = time.monotonic()
        if started < self._resume_at:
            return None
        try:
            async with asyncio.timeout(BUDGET_S):
                number = await self._number(self._log, stream)
                place = await self._log.append(number, part)
                replay = await self._replay(self._log, stream, number, place.epoch)
        except (DatabaseUnavailable, TimeoutError) as error:
            self._failed(error)
            return None
        if self._fault is not None:
            _log.info("drift.available")
            self._fault = None
        return await self._counted(self._log, number, replay, place, started + BUDGET_S)

    async def state(self, stream: Stream) -> DriftState:
        """Give the state after all parts of all processes.

        Raises NotFound where drift is off, DatabaseUnavailable.
        """
        return (await self._current(stream)).state()

    async def history(self, stream: Stream, count: int) -> tuple[DriftState, list[DriftPoint]]:
        """Give the state, and the last `count` points, oldest first.

        Raises as `state`.
        """
        track = await self._current(stream)
        return track.state(), track.tail(count)

    async def reset(self, stream: Stream) -> DriftState:
        """Forget the reference and the alarm: the next part is number one of a new epoch.

        Raises as `state`.
        """
        log = self._switched_on()
        try:
            async with asyncio.timeout(BUDGET_S):
                number = await self._number(log, stream)
                await log.begin_epoch(number)
        except TimeoutError as error:
            raise _late() from error
        return await self.state(stream)

    async def check(self, *, budget_s: float = BUDGET_S) -> None:
        """Look whether the database answers, so that `status` does not wait for the next part.

        The first look brings its schema up to date.
        """
        if self._log is None or time.monotonic() < self._resume_at:
            return
        try:
            async with asyncio.timeout(budget_s):
                await self._log.check(writes=self._fault is not None)
        except (DatabaseUnavailable, TimeoutError) as error:
            self._failed(error)
        else:
            self._fault = None

    async def close(self) -> None:
        """Give up what is being replayed."""
        chases = [r.chase for r in self._replays.values() if r.chase is not None]
        for chase in chases:
            chase.cancel()
        await asyncio.gather(*chases, return_exceptions=True)

    async def _current(self, stream: Stream) -> DriftTrack:
        log = self._switched_on()
        try:
            async with asyncio.timeout(BUDGET_S):
                number = self._numbers.get(stream) or await log.find(stream)
                if number is None:
                    empty = DriftTrack(stream, 0, log.rules)
                    self._observe(empty.state())
                    return empty
                epoch, _ = await log.current(number)
                replay = await self._replay(log, stream, number, epoch)
        except TimeoutError as error:
            raise _late() from error
        while await self._advance(log, number, replay):
            pass
        self._observe(replay.track.state())
        return replay.track

    async def _counted(
        self, log: VerdictLog, number: int, replay: _Replay, place: Place, deadline: float
    ) -> Counted:
        track, sequence = replay.track, place.sequence
        if sequence - len(track) > IN_LINE:
            # A process that has just started on a long log: the line does not wait for it.
            if replay.chase is None or replay.chase.done():
                replay.chase = asyncio.create_task(self._chase(log, number, replay))
            return Counted(place.epoch, sequence, place.score, None)
        if len(track) == sequence - 1 and not replay.turn.locked():
            # The usual case: this process has seen all the others.
            track.add(place.score)
        try:
            while len(track) < sequence and time.monotonic() < deadline:
                async with asyncio.timeout_at(
                    deadline - time.monotonic() + asyncio.get_running_loop().time()
                ):
                    await self._advance(log, number, replay)
        except (DatabaseUnavailable, TimeoutError) as error:
            # The part itself is counted; the next one catches up.
            _log.warning("drift.behind", sequence=sequence, replayed=len(track), error=str(error))
        if len(track) < sequence:
            return Counted(place.epoch, sequence, place.score, None)
        self._observe(track.state())
        return Counted(place.epoch, sequence, place.score, track.point(sequence))

    async def _chase(self, log: VerdictLog, number: int, replay: _Replay) -> None:
        try:
            while await self._advance(log, number, replay):
                pass
        except DatabaseUnavailable as error:
            _log.warning("drift.behind", replayed=len(replay.track), error=error.message)

    async def _advance(self, log: VerdictLog, number: int, replay: _Replay) -> bool:
        track = replay.track
        async with replay.turn:
            scores = await log.read_after(number, track.epoch, len(track), limit=CHUNK)
            # Some milliseconds a chunk: short enough for the loop, and nothing can come in between.
            track.extend(scores)
        return len(scores) == CHUNK

    async def _number(self, log: VerdictLog, stream: Stream) -> int:
        if stream not in self._numbers:
            async with self._opening:
                if stream not in self._numbers:
                    self._numbers[stream] = await log.open(stream)
            while len(self._numbers) > _MAX_STREAMS:
                self._numbers.popitem(last=False)
        return self._numbers[stream]

    async def _replay(self, log: VerdictLog, stream: Stream, number: int, epoch: int) -> _Replay:
        key = number, epoch
        replay = self._replays.get(key)
        if replay is None:
            track = DriftTrack(stream, epoch, await log.rules_of(number, epoch))
            replay = self._replays.setdefault(key, _Replay(track, asyncio.Lock()))
            self._evict()
        self._replays.move_to_end(key)
        return replay

    def _evict(self) -> None:
        def parts() -> int:
            return sum(len(replay.track) for replay in self._replays.values())

        while len(self._replays) > 1 and (len(self._replays) > _MAX_STREAMS or parts() > CACHE_PARTS):
            _, dropped = self._replays.popitem(last=False)
            if dropped.chase is not None:
                dropped.chase.cancel()

    def _switched_on(self) -> VerdictLog:
        if self._log is None:
            raise NotFound("drift is off; set BDI_DRIFT=true.")
        return self._log

    def _failed(self, error: DatabaseUnavailable | TimeoutError) -> None:
        # Verdicts go on at once, and the database is asked again after a pause.
        self._resume_at = time.monotonic() + PAUSE_S
        self._fault = error.message if isinstance(error, DatabaseUnavailable) else _late().message
        _log.error("drift.unavailable", error=self._fault)


def _late() -> DatabaseUnavailable:
    return DatabaseUnavailable(f"the database did not answer within {BUDGET_S:g} s; try again.")
