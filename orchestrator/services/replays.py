"""What this process has replayed of the log of verdicts: epochs that grow with it, forgotten where memory is short."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

from orchestrator.domain.drift import DriftTrack, Stream
from orchestrator.errors import DatabaseUnavailable
from orchestrator.storage.verdicts import Epoch, VerdictLog

CHUNK = 2000
SLICE_S = 0.005
CACHE_PARTS = 2_000_000
MAX_STREAMS = 10_000
_LOOK_AGAIN = 1000

_log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Replay:
    """One epoch as far as it has been replayed. number: of its bank in the log."""

    number: int
    epoch: Epoch
    track: DriftTrack
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    chase: asyncio.Task[None] | None = None


class Replays:
    """The replays used most recently: `CACHE_PARTS` parts and a little more, or a single one whatever its length."""

    def __init__(self, log: VerdictLog) -> None:
        self._log = log
        self._kept: OrderedDict[tuple[int, int], Replay] = OrderedDict()
        self._resets: OrderedDict[int, int] = OrderedDict()
        self._chases: set[asyncio.Task[None]] = set()
        self._unweighed = 0

    @property
    def parts(self) -> int:
        """How many parts are held in memory."""
        return sum(len(replay.track) for replay in self._kept.values())

    def find(self, number: int, epoch: int) -> Replay | None:
        """Give an epoch's replay, if there is one."""
        replay = self._kept.get((number, epoch))
        if replay is not None:
            self._kept.move_to_end((number, epoch))
        return replay

    def begin(self, stream: Stream, number: int, epoch: Epoch) -> Replay:
        """Give an epoch's replay, empty where there is none yet; a reset that it tells of ends the ones before."""
        self._note(number, epoch.resets)
        replay = self.find(number, epoch.number)
        if replay is None or replay.epoch != epoch:
            replay = Replay(number, epoch, DriftTrack(stream, epoch.number, epoch.rules))
            self._kept[number, epoch.number] = replay
            self._evict()
        return replay

    def is_over(self, replay: Replay) -> bool:
        """Tell whether a reset that this process knows of has ended the epoch."""
        return replay.epoch.resets < self._resets.get(replay.number, 0)

    def forget(self, number: int) -> None:
        """Drop what was replayed of a bank whose log is no longer what it was."""
        self._resets.pop(number, None)
        self._drop(r for r in self._kept.values() if r.number == number)

    def add(self, replay: Replay, score: float) -> None:
        """Take the next part's score, which this process has put into the log itself."""
        replay.track.add(score)
        self._weigh(1)

    async def advance(self, replay: Replay) -> bool:
        """Read on in the log; tells whether there may be more of it.

        Raises DatabaseUnavailable.
        """
        track = replay.track
        async with replay.turn:
            scores = await self._log.read_after(replay.number, replay.epoch.number, len(track), limit=CHUNK)
            since = time.monotonic()
            for score in scores:
                # Nothing else adds to the track while its turn is taken, so that the others may run in between.
                if time.monotonic() - since > SLICE_S:
                    await asyncio.sleep(0)
                    since = time.monotonic()
                track.add(score)
        self._weigh(len(scores))
        return len(scores) == CHUNK

    def pursue(self, replay: Replay) -> None:
        """Catch up with the log in the background."""
        if replay.chase is None or replay.chase.done():
            replay.chase = asyncio.create_task(self._chase(replay))
            self._chases.add(replay.chase)
            replay.chase.add_done_callback(self._chases.discard)

    async def close(self) -> None:
        """Give up what is being replayed."""
        chases = list(self._chases)
        for chase in chases:
            chase.cancel()
        await asyncio.gather(*chases, return_exceptions=True)

    async def _chase(self, replay: Replay) -> None:
        try:
            while await self.advance(replay):
                pass
        except DatabaseUnavailable as error:
            _log.warning("drift.behind", replayed=len(replay.track), error=error.message)

    def _note(self, number: int, resets: int) -> None:
        if resets > self._resets.get(number, -1):
            self._resets[number] = resets
            self._drop(r for r in self._kept.values() if r.number == number and self.is_over(r))
            while len(self._resets) > MAX_STREAMS:
                self._resets.popitem(last=False)

    def _weigh(self, grown: int) -> None:
        self._unweighed += grown
        if self._unweighed >= _LOOK_AGAIN:
            self._unweighed = 0
            self._evict()

    def _evict(self) -> None:
        parts = self.parts
        while len(self._kept) > 1 and (len(self._kept) > MAX_STREAMS or parts > CACHE_PARTS):
            oldest = next(iter(self._kept.values()))
            parts -= len(oldest.track)
            self._drop([oldest])

    def _drop(self, replays: Iterable[Replay]) -> None:
        for replay in list(replays):
            del self._kept[replay.number, replay.epoch.number]
            if replay.chase is not None:
                replay.chase.cancel()
