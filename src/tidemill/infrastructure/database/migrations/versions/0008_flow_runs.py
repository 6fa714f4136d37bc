"""Flow runs: what waits for what, and what it came to."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
fits_from = "0006"

instant = sa.BigInteger().with_variant(sa.DateTime(timezone=True), "postgresql")
number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "flow_runs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("root_task_id", number, nullable=False),
        sa.Column("root_run_id", number, nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("scheduled_for", instant, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("unfinished", sa.Integer(), nullable=False),
        sa.Column("created_at", instant, nullable=False),
        sa.Column("completed_at", instant, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_flow_runs")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_flow_runs_namespace_id", "flow_runs", ["namespace", "id"])
    op.create_index("ix_flow_runs_root_task_id", "flow_runs", ["root_task_id", "id"])
    _create_partial_index(
        "ix_flow_runs_completed", "flow_runs", "completed_at IS NOT NULL", "completed_at"
    )
    op.create_table(
        "run_edges",
        sa.Column("downstream_run_id", number, nullable=False),
        sa.Column("upstream_task_id", number, nullable=False),
        sa.Column("part", number, nullable=False),
        sa.Column("upstream_run_id", number, nullable=True),
        sa.Column("flow_run_id", sa.Text(), nullable=False),
        sa.Column("condition", sa.Text(), nullable=False),
        sa.Column("ended_as", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint(
            "downstream_run_id", "upstream_task_id", "part", name=op.f("pk_run_edges")
        ),
        sqlite_with_rowid=False,
    )
    _create_partial_index(
        "ix_run_edges_upstream_run_id",
        "run_edges",
        "upstream_run_id IS NOT NULL",
        "upstream_run_id",
    )
    _create_partial_index(
        "ix_run_edges_outside",
        "run_edges",
        "upstream_run_id IS NULL AND ended_as IS NULL",
        "upstream_task_id",
    )
    op.create_table(
        "run_tallies",
        sa.Column("run_id", number, nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("met", sa.Integer(), nullable=False),
        sa.Column("unmet", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_run_tallies")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("run_tallies")
    op.drop_table("run_edges")
    op.drop_table("flow_runs")


def _create_partial_index(name: str, table: str, where: str, *columns: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, list(columns), sqlite_where=condition, postgresql_where=condition)
