"""The product's database: connections, transactions, and the schema's migrations. Knows no table.

Embedded, it is one SQLite file in WAL mode: readers never wait for the writer, and what is committed survives the
end of the process, however abrupt. With `synchronous=NORMAL` a commit is not flushed to the disk at once, so a power
failure may lose the last moments, but never damages the file. WAL needs shared memory: the file must lie on a disk
of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import ClauseElement, Connection, event, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.sql.compiler import SQLCompiler

from orchestrator.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from alembic.config import Config

REVISION = "0001"
"""The newest revision that this release knows."""
FILE_NAME = "patchlight.db"
BUSY_TIMEOUT_MS = 400
MIGRATION_WAIT_S = 20.0
_PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}")


def embedded(data_root: Path) -> str:
    """Give the address of the data root's own database."""
    return f"sqlite:///{(data_root / FILE_NAME).absolute()}"


class Database:
    """Connections to one database; opened at first use, migrated once before any other."""

    def __init__(self, url: str) -> None:
        """Open nothing yet. url: `sqlite:///path`."""
        self.url = make_url(url).set(drivername="sqlite+aiosqlite")
        self._engine: AsyncEngine | None = None
        self._migrated = False
        self._opening = asyncio.Lock()
        self._kept: AsyncConnection | None = None
        self._discards: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """Connect for single statements: each is a transaction of its own.

        Raises DatabaseUnavailable, also for what the block meets; IntegrityError passes.
        """
        engine = await self._ready()
        with _translated():
            async with engine.connect() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Connect for several statements that happen together or not at all; on SQLite writers take turns.

        Raises as `connect`.
        """
        engine = await self._ready()
        with _translated():
            async with engine.connect() as connection, _together(connection):
                yield connection

    async def migrate(self) -> None:
        """Bring the schema up to date; processes that start together take turns.

        Raises DatabaseUnavailable.
        """
        await self._ready()

    async def run(self, statement: SQLCompiler, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Run one statement of a busy path, made by `prepare`, as a transaction of its own; gives all rows.

        It goes to the driver's thread in one piece, over a connection that is kept: a seventh of the processor time
        that SQLAlchemy's own route takes, with a hand-over between threads for each of its steps.

        Raises as `connect`.
        """
        engine = await self._ready()
        with _translated():
            kept = self._kept or await self._keep(engine)
            driver: Any = (await kept.get_raw_connection()).driver_connection
            try:
                rows = await driver.execute_fetchall(str(statement), statement.construct_params(dict(values)))
            except sqlite3.IntegrityError as error:
                raise IntegrityError(str(statement), None, error) from error
            except ValueError as error:
                # The driver's word for a connection that another caller has just closed.
                raise DatabaseUnavailable(f"the database cannot be used: {error}.") from error
            except sqlite3.Error:
                # The next call begins anew: the file may have been mended or replaced. Whoever waited for the same
                # connection fails too, maybe after another has been opened: that one stays.
                if self._kept is kept:
                    self._kept = None
                    await self._discard(kept)
                raise
        return list(rows)

    async def prove_writing(self) -> None:
        """Write what is already there, and commit it: a lock alone would also be had on a disk that is full.

        Raises as `connect`.
        """
        async with self.transaction() as connection:
            version = (await connection.execute(text("PRAGMA user_version"))).scalar_one()
            await connection.execute(text(f"PRAGMA user_version={int(version)}"))

    async def revision(self) -> str | None:
        """Name the schema's revision; None where there is no schema. Changes nothing.

        Raises DatabaseUnavailable.
        """
        engine = self._engine or self._open()
        with _translated():
            async with engine.connect() as connection:
                try:
                    found = await connection.execute(text("SELECT version_num FROM alembic_version"))
                except (OperationalError, ProgrammingError) as error:
                    if "alembic_version" in str(error.orig):
                        return None
                    raise
                return found.scalar_one_or_none()

    async def close(self) -> None:
        """Close every connection."""
        await asyncio.gather(*self._discards, return_exceptions=True)
        if self._kept is not None:
            await self._kept.close()
            self._kept = None
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None
            self._migrated = False

    async def _ready(self) -> AsyncEngine:
        if self._engine is not None and self._migrated:
            return self._engine
        async with self._opening:
            engine = self._engine or self._open()
            if not self._migrated:
                with _translated():
                    await self._upgrade(engine)
                self._migrated = True
        return engine

    async def _discard(self, connection: AsyncConnection) -> None:
        async def discard() -> None:
            await connection.invalidate()
            await connection.close()

        task = asyncio.create_task(discard())
        self._discards.add(task)
        task.add_done_callback(self._discards.discard)
        # Who waits may be out of time; a connection that is closed by half would never go back to the pool.
        await asyncio.shield(task)

    async def _keep(self, engine: AsyncEngine) -> AsyncConnection:
        async with self._opening:
            if self._kept is None:
                self._kept = await engine.connect()
            return self._kept

    def _open(self) -> AsyncEngine:
        path = self.url.database
        if path and path != ":memory:":
            try:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DatabaseUnavailable(f"{path}: its folder cannot be made: {error.strerror}.") from error
        # No transaction unless one is begun: a single statement is one, at a quarter of the round trips.
        self._engine = create_async_engine(
            self.url, isolation_level="AUTOCOMMIT", pool_reset_on_return=None, skip_autocommit_rollback=True
        )
        event.listen(self._engine.sync_engine, "connect", _prepare)
        return self._engine

    async def _upgrade(self, engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            if await self._current(connection) == REVISION:
                return
            await connection.execute(text(f"PRAGMA busy_timeout={int(MIGRATION_WAIT_S * 1e3)}"))
            async with _together(connection):
                await connection.run_sync(_upgrade_to_head)
            await connection.execute(text(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}"))

    async def _current(self, connection: AsyncConnection) -> str | None:
        tables = await connection.execute(
            text("SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'")
        )
        if not tables.scalar_one():
            return None
        found = await connection.execute(text("SELECT version_num FROM alembic_version"))
        return found.scalar_one_or_none()


def prepare(statement: ClauseElement) -> SQLCompiler:
    """Compile a statement once, for `Database.run`. Its values are not converted: texts and numbers only."""
    compiled = statement.compile(dialect=sqlite.dialect(paramstyle="named"))
    assert isinstance(compiled, SQLCompiler)
    return compiled


def migrations(**attributes: Any) -> Config:
    """Make Alembic's configuration. attributes: what `migrations/env.py` reads."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes.update(attributes)
    return config


def _upgrade_to_head(connection: Connection) -> None:
    # Imported here: a start on a database that is up to date needs none of it.
    from alembic import command
    from alembic.util import CommandError

    try:
        command.upgrade(migrations(connection=connection), "head")
    except CommandError as error:
        raise DatabaseUnavailable(f"the database's schema cannot be brought up to date: {error}.") from error


@contextlib.asynccontextmanager
async def _together(connection: AsyncConnection) -> AsyncIterator[None]:
    # IMMEDIATE: a transaction that reads first and finds another writer when it writes could only fail.
    await connection.execute(text("BEGIN IMMEDIATE"))
    try:
        yield
    except BaseException:
        # Closing rolls back whatever state the connection is in, also where the task was cancelled half-way.
        await connection.invalidate()
        raise
    await connection.execute(text("COMMIT"))


def _prepare(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except (SQLAlchemyError, sqlite3.Error) as error:
        reason = str(getattr(error, "orig", None) or error)
        raise DatabaseUnavailable(f"the database cannot be used: {reason}.") from error
