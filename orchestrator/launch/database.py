"""`patchlight db`: which revision the database is at, and bringing it up to date."""

from __future__ import annotations

import asyncio

from orchestrator.settings import Settings
from orchestrator.storage.database import Database, embedded


def current(settings: Settings) -> str:
    """Describe the database's revision; changes nothing. Raises DatabaseUnavailable."""
    return asyncio.run(_described(settings, upgrade=False))


def upgrade(settings: Settings) -> str:
    """Bring the schema up to date, as every start of the API does. Raises DatabaseUnavailable."""
    return asyncio.run(_described(settings, upgrade=True))


async def _described(settings: Settings, *, upgrade: bool) -> str:
    database = Database(settings.database_url or embedded(settings.data_root))
    try:
        if upgrade:
            await database.migrate()
        return f"{database.url.database}: revision {await database.revision() or 'none'}"
    finally:
        await database.close()
