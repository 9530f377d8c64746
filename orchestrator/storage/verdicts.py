"""The append-only log of verdicts: one row a judged part, numbered within its epoch without holes.

Knows rows; what follows from their order is `domain/drift.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import ColumnElement, bindparam, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.domain.drift import Rules, Stream
from orchestrator.errors import DatabaseUnavailable
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
    """Where a part stands in the log. score: the counted one, where the request had been sent before."""

    epoch: int
    sequence: int
    score: float


_EARLIER = verdicts.alias("earlier")
_HIGHEST = (
    select(func.max(_EARLIER.c.sequence))
    .where(_EARLIER.c.stream_id == epochs.c.stream_id, _EARLIER.c.epoch == epochs.c.epoch)
    .scalar_subquery()
)
_SENT = ("request_id", "item", "score", "threshold", "decision")
_NEXT = (
    select(
        epochs.c.stream_id,
        epochs.c.epoch,
        func.coalesce(_HIGHEST, 0) + 1,
        *(bindparam(name, type_=verdicts.c[name].type) for name in _SENT),
        func.now(),
    )
    .where(epochs.c.stream_id == bindparam("stream"))
    .order_by(epochs.c.epoch.desc())
    .limit(1)
)
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


class VerdictLog:
    """Reads and adds rows. rules: of the epochs that begin from now on."""

    def __init__(self, database: Database, rules: Rules) -> None:
        self._database = database
        self.rules = rules

    async def check(self, *, writes: bool) -> None:
        """Prove that the log can be read, or begun to be written.

        Raises DatabaseUnavailable.
        """
        if writes:
            async with self._database.transaction():
                return
        async with self._database.connect() as connection:
            await connection.execute(select(epochs.c.epoch).limit(1))

    async def open(self, stream: Stream) -> int:
        """Give a stream's number, for the calls below; begins it where it is new.

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
                        insert(streams).values(_identity(stream)).returning(streams.c.id)
                    )
                    number = int(added.scalar_one())
                    await connection.execute(insert(epochs).values(self._epoch(number, 0)))
                    return number
            except IntegrityError:
                # Another process began it at the same moment.
                continue
        raise _contended()

    async def find(self, stream: Stream) -> int | None:
        """Give a stream's number; None before its first part and its first reset.

        Raises DatabaseUnavailable.
        """
        async with self._database.connect() as connection:
            return await _number(connection, stream)

    async def append(self, stream: int, part: JudgedPart) -> Place:
        """Add a part to the current epoch; one that was sent before keeps its place.

        Raises DatabaseUnavailable.
        """
        key = {"stream": stream, "request_id": part.request_id, "item": part.item}
        row = {**key, "score": part.score, "threshold": part.threshold, "decision": part.decision}
        for _ in range(_ATTEMPTS):
            try:
                ((epoch, sequence),) = await self._database.run(_APPEND, row)
            except IntegrityError:
                for seen in await self._database.run(_SEEN, key):
                    return Place(*seen)
            else:
                return Place(epoch, sequence, part.score)
        raise _contended()

    async def current(self, stream: int) -> tuple[int, Rules]:
        """Give the current epoch and the rules that it began with.

        Raises DatabaseUnavailable.
        """
        return await self._rules_of(epochs.c.stream_id == stream)

    async def rules_of(self, stream: int, epoch: int) -> Rules:
        """Give the rules that an epoch began with.

        Raises DatabaseUnavailable.
        """
        _, rules = await self._rules_of((epochs.c.stream_id == stream) & (epochs.c.epoch == epoch))
        return rules

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

    async def begin_epoch(self, stream: int) -> int:
        """Count from one again, by the rules of now; gives the new epoch.

        Raises DatabaseUnavailable.
        """
        for _ in range(_ATTEMPTS):
            epoch = (await self.current(stream))[0] + 1
            try:
                async with self._database.connect() as connection:
                    await connection.execute(insert(epochs).values(self._epoch(stream, epoch)))
            except IntegrityError:
                continue
            return epoch
        raise _contended()

    def _epoch(self, stream: int, epoch: int) -> dict[str, object]:
        return {
            "stream_id": stream,
            "epoch": epoch,
            "alpha": self.rules.alpha,
            "seed": self.rules.seed,
            "started_at": datetime.now(UTC),
        }

    async def _rules_of(self, which: ColumnElement[bool]) -> tuple[int, Rules]:
        newest = select(epochs.c.epoch, epochs.c.alpha, epochs.c.seed).where(which)
        async with self._database.connect() as connection:
            found = await connection.execute(newest.order_by(epochs.c.epoch.desc()).limit(1))
            epoch, alpha, seed = found.one()
        return epoch, Rules(alpha, seed)


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


def _contended() -> DatabaseUnavailable:
    return DatabaseUnavailable("the database is contended; try again.")
