"""Results that are too large for the row of their run, kept beside it in pieces."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
fits_from = "0006"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    instant = sa.BigInteger().with_variant(sa.DateTime(timezone=True), "postgresql")
    op.create_table(
        "artifacts",
        sa.Column("run_id", _ID, nullable=False),
        sa.Column("fence", _ID, nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("size", _ID, nullable=False),
        sa.Column("created_at", instant, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "fence", name="pk_artifacts"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "artifact_chunks",
        sa.Column("run_id", _ID, nullable=False),
        sa.Column("fence", _ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "fence", "number", name="pk_artifact_chunks"),
    )


def downgrade() -> None:
    op.drop_table("artifact_chunks")
    op.drop_table("artifacts")
