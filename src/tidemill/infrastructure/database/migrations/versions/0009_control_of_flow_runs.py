"""Flow runs that are run again, that must have ended by an instant, or that wait for their turn."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
fits_from = "0006"

instant = sa.BigInteger().with_variant(sa.DateTime(timezone=True), "postgresql")
number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    for column in (
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("retry_of", sa.Text(), nullable=True),
        sa.Column("deadline_seconds", sa.Float(), nullable=True),
        sa.Column("deadline_at", instant, nullable=True),
        sa.Column("backfill_id", sa.Text(), nullable=True),
    ):
        op.add_column("flow_runs", column)
    _create_partial_index(
        "ix_flow_runs_deadline",
        "flow_runs",
        "deadline_at IS NOT NULL AND completed_at IS NULL",
        "deadline_at",
    )
    _create_partial_index(
        "ix_flow_runs_turn", "flow_runs", "status = 'waiting'", "backfill_id", "scheduled_for"
    )
    _create_partial_index(
        "ix_flow_runs_under_way",
        "flow_runs",
        "backfill_id IS NOT NULL AND status = 'running'",
        "backfill_id",
    )
    op.create_table(
        "backfills",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("max_parallel", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_backfills")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "carried_runs",
        sa.Column("flow_run_id", sa.Text(), nullable=False),
        sa.Column("run_id", number, nullable=False),
        sa.PrimaryKeyConstraint("flow_run_id", "run_id", name=op.f("pk_carried_runs")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_carried_runs_run_id", "carried_runs", ["run_id"])


def downgrade() -> None:
    op.drop_table("carried_runs")
    op.drop_table("backfills")
    for index in ("ix_flow_runs_under_way", "ix_flow_runs_turn", "ix_flow_runs_deadline"):
        op.drop_index(index, "flow_runs")
    for column in ("backfill_id", "deadline_at", "deadline_seconds", "retry_of", "reason"):
        op.drop_column("flow_runs", column)


def _create_partial_index(name: str, table: str, where: str, *columns: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, list(columns), sqlite_where=condition, postgresql_where=condition)
