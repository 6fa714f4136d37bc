"""Tasks that call tasks: which calls which, and which flow run was called by which run."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
fits_from = "0006"

number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "task_calls",
        sa.Column("task_id", number, nullable=False),
        sa.Column("called_task_id", number, nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_task_calls_task_id")),
        sa.ForeignKeyConstraint(
            ["called_task_id"], ["tasks.id"], name=op.f("fk_task_calls_called_task_id")
        ),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_task_calls")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_task_calls_namespace", "task_calls", ["namespace"])
    op.add_column("flow_runs", sa.Column("called_by", number, nullable=True))
    op.add_column("flow_runs", sa.Column("called_by_attempt", sa.Integer(), nullable=True))
    condition = sa.text("called_by IS NOT NULL")
    op.create_index(
        "ix_flow_runs_called_by",
        "flow_runs",
        ["called_by", "id"],
        sqlite_where=condition,
        postgresql_where=condition,
    )


def downgrade() -> None:
    op.drop_index("ix_flow_runs_called_by", "flow_runs")
    op.drop_column("flow_runs", "called_by_attempt")
    op.drop_column("flow_runs", "called_by")
    op.drop_table("task_calls")
