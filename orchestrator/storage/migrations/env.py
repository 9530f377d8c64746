"""What Alembic runs a command in: the caller's own connection and transaction, or SQL text for a named dialect."""

from __future__ import annotations

from alembic import context

from orchestrator.storage.tables import metadata

_connection = context.config.attributes.get("connection")

if context.is_offline_mode():
    context.configure(dialect_name=context.config.attributes["dialect"], target_metadata=metadata)
else:
    context.configure(connection=_connection, target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
