"""Runs that are split into parts, and turns that dispatchers take together."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("task_runs", sa.Column("part_of", number, nullable=True))
    op.add_column("task_runs", sa.Column("shard_index", sa.Integer(), nullable=True))
    op.add_column("task_runs", sa.Column("shard_total", sa.Integer(), nullable=True))
    is_part = sa.text("part_of IS NOT NULL")
    op.create_index(
        "ix_task_runs_part_of",
        "task_runs",
        ["part_of", "id"],
        sqlite_where=is_part,
        postgresql_where=is_part,
    )
    op.create_table(
        "lane_turns",
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("turn", number, nullable=False),
        sa.PrimaryKeyConstraint("lane", name=op.f("pk_lane_turns")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("lane_turns")
    op.drop_index("ix_task_runs_part_of", "task_runs")
    op.drop_column("task_runs", "shard_total")
    op.drop_column("task_runs", "shard_index")
    op.drop_column("task_runs", "part_of")
