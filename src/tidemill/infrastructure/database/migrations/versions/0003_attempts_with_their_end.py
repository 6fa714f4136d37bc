"""An attempt's row is written with its end; what is under way stands in the run."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("DELETE FROM run_attempts WHERE outcome IS NULL")


def downgrade() -> None:
    op.execute(
        "INSERT INTO run_attempts (run_id, attempt, fence, worker_id, started_at)"
        " SELECT id, attempt, fence, worker_id, started_at FROM task_runs"
        " WHERE status IN ('running', 'cancelling')"
    )
