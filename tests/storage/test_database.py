from __future__ import annotations

import asyncio
import contextlib
import io
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Integer, String, inspect, text

from orchestrator.errors import DatabaseUnavailable
from orchestrator.storage.database import BUSY_TIMEOUT_MS, REVISION, Database, embedded, migrations, prepare
from orchestrator.storage.tables import metadata


async def opened(path: Path) -> Database:
    database = Database(embedded(path))
    await database.migrate()
    return database


def test_the_schema_is_made_from_nothing_and_making_it_again_changes_nothing(tmp_path: Path) -> None:
    async def twice() -> list[str | None]:
        found = []
        for _ in range(2):
            database = Database(embedded(tmp_path / "new" / "folder"))
            found.append(await database.revision())
            await database.migrate()
            found.append(await database.revision())
            await database.close()
        return found

    assert asyncio.run(twice()) == [None, REVISION, REVISION, REVISION]


def test_the_revisions_end_where_the_tables_are(tmp_path: Path) -> None:
    def differences(connection: Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async def compare() -> tuple[list[Any], set[str]]:
        database = await opened(tmp_path)
        async with database.connect() as connection:
            found = await connection.run_sync(differences)
            names = await connection.run_sync(lambda c: set(inspect(c).get_table_names()))
        await database.close()
        return found, names

    found, names = asyncio.run(compare())
    assert found == []
    assert names == {*metadata.tables, "alembic_version"}


def test_the_newest_revision_is_the_one_that_a_start_looks_for() -> None:
    assert ScriptDirectory.from_config(migrations()).get_current_head() == REVISION


def test_the_schema_can_be_written_for_postgresql() -> None:
    written = io.StringIO()
    config = migrations(dialect="postgresql")
    config.output_buffer = written
    command.upgrade(config, "head", sql=True)
    assert "CREATE TABLE verdicts" in written.getvalue()
    assert "score DOUBLE PRECISION NOT NULL" in written.getvalue()
    assert "WITHOUT ROWID" not in written.getvalue()


def test_no_name_is_longer_than_postgresql_allows() -> None:
    # 63 bytes; longer ones would be cut, and two might become one.
    for table in metadata.tables.values():
        assert all(len(str(c.name)) <= 63 for c in table.constraints)
        assert all(isinstance(c.type, Integer | String) or c.type.python_type for c in table.columns)


def test_many_may_bring_the_schema_up_to_date_at_once(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def start() -> None:
        async def once() -> None:
            database = await opened(tmp_path)
            await database.close()

        try:
            asyncio.run(once())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    async def fail() -> int:
        database = await opened(tmp_path)
        with contextlib.suppress(RuntimeError):
            async with database.transaction() as connection:
                await connection.execute(text("INSERT INTO streams VALUES (1, 'a', 'b', 'c', 'd', 1, '')"))
                raise RuntimeError
        async with database.connect() as connection:
            count = (await connection.execute(text("SELECT count(*) FROM streams"))).scalar_one()
        await database.close()
        return int(count)

    assert asyncio.run(fail()) == 0


def test_a_file_that_is_no_database_or_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "patchlight.db").write_bytes(b"this is no database" * 100)
    (tmp_path / "file").write_text("")
    for root, words in ((tmp_path, "not a database"), (tmp_path / "file" / "below", "cannot be made")):
        with pytest.raises(DatabaseUnavailable, match=words):
            asyncio.run(opened(root))


def test_a_schema_of_a_later_release_is_refused(tmp_path: Path) -> None:
    async def later() -> None:
        database = await opened(tmp_path)
        async with database.connect() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        await database.close()
        await opened(tmp_path)

    with pytest.raises(DatabaseUnavailable, match="9999"):
        asyncio.run(later())


def test_callers_that_fail_over_the_same_connection_leave_none_open(tmp_path: Path) -> None:
    insert = prepare(text("INSERT INTO streams VALUES (:id, 'a', 'b', 'c', 'd', :id, '')"))
    read = prepare(text("SELECT count(*) FROM streams"))

    async def run() -> tuple[int, int]:
        database = await opened(tmp_path)
        await database.run(read, {})
        locker = sqlite3.connect(tmp_path / "patchlight.db", isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        first, second = (asyncio.create_task(database.run(insert, {"id": i})) for i in (1, 2))
        # The first has failed, the second still waits over the same connection: a reader opens another.
        await asyncio.sleep(1.5 * BUSY_TIMEOUT_MS / 1e3)
        await database.run(read, {})
        for call in (first, second):
            with pytest.raises(DatabaseUnavailable):
                await call
        locker.close()
        await database.run(read, {})
        assert database._engine is not None
        pool: Any = database._engine.pool
        out = pool.checkedout()
        await database.close()
        return out, pool.checkedout()

    assert asyncio.run(run()) == (1, 0)


def test_a_caller_that_is_out_of_time_leaves_no_connection_open(tmp_path: Path) -> None:
    insert = prepare(text("INSERT INTO streams VALUES (:id, 'a', 'b', 'c', 'd', :id, '')"))

    async def run() -> int:
        database = await opened(tmp_path)
        await database.run(insert, {"id": 1})
        locker = sqlite3.connect(tmp_path / "patchlight.db", isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        calls = [asyncio.create_task(database.run(insert, {"id": 2 + i})) for i in range(4)]
        await asyncio.sleep(0.6)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        locker.execute("ROLLBACK")
        locker.close()
        await database.run(insert, {"id": 99})
        assert database._engine is not None
        pool: Any = database._engine.pool
        await database.close()
        return int(pool.checkedout())

    assert asyncio.run(run()) == 0
