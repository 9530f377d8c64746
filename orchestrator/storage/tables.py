"""The database's tables, for SQLite and PostgreSQL alike. Rows are only ever added, never changed.

Knows columns and constraints; a change here needs a revision in `migrations/versions`.
"""

from __future__ import annotations

from sqlalchemy import (
    Column,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

NAMING = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(referred_table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}
metadata = MetaData(naming_convention=NAMING)

streams = Table(
    "streams",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("recipe_id", String(64), nullable=False),
    Column("role_id", String(64), nullable=False),
    Column("roi_id", String(64), nullable=False),
    Column("model_key", String(64), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("fitted_at", String(32), nullable=False),
    UniqueConstraint(
        "recipe_id", "role_id", "roi_id", "model_key", "generation", "fitted_at", name="uq_streams_bank"
    ),
)
"""The banks that judge parts: a refit begins another stream. fitted_at: "" for a legacy bank."""

epochs = Table(
    "epochs",
    metadata,
    Column("stream_id", Integer, ForeignKey("streams.id"), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("resets", Integer, nullable=False),
    Column("law", String(16), nullable=False),
    Column("alpha", Double, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False),
    UniqueConstraint("stream_id", "resets", "law"),
)
"""A bank's counts from one: an epoch for every law of its scores, and new ones with every reset.

resets: how many came before. The rules stay as they were at its start.
"""

verdicts = Table(
    "verdicts",
    metadata,
    Column("stream_id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("request_id", String(128), nullable=False),
    Column("item", Integer, nullable=False),
    Column("score", Double, nullable=False),
    Column("threshold", Double),
    Column("decision", String(2)),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    ForeignKeyConstraint(["stream_id", "epoch"], ["epochs.stream_id", "epochs.epoch"]),
    # A request that is sent again counts once, whatever was reset in between.
    UniqueConstraint("stream_id", "request_id", "item"),
    # SQLite: the rows lie in the order in which they are replayed.
    sqlite_with_rowid=False,
)
"""One judged part each. sequence: 1, 2, ... within the epoch, without holes. item: the place within the request."""
