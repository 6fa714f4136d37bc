"""The first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSON, JSONB

revision = "0001"
down_revision = None

instant = sa.BigInteger().with_variant(sa.DateTime(timezone=True), "postgresql")
number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
json = sa.Text().with_variant(JSON(), "postgresql")
searched_json = sa.Text().with_variant(JSONB(), "postgresql")


def upgrade() -> None:

    op.create_table(
        "idempotency_keys",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.Text(), nullable=False),
        sa.Column("answer", json, nullable=False),
        sa.Column("created_at", instant, nullable=False),
        sa.PrimaryKeyConstraint("scope", "key", name=op.f("pk_idempotency_keys")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"], unique=False
    )
    op.create_table(
        "run_attempts",
        sa.Column("run_id", number, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("fence", number, nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("started_at", instant, nullable=False),
        sa.Column("completed_at", instant, nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "attempt", name=op.f("pk_run_attempts")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "run_events",
        sa.Column("id", number, autoincrement=True, nullable=False),
        sa.Column("run_id", number, nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("at", instant, nullable=False),
        sa.Column("data", json, nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_events")),
        sa.UniqueConstraint("run_id", "seq", name="uq_run_events_run_id_seq"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "run_logs",
        sa.Column("run_id", number, nullable=False),
        sa.Column("first_seq", number, nullable=False),
        sa.Column("last_seq", number, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("at", instant, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "first_seq", name=op.f("pk_run_logs")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "tasks",
        sa.Column("id", number, autoincrement=True, nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("task_type", sa.Text(), nullable=False),
        sa.Column("executor", sa.Text(), nullable=False),
        sa.Column("schedule", sa.Text(), nullable=True),
        sa.Column("priority", sa.Text(), nullable=False),
        sa.Column("tags", searched_json, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("definition", json, nullable=False),
        sa.Column("anchor_at", instant, nullable=False),
        sa.Column("next_run_at", instant, nullable=True),
        sa.Column("paused_at", instant, nullable=True),
        sa.Column("last_run_at", instant, nullable=True),
        sa.Column("created_at", instant, nullable=False),
        sa.Column("updated_at", instant, nullable=False),
        sa.Column("deleted_at", instant, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_tasks_created_at", "tasks", ["created_at"], unique=False)
    op.create_index("ix_tasks_namespace_status", "tasks", ["namespace", "status"], unique=False)
    op.create_index(
        "ix_tasks_next_run_at",
        "tasks",
        ["next_run_at"],
        unique=False,
        sqlite_where=sa.text(
            "status = 'active' AND deleted_at IS NULL AND next_run_at IS NOT NULL"
        ),
        postgresql_where=sa.text(
            "status = 'active' AND deleted_at IS NULL AND next_run_at IS NOT NULL"
        ),
    )
    for name, columns in (
        ("ix_tasks_namespace_id", ["namespace", "id"]),
        ("ix_tasks_name", ["name", "id"]),
    ):
        op.create_index(
            name,
            "tasks",
            columns,
            unique=False,
            sqlite_where=sa.text("deleted_at IS NULL"),
            postgresql_where=sa.text("deleted_at IS NULL"),
        )
    op.create_index("ix_tasks_task_type", "tasks", ["task_type"], unique=False)
    op.create_index(
        "uq_tasks_namespace_name",
        "tasks",
        ["namespace", "name"],
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hostname", sa.Text(), nullable=False),
        sa.Column("ip_address", sa.Text(), nullable=True),
        sa.Column("port", sa.Integer(), nullable=True),
        sa.Column("task_types", searched_json, nullable=False),
        sa.Column("queues", json, nullable=False),
        sa.Column("labels", json, nullable=False),
        sa.Column("max_concurrent_tasks", sa.Integer(), nullable=False),
        sa.Column("current_task_count", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("last_heartbeat", instant, nullable=False),
        sa.Column("registered_at", instant, nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("metadata", json, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_index("ix_workers_last_heartbeat", "workers", ["last_heartbeat"], unique=False)
    op.create_index("ix_workers_status", "workers", ["status", "last_heartbeat"], unique=False)
    op.create_index(
        "ix_workers_task_types", "workers", ["task_types"], unique=False, postgresql_using="gin"
    )
    op.create_table(
        "task_dependencies",
        sa.Column("task_id", number, nullable=False),
        sa.Column("upstream_task_id", number, nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("condition", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["task_id"], ["tasks.id"], name=op.f("fk_task_dependencies_task_id")
        ),
        sa.ForeignKeyConstraint(
            ["upstream_task_id"], ["tasks.id"], name=op.f("fk_task_dependencies_upstream_task_id")
        ),
        sa.PrimaryKeyConstraint("task_id", "upstream_task_id", name=op.f("pk_task_dependencies")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_task_dependencies_namespace", "task_dependencies", ["namespace"], unique=False
    )
    op.create_index(
        "ix_task_dependencies_upstream_task_id",
        "task_dependencies",
        ["upstream_task_id"],
        unique=False,
    )
    op.create_table(
        "task_runs",
        sa.Column("id", number, autoincrement=True, nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.Column("task_id", number, nullable=False),
        sa.Column("task_name", sa.Text(), nullable=False),
        sa.Column("task_version", sa.Integer(), nullable=False),
        sa.Column("task_type", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("trigger_key", sa.Text(), nullable=False),
        sa.Column("scheduled_for", instant, nullable=False),
        sa.Column("not_before", instant, nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("rank", instant, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("hold", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("parameters", json, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("hand_backs", sa.Integer(), nullable=False),
        sa.Column("fence", number, nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=True),
        sa.Column("lease_expires_at", instant, nullable=True),
        sa.Column("flow_run_id", sa.Text(), nullable=True),
        sa.Column("concurrency_key", sa.Text(), nullable=True),
        sa.Column("concurrency_limit", sa.Integer(), nullable=True),
        sa.Column("timeout_seconds", sa.Float(), nullable=True),
        sa.Column("queue_timeout_seconds", sa.Float(), nullable=True),
        sa.Column("queue_deadline_at", instant, nullable=True),
        sa.Column("deadline_at", instant, nullable=True),
        sa.Column("missed_count", number, nullable=False),
        sa.Column("coalesced_into", number, nullable=True),
        sa.Column("range_from", instant, nullable=True),
        sa.Column("retry_of", number, nullable=True),
        sa.Column("result", json, nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("progress", json, nullable=True),
        sa.Column("checkpoint", json, nullable=True),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.Column("event_seq", sa.Integer(), nullable=False),
        sa.Column("log_seq", number, nullable=False),
        sa.Column("created_at", instant, nullable=False),
        sa.Column("dispatched_at", instant, nullable=True),
        sa.Column("started_at", instant, nullable=True),
        sa.Column("completed_at", instant, nullable=True),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_task_runs_task_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task_runs")),
        sa.UniqueConstraint("task_id", "scheduled_for", "trigger_key", name="uq_task_runs_firing"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_task_runs_completed",
        "task_runs",
        ["completed_at"],
        unique=False,
        sqlite_where=sa.text("completed_at IS NOT NULL"),
        postgresql_where=sa.text("completed_at IS NOT NULL"),
    )
    op.create_index(
        "ix_task_runs_deadline",
        "task_runs",
        ["deadline_at"],
        unique=False,
        sqlite_where=sa.text("deadline_at IS NOT NULL AND completed_at IS NULL"),
        postgresql_where=sa.text("deadline_at IS NOT NULL AND completed_at IS NULL"),
    )
    op.create_index(
        "ix_task_runs_dispatched",
        "task_runs",
        ["lane", "dispatched_at"],
        unique=False,
        sqlite_where=sa.text("status = 'dispatched'"),
        postgresql_where=sa.text("status = 'dispatched'"),
    )
    op.create_index(
        "ix_task_runs_flow_run_id",
        "task_runs",
        ["flow_run_id"],
        unique=False,
        sqlite_where=sa.text("flow_run_id IS NOT NULL"),
        postgresql_where=sa.text("flow_run_id IS NOT NULL"),
    )
    op.create_index(
        "ix_task_runs_key",
        "task_runs",
        ["concurrency_key", "status"],
        unique=False,
        sqlite_where=sa.text(
            "concurrency_key IS NOT NULL AND status IN ('dispatched', 'running', 'cancelling')"
        ),
        postgresql_where=sa.text(
            "concurrency_key IS NOT NULL AND status IN ('dispatched', 'running', 'cancelling')"
        ),
    )
    op.create_index(
        "ix_task_runs_lease",
        "task_runs",
        ["lease_expires_at"],
        unique=False,
        sqlite_where=sa.text("status IN ('running', 'cancelling')"),
        postgresql_where=sa.text("status IN ('running', 'cancelling')"),
    )
    op.create_index(
        "ix_task_runs_limited",
        "task_runs",
        ["concurrency_key", "rank"],
        unique=False,
        sqlite_where=sa.text("hold = 'limit'"),
        postgresql_where=sa.text("hold = 'limit'"),
    )
    op.create_index(
        "ix_task_runs_queue_deadline",
        "task_runs",
        ["queue_deadline_at"],
        unique=False,
        sqlite_where=sa.text("queue_deadline_at IS NOT NULL AND completed_at IS NULL"),
        postgresql_where=sa.text("queue_deadline_at IS NOT NULL AND completed_at IS NULL"),
    )
    op.create_index(
        "ix_task_runs_queued",
        "task_runs",
        ["task_id", "scheduled_for"],
        unique=False,
        sqlite_where=sa.text("hold IN ('overlap', 'catch_up')"),
        postgresql_where=sa.text("hold IN ('overlap', 'catch_up')"),
    )
    op.create_index(
        "ix_task_runs_ready",
        "task_runs",
        ["lane", "rank", "scheduled_for", "id"],
        unique=False,
        sqlite_where=sa.text("status = 'pending' AND hold IS NULL"),
        postgresql_where=sa.text("status = 'pending' AND hold IS NULL"),
    )
    op.create_index("ix_task_runs_scheduled_for", "task_runs", ["scheduled_for"], unique=False)
    op.create_index(
        "ix_task_runs_ended",
        "task_runs",
        ["status", "id"],
        unique=False,
        sqlite_where=sa.text("completed_at IS NOT NULL"),
        postgresql_where=sa.text("completed_at IS NOT NULL"),
    )
    op.create_index(
        "ix_task_runs_open",
        "task_runs",
        ["status", "id"],
        unique=False,
        sqlite_where=sa.text("completed_at IS NULL"),
        postgresql_where=sa.text("completed_at IS NULL"),
    )
    op.create_index(
        "ix_task_runs_success",
        "task_runs",
        ["task_id", "completed_at"],
        unique=False,
        sqlite_where=sa.text("status = 'succeeded'"),
        postgresql_where=sa.text("status = 'succeeded'"),
    )
    op.create_index("ix_task_runs_task_id", "task_runs", ["task_id", "id"], unique=False)
    op.create_index(
        "ix_task_runs_timed",
        "task_runs",
        ["not_before"],
        unique=False,
        sqlite_where=sa.text("hold = 'time'"),
        postgresql_where=sa.text("hold = 'time'"),
    )
    op.create_index(
        "ix_task_runs_unfinished",
        "task_runs",
        ["task_id", "id"],
        unique=False,
        sqlite_where=sa.text("completed_at IS NULL"),
        postgresql_where=sa.text("completed_at IS NULL"),
    )
    op.create_index(
        "ix_task_runs_worker_id",
        "task_runs",
        ["worker_id", "id"],
        unique=False,
        sqlite_where=sa.text("worker_id IS NOT NULL"),
        postgresql_where=sa.text("worker_id IS NOT NULL"),
    )
    op.create_table(
        "task_versions",
        sa.Column("task_id", number, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("definition", json, nullable=False),
        sa.Column("created_at", instant, nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_task_versions_task_id")),
        sa.PrimaryKeyConstraint("task_id", "version", name=op.f("pk_task_versions")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:

    op.drop_table("task_versions")
    op.drop_index(
        "ix_task_runs_worker_id",
        table_name="task_runs",
        sqlite_where=sa.text("worker_id IS NOT NULL"),
        postgresql_where=sa.text("worker_id IS NOT NULL"),
    )
    op.drop_index(
        "ix_task_runs_unfinished",
        table_name="task_runs",
        sqlite_where=sa.text("completed_at IS NULL"),
        postgresql_where=sa.text("completed_at IS NULL"),
    )
    op.drop_index(
        "ix_task_runs_timed",
        table_name="task_runs",
        sqlite_where=sa.text("hold = 'time'"),
        postgresql_where=sa.text("hold = 'time'"),
    )
    op.drop_index("ix_task_runs_task_id", table_name="task_runs")
    op.drop_index(
        "ix_task_runs_success",
        table_name="task_runs",
        sqlite_where=sa.text("status = 'succeeded'"),
        postgresql_where=sa.text("status = 'succeeded'"),
    )
    op.drop_index("ix_task_runs_ended", table_name="task_runs")
    op.drop_index("ix_task_runs_open", table_name="task_runs")
    op.drop_index("ix_task_runs_scheduled_for", table_name="task_runs")
    op.drop_index(
        "ix_task_runs_ready",
        table_name="task_runs",
        sqlite_where=sa.text("status = 'pending' AND hold IS NULL"),
        postgresql_where=sa.text("status = 'pending' AND hold IS NULL"),
    )
    op.drop_index(
        "ix_task_runs_queued",
        table_name="task_runs",
        sqlite_where=sa.text("hold IN ('overlap', 'catch_up')"),
        postgresql_where=sa.text("hold IN ('overlap', 'catch_up')"),
    )
    op.drop_index(
        "ix_task_runs_queue_deadline",
        table_name="task_runs",
        sqlite_where=sa.text("queue_deadline_at IS NOT NULL AND completed_at IS NULL"),
        postgresql_where=sa.text("queue_deadline_at IS NOT NULL AND completed_at IS NULL"),
    )
    op.drop_index(
        "ix_task_runs_limited",
        table_name="task_runs",
        sqlite_where=sa.text("hold = 'limit'"),
        postgresql_where=sa.text("hold = 'limit'"),
    )
    op.drop_index(
        "ix_task_runs_lease",
        table_name="task_runs",
        sqlite_where=sa.text("status IN ('running', 'cancelling')"),
        postgresql_where=sa.text("status IN ('running', 'cancelling')"),
    )
    op.drop_index(
        "ix_task_runs_key",
        table_name="task_runs",
        sqlite_where=sa.text(
            "concurrency_key IS NOT NULL AND status IN ('dispatched', 'running', 'cancelling')"
        ),
        postgresql_where=sa.text(
            "concurrency_key IS NOT NULL AND status IN ('dispatched', 'running', 'cancelling')"
        ),
    )
    op.drop_index(
        "ix_task_runs_flow_run_id",
        table_name="task_runs",
        sqlite_where=sa.text("flow_run_id IS NOT NULL"),
        postgresql_where=sa.text("flow_run_id IS NOT NULL"),
    )
    op.drop_index(
        "ix_task_runs_dispatched",
        table_name="task_runs",
        sqlite_where=sa.text("status = 'dispatched'"),
        postgresql_where=sa.text("status = 'dispatched'"),
    )
    op.drop_index(
        "ix_task_runs_deadline",
        table_name="task_runs",
        sqlite_where=sa.text("deadline_at IS NOT NULL AND completed_at IS NULL"),
        postgresql_where=sa.text("deadline_at IS NOT NULL AND completed_at IS NULL"),
    )
    op.drop_index(
        "ix_task_runs_completed",
        table_name="task_runs",
        sqlite_where=sa.text("completed_at IS NOT NULL"),
        postgresql_where=sa.text("completed_at IS NOT NULL"),
    )
    op.drop_table("task_runs")
    op.drop_index("ix_task_dependencies_upstream_task_id", table_name="task_dependencies")
    op.drop_index("ix_task_dependencies_namespace", table_name="task_dependencies")
    op.drop_table("task_dependencies")
    op.drop_index("ix_workers_task_types", table_name="workers", postgresql_using="gin")
    op.drop_index("ix_workers_status", table_name="workers")
    op.drop_index("ix_workers_last_heartbeat", table_name="workers")
    op.drop_table("workers")
    op.drop_index(
        "uq_tasks_namespace_name",
        table_name="tasks",
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.drop_index("ix_tasks_task_type", table_name="tasks")
    op.drop_index(
        "ix_tasks_next_run_at",
        table_name="tasks",
        sqlite_where=sa.text(
            "status = 'active' AND deleted_at IS NULL AND next_run_at IS NOT NULL"
        ),
        postgresql_where=sa.text(
            "status = 'active' AND deleted_at IS NULL AND next_run_at IS NOT NULL"
        ),
    )
    op.drop_index("ix_tasks_namespace_status", table_name="tasks")
    op.drop_index("ix_tasks_created_at", table_name="tasks")
    op.drop_index("ix_tasks_namespace_id", table_name="tasks")
    op.drop_index("ix_tasks_name", table_name="tasks")
    op.drop_table("tasks")
    op.drop_table("run_logs")
    op.drop_table("run_events")
    op.drop_table("run_attempts")
    op.drop_index("ix_idempotency_keys_created_at", table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
