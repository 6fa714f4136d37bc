"""Duties that one dispatcher at a time has."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
fits_from = "0006"

instant = sa.BigInteger().with_variant(sa.DateTime(timezone=True), "postgresql")
number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "duties",
        sa.Column("duty", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("fence", number, nullable=False),
        sa.Column("taken_at", instant, nullable=False),
        sa.Column("lease_expires_at", instant, nullable=False),
        sa.PrimaryKeyConstraint("duty", name=op.f("pk_duties")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("duties")
