"""The append-only log of verdicts: one row a judged part, numbered within its epoch without holes.

Knows rows; what follows from their order is `domain/drift.py`.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import ColumnElement, bindparam, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.domain.drift import Rules, Stream
from orchestrator.errors import DatabaseUnavailable, StreamGone
from orchestrator.storage.database import Database, prepare
from orchestrator.storage.tables import epochs, streams, verdicts

_ATTEMPTS = 16


@dataclass(frozen=True, slots=True)
class JudgedPart:
    """What a row says. item: the part's place within its request; both together are what counts once."""

    request_id: str
    item: int
    score: float
    threshold: float | None
    decision: Literal["ok", "ng"] | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part stands in the log. again: the request had been sent before, and score is what was counted then."""

    epoch: int
    sequence: int
    score: float
    again: bool = False


@dataclass(frozen=True, slots=True)
class Epoch:
    """One count of a bank's parts. resets: how many came before it. begun: whether it is in the log."""

    number: int
    resets: int
    rules: Rules
    begun: bool = True


def _is_current() -> ColumnElement[bool]:
    # The law's own epoch since the last reset: one at most.
    others = epochs.alias("others")
    resets = select(func.max(others.c.resets)).where(others.c.stream_id == bindparam("stream"))
    return (
        (epochs.c.stream_id == bindparam("stream"))
        & (epochs.c.law == bindparam("law"))
        & (epochs.c.resets == resets.scalar_subquery())
    )


_EARLIER = verdicts.alias("earlier")
_HIGHEST = (
    select(func.max(_EARLIER.c.sequence))
    .where(_EARLIER.c.stream_id == epochs.c.stream_id, _EARLIER.c.epoch == epochs.c.epoch)
    .scalar_subquery()
)
_SENT = ("request_id", "item", "score", "threshold", "decision")
_NEXT = select(
    epochs.c.stream_id,
    epochs.c.epoch,
    func.coalesce(_HIGHEST, 0) + 1,
    *(bindparam(name, type_=verdicts.c[name].type) for name in _SENT),
    func.now(),
).where(_is_current())
# One statement, so one transaction. Two that take the same number at once cannot both commit: one tries again.
_APPEND = prepare(
    insert(verdicts)
    .from_select(["stream_id", "epoch", "sequence", *_SENT, "recorded_at"], _NEXT)
    .returning(verdicts.c.epoch, verdicts.c.sequence)
)
_SEEN = prepare(
    select(verdicts.c.epoch, verdicts.c.sequence, verdicts.c.score).where(
        verdicts.c.stream_id == bindparam("stream"),
        verdicts.c.request_id == bindparam("request_id"),
        verdicts.c.item == bindparam("item"),
    )
)


_EPOCH = ("law", "alpha", "seed", "started_at")
# One statement again: a reset and a new law that come at once get two numbers, and the law the reset's count.
_BEGIN = (
    insert(epochs)
    .from_select(
        ["stream_id", "epoch", "resets", *_EPOCH],
        select(
            epochs.c.stream_id,
            func.max(epochs.c.epoch) + 1,
            func.max(epochs.c.resets) + bindparam("more", type_=epochs.c.resets.type),
            *(bindparam(name, type_=epochs.c[name].type) for name in _EPOCH),
        )
        .where(epochs.c.stream_id == bindparam("stream"))
        .group_by(epochs.c.stream_id),
    )
    .returning(epochs.c.epoch)
)


class VerdictLog:
    """Reads and adds rows. rules: of the epochs that begin from now on."""

    def __init__(self, database: Database, rules: Rules) -> None:
        self._database = database
        self.rules = rules

    async def check(self, *, writes: bool) -> None:
        """Prove that the log can be read, or written.

        Raises DatabaseUnavailable.
        """
        if writes:
            await self._database.prove_writing()
            return
        async with self._database.connect() as connection:
            await connection.execute(select(epochs.c.epoch).limit(1))

    async def open(self, stream: Stream) -> int:
        """Give the number of a stream's bank, for the calls below; begins it where it is new.

        Raises DatabaseUnavailable.
        """
        for _ in range(_ATTEMPTS):
            async with self._database.connect() as connection:
                number = await _number(connection, stream)
            if number is not None:
                return number
            try:
                async with self._database.transaction() as connection:
                    added = await connection.execute(
                        insert(streams).values(id=_draw_id(), **_identity(stream)).returning(streams.c.id)
                    )
                    number = int(added.scalar_one())
                    await connection.execute(
                        insert(epochs).values(stream_id=number, epoch=0, resets=0, **self._epoch(stream.law))
                    )
                    return number
            except IntegrityError:
                # Another process began it at the same moment, or the number is taken.
                continue
        raise _contended()

    async def find(self, stream: Stream) -> int | None:
        """Give the number of a stream's bank; None before its first part and its first reset.

        Raises DatabaseUnavailable.
        """
        async with self._database.connect() as connection:
            return await _number(connection, stream)

    async def append(self, stream: int, law: str, part: JudgedPart) -> Place:
        """Add a part to its law's epoch, which it begins where it is the first; one sent before keeps its place.

        Raises StreamGone, DatabaseUnavailable.
        """
        key = {"stream": stream, "request_id": part.request_id, "item": part.item}
        row = {**key, "law": law, "score": part.score, "threshold": part.threshold, "decision": part.decision}
        for _ in range(_ATTEMPTS):
            try:
                added = await self._database.run(_APPEND, row)
            except IntegrityError:
                for epoch, sequence, score in await self._database.run(_SEEN, key):
                    return Place(epoch, sequence, score, again=True)
                continue
            for epoch, sequence in added:
                return Place(epoch, sequence, part.score)
            await self._begin(stream, law, more=0)
        raise _contended()

    async def current(self, stream: int, law: str) -> Epoch:
        """Give a law's epoch; before its first part the one that it would begin.

        Raises StreamGone, DatabaseUnavailable.
        """
        found = await self._epochs(_is_current(), stream=stream, law=law)
        if found:
            return found[0]
        every = await self._epochs(epochs.c.stream_id == bindparam("stream"), stream=stream)
        if not every:
            raise _gone()
        return Epoch(every[0].number + 1, max(e.resets for e in every), self.rules, begun=False)

    async def epoch(self, stream: int, number: int) -> Epoch:
        """Give an epoch.

        Raises StreamGone, DatabaseUnavailable.
        """
        which = (epochs.c.stream_id == bindparam("stream")) & (epochs.c.epoch == bindparam("number"))
        for found in await self._epochs(which, stream=stream, number=number):
            return found
        raise _gone()

    async def read_after(self, stream: int, epoch: int, sequence: int, *, limit: int) -> Sequence[float]:
        """Give the scores that follow part `sequence`, in order, `limit` at most.

        Raises DatabaseUnavailable.
        """
        wanted = (
            select(verdicts.c.score)
            .where(verdicts.c.stream_id == stream, verdicts.c.epoch == epoch, verdicts.c.sequence > sequence)
            .order_by(verdicts.c.sequence)
            .limit(limit)
        )
        async with self._database.connect() as connection:
            return (await connection.execute(wanted)).scalars().all()

    async def reset(self, stream: int, law: str) -> None:
        """Count from one again, by the rules of now, whatever law a part comes with.

        Raises StreamGone, DatabaseUnavailable.
        """
        for _ in range(_ATTEMPTS):
            if await self._begin(stream, law, more=1):
                return
        raise _contended()

    async def _begin(self, stream: int, law: str, *, more: int) -> bool:
        values = {"stream": stream, "more": more, **self._epoch(law)}
        try:
            async with self._database.connect() as connection:
                begun = (await connection.execute(_BEGIN, values)).scalars().all()
        except IntegrityError:
            # Another process was faster.
            return False
        if not begun:
            raise _gone()
        return True

    def _epoch(self, law: str) -> dict[str, object]:
        return {
            "law": law,
            "alpha": self.rules.alpha,
            "seed": self.rules.seed,
            "started_at": datetime.now(UTC),
        }

    async def _epochs(self, which: ColumnElement[bool], **values: object) -> list[Epoch]:
        # Newest first.
        columns = epochs.c.epoch, epochs.c.resets, epochs.c.alpha, epochs.c.seed
        wanted = select(*columns).where(which).order_by(epochs.c.epoch.desc())
        async with self._database.connect() as connection:
            found = (await connection.execute(wanted, values)).all()
        return [Epoch(number, resets, Rules(alpha, seed)) for number, resets, alpha, seed in found]


def _identity(stream: Stream) -> dict[str, str | int]:
    part = stream.target.part
    return {
        "recipe_id": part.recipe_id,
        "role_id": part.role_id,
        "roi_id": part.roi_id,
        "model_key": stream.target.model_key,
        "generation": stream.generation,
        "fitted_at": stream.fitted_at,
    }


async def _number(connection: AsyncConnection, stream: Stream) -> int | None:
    wanted = select(streams.c.id).filter_by(**_identity(stream))
    return (await connection.execute(wanted)).scalar_one_or_none()


def _draw_id() -> int:
    # Never one that was used before: a process may remember it from a database that has been emptied since.
    return secrets.randbelow(2**31 - 1) + 1


def _gone() -> StreamGone:
    return StreamGone("the database has lost this target's log; try again, and a new one begins.")


def _contended() -> DatabaseUnavailable:
    return DatabaseUnavailable("the database is contended; try again.")
