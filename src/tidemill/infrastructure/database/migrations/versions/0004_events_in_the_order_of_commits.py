"""Events are told in the order in which they were committed."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    column = sa.Column("transaction_id", sa.BigInteger(), nullable=False, server_default="0")
    op.add_column("run_events", column)
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column(
            "run_events",
            "transaction_id",
            server_default=sa.text("(pg_current_xact_id()::text::bigint)"),
        )
        op.create_index("ix_run_events_transaction_id", "run_events", ["transaction_id", "id"])


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_index("ix_run_events_transaction_id", "run_events")
    op.drop_column("run_events", "transaction_id")
