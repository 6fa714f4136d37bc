"""Runs that are mapped over what an upstream run returned; who waits for a key does so in order."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
fits_from = "0006"


def upgrade() -> None:
    op.add_column(
        "run_edges",
        sa.Column("is_mapped_over", sa.Boolean(), nullable=False, server_default=sa.text("false")),
    )
    _index_limited("concurrency_key", "rank", "id")


def downgrade() -> None:
    _index_limited("concurrency_key", "rank")
    op.drop_column("run_edges", "is_mapped_over")


def _index_limited(*columns: str) -> None:
    condition = sa.text("hold = 'limit'")
    op.drop_index("ix_task_runs_limited", "task_runs")
    op.create_index(
        "ix_task_runs_limited",
        "task_runs",
        list(columns),
        sqlite_where=condition,
        postgresql_where=condition,
    )
