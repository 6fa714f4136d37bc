"""The tables, one definition for every engine.

The conditions of partial indexes stand here as literal text and are used as they are in the
statements: a planner takes a partial index only where it sees the same words. A statement that
names its runs says them by `once_found`, so that it does not walk through all that the index holds.
"""

import re
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from tidemill.domain.events import EventType
from tidemill.domain.flow_run import FlowStatus
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import TaskDefinition, TaskStatus
from tidemill.domain.task_run import AttemptOutcome, Hold, Trigger
from tidemill.domain.worker import WorkerStatus
from tidemill.infrastructure.database.prepared import CurrentTransaction
from tidemill.infrastructure.database.types import Enumerated, FreeText, Instant, Json

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)

_Id = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers INTEGER keys only


def _partial(name: str, *columns: Any, where: str, unique: bool = False) -> Index:
    condition = text(where)
    return Index(name, *columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


def once_found(condition: str) -> str:
    """The same, in words in which no planner sees the condition of a partial index."""
    return re.sub(r"\bstatus\b", "coalesce(status, '')", condition)


NOT_DELETED = "deleted_at IS NULL"
FIRES = "status = 'active' AND deleted_at IS NULL AND next_run_at IS NOT NULL"

tasks = Table(
    "tasks",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("namespace", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("task_type", Text, nullable=False),
    Column("executor", Text, nullable=False),
    Column("schedule", Text),
    Column("priority", Text, nullable=False),
    Column("tags", Json(list[str], is_searched=True), nullable=False),
    Column("version", Integer, nullable=False),
    Column("status", Enumerated(TaskStatus), nullable=False),
    Column("definition", Json(TaskDefinition), nullable=False),
    Column("anchor_at", Instant, nullable=False),
    Column("next_run_at", Instant),
    Column("paused_at", Instant),
    Column("last_run_at", Instant),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("deleted_at", Instant),
    Index("ix_tasks_namespace_status", "namespace", "status"),
    Index("ix_tasks_task_type", "task_type"),
    Index("ix_tasks_created_at", "created_at"),
    _partial("ix_tasks_namespace_id", "namespace", "id", where=NOT_DELETED),
    _partial("ix_tasks_name", "name", "id", where=NOT_DELETED),
    _partial("ix_tasks_next_run_at", "next_run_at", where=FIRES),
    _partial("uq_tasks_namespace_name", "namespace", "name", where=NOT_DELETED, unique=True),
    sqlite_autoincrement=True,
)

task_versions = Table(
    "task_versions",
    metadata,
    Column("task_id", _Id, ForeignKey("tasks.id"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("definition", Json(TaskDefinition), nullable=False),
    Column("created_at", Instant, nullable=False),
    sqlite_with_rowid=False,
)

task_dependencies = Table(
    "task_dependencies",
    metadata,
    Column("task_id", _Id, ForeignKey("tasks.id"), primary_key=True),
    Column("upstream_task_id", _Id, ForeignKey("tasks.id"), primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("condition", Text, nullable=False),
    Index("ix_task_dependencies_upstream_task_id", "upstream_task_id"),
    Index("ix_task_dependencies_namespace", "namespace"),
    sqlite_with_rowid=False,
)

# Which task calls which; a task calls one at most.
task_calls = Table(
    "task_calls",
    metadata,
    Column("task_id", _Id, ForeignKey("tasks.id"), primary_key=True),
    Column("called_task_id", _Id, ForeignKey("tasks.id"), nullable=False),
    Column("namespace", Text, nullable=False),
    Index("ix_task_calls_namespace", "namespace"),
    sqlite_with_rowid=False,
)

prepared_firings = Table(
    "prepared_firings",
    metadata,
    Column("task_id", _Id, ForeignKey("tasks.id"), primary_key=True),
    Column("task_version", Integer, nullable=False),
    Column("scheduled_for", Instant, nullable=False),
    Column("is_plain", Boolean, nullable=False),
    Column("following_at", Instant),
    Column("late_after", Instant, nullable=False),
    Column("may_overlap", Boolean, nullable=False),
    Column("lane", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("concurrency_key", Text),
    Column("concurrency_limit", Integer),
    Column("timeout_seconds", Float),
    sqlite_with_rowid=False,
)

IS_UNFINISHED = "completed_at IS NULL"
IS_READY = "status = 'pending' AND hold IS NULL"
IS_HELD_FOR_TIME = "hold = 'time'"
IS_HELD_FOR_LIMIT = "hold = 'limit'"
IS_HELD_FOR_TASK = "hold IN ('overlap', 'catch_up')"
IS_LEASED = "status IN ('running', 'cancelling')"
IS_NOT_LEASED = "status NOT IN ('running', 'cancelling')"
IS_RUNNING = "status = 'running'"
IS_DISPATCHED = "status = 'dispatched'"
HOLDS_KEY = "concurrency_key IS NOT NULL AND status IN ('dispatched', 'running', 'cancelling')"
HAS_DEADLINE = "deadline_at IS NOT NULL AND completed_at IS NULL"
HAS_QUEUE_DEADLINE = "queue_deadline_at IS NOT NULL AND completed_at IS NULL"
HAS_ENDED = "completed_at IS NOT NULL"
HAS_SUCCEEDED = "status = 'succeeded'"

task_runs = Table(
    "task_runs",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("namespace", Text, nullable=False),
    Column("task_id", _Id, ForeignKey("tasks.id"), nullable=False),
    Column("task_name", Text, nullable=False),
    Column("task_version", Integer, nullable=False),
    Column("task_type", Text, nullable=False),
    Column("lane", Text, nullable=False),
    Column("trigger", Enumerated(Trigger), nullable=False),
    Column("trigger_key", Text, nullable=False),
    Column("scheduled_for", Instant, nullable=False),
    Column("not_before", Instant, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("rank", Instant, nullable=False),
    Column("status", Enumerated(RunStatus), nullable=False),
    Column("hold", Enumerated(Hold)),
    Column("reason", Text),
    Column("parameters", Json(dict[str, Any]), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    Column("hand_backs", Integer, nullable=False),
    Column("fence", _Id, nullable=False),
    Column("worker_id", Text),
    Column("lease_expires_at", Instant),
    Column("flow_run_id", Text),
    Column("concurrency_key", Text),
    Column("concurrency_limit", Integer),
    Column("timeout_seconds", Float),
    Column("queue_timeout_seconds", Float),
    Column("queue_deadline_at", Instant),
    Column("deadline_at", Instant),
    Column("missed_count", _Id, nullable=False),
    Column("coalesced_into", _Id),
    Column("range_from", Instant),
    Column("retry_of", _Id),
    Column("result", Json()),
    Column("error_message", FreeText()),
    Column("exit_code", Integer),
    Column("progress", Json(dict[str, Any])),
    Column("checkpoint", Json()),
    Column("traceparent", Text),
    Column("event_seq", Integer, nullable=False),
    Column("log_seq", _Id, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("dispatched_at", Instant),
    Column("started_at", Instant),
    Column("completed_at", Instant),
    Column("part_of", _Id),
    Column("shard_index", Integer),
    Column("shard_total", Integer),
    # In this order it also serves lists and the ledger of one task.
    UniqueConstraint("task_id", "scheduled_for", "trigger_key", name="uq_task_runs_firing"),
    # Two, each partial: a whole index on the status draws SQLite's planner away from the others.
    _partial("ix_task_runs_ended", "status", "id", where=HAS_ENDED),
    _partial("ix_task_runs_open", "status", "id", where=IS_UNFINISHED),
    Index("ix_task_runs_task_id", "task_id", "id"),
    Index("ix_task_runs_scheduled_for", "scheduled_for"),
    _partial("ix_task_runs_worker_id", "worker_id", "id", where="worker_id IS NOT NULL"),
    _partial("ix_task_runs_flow_run_id", "flow_run_id", where="flow_run_id IS NOT NULL"),
    _partial("ix_task_runs_part_of", "part_of", "id", where="part_of IS NOT NULL"),
    _partial("ix_task_runs_unfinished", "task_id", "id", where=IS_UNFINISHED),
    _partial("ix_task_runs_ready", "lane", "rank", "scheduled_for", "id", where=IS_READY),
    _partial("ix_task_runs_timed", "not_before", where=IS_HELD_FOR_TIME),
    _partial("ix_task_runs_limited", "concurrency_key", "rank", "id", where=IS_HELD_FOR_LIMIT),
    _partial("ix_task_runs_queued", "task_id", "scheduled_for", where=IS_HELD_FOR_TASK),
    _partial("ix_task_runs_key", "concurrency_key", "status", where=HOLDS_KEY),
    _partial("ix_task_runs_lease", "lease_expires_at", where=IS_LEASED),
    _partial("ix_task_runs_dispatched", "lane", "dispatched_at", where=IS_DISPATCHED),
    _partial(
        "ix_task_runs_queue_deadline",
        "queue_deadline_at",
        where=HAS_QUEUE_DEADLINE,
    ),
    _partial(
        "ix_task_runs_deadline",
        "deadline_at",
        where=HAS_DEADLINE,
    ),
    _partial("ix_task_runs_success", "task_id", "completed_at", where=HAS_SUCCEEDED),
    _partial("ix_task_runs_completed", "completed_at", where=HAS_ENDED),
    sqlite_autoincrement=True,
)

AWAITS_TURN = "status = 'waiting'"
IS_UNDER_WAY = "backfill_id IS NOT NULL AND status = 'running'"

flow_runs = Table(
    "flow_runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("root_task_id", _Id, nullable=False),
    Column("root_run_id", _Id, nullable=False),
    Column("trigger", Enumerated(Trigger), nullable=False),
    Column("scheduled_for", Instant, nullable=False),
    Column("status", Enumerated(FlowStatus), nullable=False),
    Column("total", Integer, nullable=False),
    Column("unfinished", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("completed_at", Instant),
    Column("reason", Text),
    Column("retry_of", Text),
    Column("deadline_seconds", Float),
    Column("deadline_at", Instant),
    Column("backfill_id", Text),
    Column("called_by", _Id),
    Column("called_by_attempt", Integer),
    Index("ix_flow_runs_namespace_id", "namespace", "id"),
    Index("ix_flow_runs_root_task_id", "root_task_id", "id"),
    _partial("ix_flow_runs_completed", "completed_at", where=HAS_ENDED),
    _partial("ix_flow_runs_deadline", "deadline_at", where=HAS_DEADLINE),
    _partial("ix_flow_runs_turn", "backfill_id", "scheduled_for", where=AWAITS_TURN),
    _partial("ix_flow_runs_called_by", "called_by", "id", where="called_by IS NOT NULL"),
    _partial("ix_flow_runs_under_way", "backfill_id", where=IS_UNDER_WAY),
    sqlite_with_rowid=False,
)

# Only those of which flow runs still wait for their turn.
backfills = Table(
    "backfills",
    metadata,
    Column("id", Text, primary_key=True),
    Column("max_parallel", Integer, nullable=False),
    sqlite_with_rowid=False,
)

# What a flow run that was opened to retry another need not run again.
carried_runs = Table(
    "carried_runs",
    metadata,
    Column("flow_run_id", Text, primary_key=True),
    Column("run_id", _Id, primary_key=True),
    Index("ix_carried_runs_run_id", "run_id"),
    sqlite_with_rowid=False,
)

IS_OUTSIDE = "upstream_run_id IS NULL AND ended_as IS NULL"

run_edges = Table(
    "run_edges",
    metadata,
    Column("downstream_run_id", _Id, primary_key=True),
    Column("upstream_task_id", _Id, primary_key=True),
    Column("part", _Id, primary_key=True),
    Column("upstream_run_id", _Id),
    Column("flow_run_id", Text, nullable=False),
    Column("condition", Text, nullable=False),
    Column("ended_as", Enumerated(RunStatus)),
    # A version that does not know it says nothing of it.
    Column("is_mapped_over", Boolean, nullable=False, server_default=text("false")),
    _partial(
        "ix_run_edges_upstream_run_id", "upstream_run_id", where="upstream_run_id IS NOT NULL"
    ),
    _partial("ix_run_edges_outside", "upstream_task_id", where=IS_OUTSIDE),
    sqlite_with_rowid=False,
)

# Only of runs that still wait.
run_tallies = Table(
    "run_tallies",
    metadata,
    Column("run_id", _Id, primary_key=True),
    Column("rule", Text, nullable=False),
    Column("total", Integer, nullable=False),
    Column("met", Integer, nullable=False),
    Column("unmet", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    sqlite_with_rowid=False,
)

# How often somebody was chosen in turn in a lane: all dispatchers count on.
lane_turns = Table(
    "lane_turns",
    metadata,
    Column("lane", Text, primary_key=True),
    Column("turn", _Id, nullable=False),
    sqlite_with_rowid=False,
)

# What one dispatcher at a time does for all: whoever took it last, and until when it is theirs.
duties = Table(
    "duties",
    metadata,
    Column("duty", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("fence", _Id, nullable=False),
    Column("taken_at", Instant, nullable=False),
    Column("lease_expires_at", Instant, nullable=False),
    sqlite_with_rowid=False,
)

run_attempts = Table(
    "run_attempts",
    metadata,
    Column("run_id", _Id, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("fence", _Id, nullable=False),
    Column("worker_id", Text, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("completed_at", Instant),
    Column("outcome", Enumerated(AttemptOutcome)),
    Column("exit_code", Integer),
    Column("error_message", FreeText()),
    sqlite_with_rowid=False,
)

run_events = Table(
    "run_events",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("run_id", _Id, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("type", Enumerated(EventType), nullable=False),
    Column("at", Instant, nullable=False),
    Column("data", Json(dict[str, Any]), nullable=False),
    Column("namespace", Text, nullable=False),
    Column("transaction_id", BigInteger, nullable=False, server_default=CurrentTransaction()),
    UniqueConstraint("run_id", "seq", name="uq_run_events_run_id_seq"),
    Index("ix_run_events_transaction_id", "transaction_id", "id").ddl_if(dialect="postgresql"),
    sqlite_autoincrement=True,
)

run_logs = Table(
    "run_logs",
    metadata,
    Column("run_id", _Id, primary_key=True),
    Column("first_seq", _Id, primary_key=True),
    Column("last_seq", _Id, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("stream", Text, nullable=False),
    Column("at", Instant, nullable=False),
    Column("text", FreeText(), nullable=False),
    sqlite_with_rowid=False,
)

# Results that are too large for the row of their run, each of the attempt that was claimed with a
# fence: what is known of it, and its content in pieces.
artifacts = Table(
    "artifacts",
    metadata,
    Column("run_id", _Id, primary_key=True),
    Column("fence", _Id, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("size", _Id, nullable=False),
    Column("created_at", Instant, nullable=False),
    sqlite_with_rowid=False,
)

artifact_chunks = Table(
    "artifact_chunks",
    metadata,
    Column("run_id", _Id, primary_key=True),
    Column("fence", _Id, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("hostname", Text, nullable=False),
    Column("ip_address", Text),
    Column("port", Integer),
    Column("task_types", Json(list[str], is_searched=True), nullable=False),
    Column("queues", Json(list[str]), nullable=False),
    Column("labels", Json(dict[str, str]), nullable=False),
    Column("max_concurrent_tasks", Integer, nullable=False),
    Column("current_task_count", Integer, nullable=False),
    Column("status", Enumerated(WorkerStatus), nullable=False),
    Column("last_heartbeat", Instant, nullable=False),
    Column("registered_at", Instant, nullable=False),
    Column("version", Text, nullable=False),
    Column("metadata", Json(dict[str, Any]), nullable=False),
    Index("ix_workers_status", "status", "last_heartbeat"),
    Index("ix_workers_last_heartbeat", "last_heartbeat"),
    Index("ix_workers_task_types", "task_types", postgresql_using="gin"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request_hash", Text, nullable=False),
    Column("answer", Json(), nullable=False),
    Column("created_at", Instant, nullable=False),
    Index("ix_idempotency_keys_created_at", "created_at"),
    sqlite_with_rowid=False,
)
