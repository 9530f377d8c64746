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
from orchestrator.errors import DatabaseUnavailable, NotFound, StreamGone
from orchestrator.services.replays import MAX_STREAMS, Replay, Replays
from orchestrator.storage.verdicts import Epoch, JudgedPart, Place, VerdictLog

BUDGET_S = 1.0
PAUSE_S = 1.0
IN_LINE = 10_000

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Counted:
    """A part in its stream. point: None while this process still replays what came before."""

    epoch: int
    sequence: int
    score: float
    point: DriftPoint | None


class DriftMonitor:
    """Counts parts. log: None switches everything off. observe: is told every state that changed."""

    def __init__(self, log: VerdictLog | None, observe: Callable[[DriftState], None] | None = None) -> None:
        self._log = log
        self._replays = Replays(log) if log is not None else None
        self._observe = observe or (lambda _: None)
        self._numbers: OrderedDict[Stream, int] = OrderedDict()
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
        log, replays = self._switched_on()
        try:
            async with asyncio.timeout(BUDGET_S):
                number = await self._number(log, stream)
                place = await log.append(number, stream.law, part)
                replay = replays.find(number, place.epoch)
                replay = replay or replays.begin(stream, number, await log.epoch(number, place.epoch))
        except (DatabaseUnavailable, TimeoutError) as error:
            if isinstance(error, StreamGone):
                self._forget(stream)
            self._failed(error)
            return None
        if self._fault is not None:
            _log.info("drift.available")
            self._fault = None
        return await self._counted(replays, replay, place, started + BUDGET_S)

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
        log, _ = self._switched_on()
        try:
            async with asyncio.timeout(BUDGET_S):
                await log.reset(await self._number(log, stream), stream.law)
        except StreamGone:
            self._forget(stream)
            raise
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
        if self._replays is not None:
            await self._replays.close()

    async def _current(self, stream: Stream) -> DriftTrack:
        log, replays = self._switched_on()
        replay: Replay | None = None
        try:
            async with asyncio.timeout(BUDGET_S):
                number = self._numbers.get(stream) or await log.find(stream)
                epoch = (
                    await log.current(number, stream.law) if number else Epoch(0, 0, log.rules, begun=False)
                )
                if number is None or not epoch.begun:
                    empty = DriftTrack(stream, epoch.number, epoch.rules)
                    self._observe(empty.state())
                    return empty
                replay = replays.begin(stream, number, epoch)
                while await replays.advance(replay):
                    pass
        except StreamGone:
            self._forget(stream)
            raise
        except TimeoutError as error:
            if replay is None:
                raise _late() from error
            # A long log: the next look finds it further on.
            replays.pursue(replay)
            raise DatabaseUnavailable(
                f"the target's log is still being replayed, {len(replay.track)} parts so far; try again shortly."
            ) from error
        self._observe(replay.track.state())
        return replay.track

    async def _counted(self, replays: Replays, replay: Replay, place: Place, deadline: float) -> Counted:
        track, sequence = replay.track, place.sequence
        if sequence - len(track) > IN_LINE:
            # A process that has just started on a long log: the line does not wait for it.
            replays.pursue(replay)
            return Counted(place.epoch, sequence, place.score, None)
        if len(track) == sequence - 1 and not replay.turn.locked():
            # The usual case: this process has seen all the others.
            replays.add(replay, place.score)
        try:
            while len(track) < sequence and time.monotonic() < deadline:
                async with asyncio.timeout_at(
                    deadline - time.monotonic() + asyncio.get_running_loop().time()
                ):
                    await replays.advance(replay)
        except (DatabaseUnavailable, TimeoutError) as error:
            # The part itself is counted; the next one catches up.
            _log.warning("drift.behind", sequence=sequence, replayed=len(track), error=str(error))
        if len(track) < sequence:
            return Counted(place.epoch, sequence, place.score, None)
        point = track.point(sequence)
        if point.score != place.score:
            # Another log than the one replayed: the database was put back to an earlier copy.
            replays.forget(replay.number)
            return Counted(place.epoch, sequence, place.score, None)
        if not place.again and not replays.is_over(replay):
            self._observe(track.state())
        return Counted(place.epoch, sequence, place.score, point)

    async def _number(self, log: VerdictLog, stream: Stream) -> int:
        if stream not in self._numbers:
            async with self._opening:
                if stream not in self._numbers:
                    self._numbers[stream] = await log.open(stream)
            while len(self._numbers) > MAX_STREAMS:
                self._numbers.popitem(last=False)
        return self._numbers[stream]

    def _forget(self, stream: Stream) -> None:
        number = self._numbers.pop(stream, None)
        if number is not None and self._replays is not None:
            self._replays.forget(number)

    def _switched_on(self) -> tuple[VerdictLog, Replays]:
        if self._log is None or self._replays is None:
            raise NotFound("drift is off; set BDI_DRIFT=true.")
        return self._log, self._replays

    def _failed(self, error: DatabaseUnavailable | TimeoutError) -> None:
        # Verdicts go on at once, and the database is asked again after a pause.
        self._resume_at = time.monotonic() + PAUSE_S
        self._fault = error.message if isinstance(error, DatabaseUnavailable) else _late().message
        _log.error("drift.unavailable", error=self._fault)


def _late() -> DatabaseUnavailable:
    return DatabaseUnavailable(f"the database did not answer within {BUDGET_S:g} s; try again.")
