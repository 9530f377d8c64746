"""The log of verdicts that drift is read from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create streams, epochs and verdicts."""
    op.create_table(
        "streams",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("recipe_id", sa.String(64), nullable=False),
        sa.Column("role_id", sa.String(64), nullable=False),
        sa.Column("roi_id", sa.String(64), nullable=False),
        sa.Column("model_key", sa.String(64), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("fitted_at", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_streams"),
        sa.UniqueConstraint(
            "recipe_id",
            "role_id",
            "roi_id",
            "model_key",
            "generation",
            "fitted_at",
            name="uq_streams_bank",
        ),
    )
    op.create_table(
        "epochs",
        sa.Column("stream_id", sa.Integer, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("resets", sa.Integer, nullable=False),
        sa.Column("law", sa.String(16), nullable=False),
        sa.Column("alpha", sa.Double, nullable=False),
        sa.Column("seed", sa.Integer, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("stream_id", "epoch", name="pk_epochs"),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], name="fk_epochs_streams"),
        sa.UniqueConstraint("stream_id", "resets", "law", name="uq_epochs_stream_id_resets_law"),
    )
    op.create_table(
        "verdicts",
        sa.Column("stream_id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("epoch", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("sequence", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("item", sa.Integer, nullable=False),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("threshold", sa.Double),
        sa.Column("decision", sa.String(2)),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("stream_id", "epoch", "sequence", name="pk_verdicts"),
        sa.ForeignKeyConstraint(
            ["stream_id", "epoch"], ["epochs.stream_id", "epochs.epoch"], name="fk_verdicts_epochs"
        ),
        sa.UniqueConstraint("stream_id", "request_id", "item", name="uq_verdicts_stream_id_request_id_item"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("verdicts", "epochs", "streams"):
        op.drop_table(table)
