"""Firings that are prepared ahead."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

instant = sa.BigInteger().with_variant(sa.DateTime(timezone=True), "postgresql")
number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "prepared_firings",
        sa.Column("task_id", number, nullable=False),
        sa.Column("task_version", sa.Integer(), nullable=False),
        sa.Column("scheduled_for", instant, nullable=False),
        sa.Column("is_plain", sa.Boolean(), nullable=False),
        sa.Column("following_at", instant, nullable=True),
        sa.Column("late_after", instant, nullable=False),
        sa.Column("may_overlap", sa.Boolean(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("concurrency_key", sa.Text(), nullable=True),
        sa.Column("concurrency_limit", sa.Integer(), nullable=True),
        sa.Column("timeout_seconds", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["task_id"], ["tasks.id"], name=op.f("fk_prepared_firings_task_id")
        ),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_prepared_firings")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("prepared_firings")
