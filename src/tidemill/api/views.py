"""Domain values as the API shows them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgspec

from tidemill.application.queries.flow_graph import FlowGraph
from tidemill.application.queries.ledger import Ledger
from tidemill.domain.duty import Duty, DutyLease
from tidemill.domain.events import RunEvent
from tidemill.domain.flow_run import FlowRun, Member
from tidemill.domain.gates import Explanation
from tidemill.domain.schedule import Fire
from tidemill.domain.task import Priority, Task, TaskDefinition
from tidemill.domain.task_run import RunAttempt, TaskRun
from tidemill.domain.worker import Worker
from tidemill.foundation.control_plane import ClaimedRun
from tidemill.foundation.listing import LaneDepth, Position, RunStats, cursor_of
from tidemill.foundation.store import LogLines, TaskVersion
from tidemill.observability.health import Finding

_RATE_SECONDS = 60
_LEVELS = {priority.level: priority.value for priority in Priority}

_RUN_PLAIN = (
    "id", "task_id", "task_name", "task_version", "namespace", "reason", "parameters", "attempt",
    "max_attempts", "fence", "worker_id", "flow_run_id", "result", "error_message", "exit_code",
    "missed_count", "coalesced_into", "retry_of", "part_of", "shard_index",
    "shard_total", "progress",
)  # fmt: skip
_RUN_INSTANTS = (
    "scheduled_for", "not_before", "range_from", "created_at", "dispatched_at", "started_at",
    "completed_at",
)  # fmt: skip
_plain_of, _instants_of = attrgetter(*_RUN_PLAIN), attrgetter(*_RUN_INSTANTS)
_LEASED_INSTANTS = ("started_at", "scheduled_for", "not_before", "deadline_at")


@lru_cache(4_096)  # runs share most of theirs: a view of a run takes half as long
def instant(value: datetime | None) -> str | None:
    """RFC 3339, UTC, milliseconds."""
    return None if value is None else value.isoformat(timespec="milliseconds")[:-6] + "Z"


def definition_view(definition: TaskDefinition) -> dict[str, Any]:
    """A definition, every field named."""
    view = {
        name: msgspec.to_builtins(getattr(definition, name))
        for name in TaskDefinition.__struct_fields__
        if name not in {"start_at", "end_at"}
    }
    return view | {
        "start_at": instant(definition.start_at),
        "end_at": instant(definition.end_at),
    }


def task_view(task: Task) -> dict[str, Any]:
    """A task: its definition in force and where its schedule is."""
    return definition_view(task.definition) | {
        "status": task.status.value,
        "id": task.id,
        "version": task.version,
        "created_at": instant(task.created_at),
        "updated_at": instant(task.updated_at),
        "last_run_at": instant(task.last_run_at),
        "next_run_at": None if task.paused_at else instant(task.next_run_at),
    }


def run_view(run: TaskRun) -> dict[str, Any]:
    """A run."""
    view: dict[str, Any] = dict(zip(_RUN_PLAIN, _plain_of(run), strict=True))
    view.update(zip(_RUN_INSTANTS, map(instant, _instants_of(run)), strict=True))
    view["status"] = run.status.value
    view["trigger"] = run.trigger.value
    view["priority"] = _LEVELS[run.priority]
    return view


def run_detail_view(
    run: TaskRun, flow_run: FlowRun | None, calls: Sequence[FlowRun]
) -> dict[str, Any]:
    """A run, with whoever called its flow run, and the flow runs that it called."""
    return run_view(run) | {
        "called_by": flow_run and flow_run.called_by,
        "calls": [
            {
                "attempt": each.called_by_attempt,
                "flow_run_id": each.id,
                "run_id": each.root_run_id,
                "status": each.status.value,
            }
            for each in calls
        ],
    }


def flow_run_view(flow_run: FlowRun) -> dict[str, Any]:
    """A flow run in short."""
    return {
        "id": flow_run.id,
        "namespace": flow_run.namespace,
        "root_task_id": flow_run.root_task_id,
        "root_run_id": flow_run.root_run_id,
        "trigger": flow_run.trigger.value,
        "scheduled_for": instant(flow_run.scheduled_for),
        "status": flow_run.status.value,
        "reason": flow_run.reason,
        "retry_of": flow_run.retry_of,
        "backfill_id": flow_run.backfill_id,
        "called_by": flow_run.called_by,
        "total": flow_run.total,
        "unfinished": flow_run.unfinished,
        "created_at": instant(flow_run.created_at),
        "deadline_at": instant(flow_run.deadline_at),
        "completed_at": instant(flow_run.completed_at),
    }


def graph_view(graph: FlowGraph) -> dict[str, Any]:
    """A flow run, its runs and what waits for what."""
    next_ = graph.next_after
    return {
        **flow_run_view(graph.flow_run),
        "started_at": instant(graph.started_at),
        "runs": [_member_view(each) for each in graph.runs],
        "carried_over": [_member_view(each) for each in graph.carried_over],
        "edges": [
            {
                "upstream_task_id": edge.upstream_task_id,
                "upstream_run_id": edge.upstream_run_id,
                "downstream_run_id": edge.downstream_run_id,
                "condition": edge.condition,
                "is_mapped_over": edge.is_mapped_over,
                "ended_as": edge.ended_as,
            }
            for edge in graph.edges
        ],
        "critical_path": graph.critical_path,
        "next_cursor": None if next_ is None else cursor_of(Position("id", next_, next_)),
    }


def _member_view(member: Member) -> dict[str, Any]:
    return {
        "id": member.id,
        "task_id": member.task_id,
        "task_name": member.task_name,
        "status": member.status.value,
        "reason": member.reason,
        "attempt": member.attempt,
        "part_of": member.part_of,
        "shard_index": member.shard_index,
        "shard_total": member.shard_total,
        "created_at": instant(member.created_at),
        "started_at": instant(member.started_at),
        "completed_at": instant(member.completed_at),
    }


def attempt_view(attempt: RunAttempt) -> dict[str, Any]:
    """One try of a run."""
    return {
        "attempt": attempt.attempt,
        "fence": attempt.fence,
        "worker_id": attempt.worker_id,
        "started_at": instant(attempt.started_at),
        "completed_at": instant(attempt.completed_at),
        "outcome": attempt.outcome,
        "exit_code": attempt.exit_code,
        "error_message": attempt.error_message,
    }


def event_view(event: RunEvent) -> dict[str, Any]:
    """One fact of a run's life."""
    return {
        "seq": event.seq,
        "type": event.type.value,
        "at": instant(event.at),
        "data": event.data,
    }


def log_views(rows: list[LogLines], after: int) -> list[dict[str, Any]]:
    """Stored output, a line each."""
    views = []
    for row in rows:
        lines = row.text.removesuffix("\n").split("\n")
        at = instant(row.at)
        for seq, text in enumerate(lines, row.first_seq):
            if seq > after:
                views.append(
                    {
                        "seq": seq,
                        "attempt": row.attempt,
                        "stream": row.stream,
                        "at": at,
                        "text": text,
                    }
                )
    return views


def claimed_view(claimed: ClaimedRun) -> dict[str, Any]:
    """A run as the worker that now holds it needs it."""
    run = claimed.run
    view: dict[str, Any] = {name: getattr(run, name) for name in run.__struct_fields__}
    for name in _LEASED_INSTANTS:
        view[name] = instant(view[name])
    return {
        "run": view,
        "definition": definition_view(claimed.definition),
        "previous_success_at": instant(claimed.previous_success_at),
        "deadline_seconds": claimed.deadline_seconds,
        "shard": {"index": claimed.shard.index, "total": claimed.shard.total},
    }


def worker_view(worker: Worker) -> dict[str, Any]:
    """A worker."""
    view: dict[str, Any] = msgspec.to_builtins(worker)
    view["last_heartbeat"] = instant(worker.last_heartbeat)
    view["registered_at"] = instant(worker.registered_at)
    return view


def explanation_view(explanation: Explanation) -> dict[str, Any]:
    """Every gate and what it found."""
    return {
        "may_start": explanation.may_start,
        "blocking": explanation.blocking,
        "since": instant(explanation.since),
        "earliest_start": instant(explanation.earliest_start),
        "gates": [msgspec.to_builtins(gate) for gate in explanation.gates],
    }


def fire_view(fire: Fire) -> dict[str, Any]:
    """A fire time, as UTC and as the local clock shows it."""
    return {
        "at": instant(fire.at),
        "local": fire.local.isoformat(timespec="milliseconds"),
        "note": fire.note,
    }


def ledger_view(ledger: Ledger) -> dict[str, Any]:
    """What became of every due firing."""
    items = [
        msgspec.to_builtins(item)
        | {
            "scheduled_for": instant(item.scheduled_for),
            "range_from": instant(item.range_from),
        }
        for item in ledger.items
    ]
    return {
        "due": ledger.due,
        "ran": ledger.ran,
        "coalesced": ledger.coalesced,
        "skipped": ledger.skipped,
        "missed": ledger.missed,
        "items": items,
        "next_from": instant(ledger.next_from),
    }


def version_view(version: TaskVersion) -> dict[str, Any]:
    """A definition as it was in force."""
    return {
        "version": version.version,
        "created_at": instant(version.created_at),
        "definition": definition_view(version.definition),
    }


def stats_view(stats: list[RunStats], since: datetime) -> dict[str, Any]:
    """Runs that ended since."""
    tried = sum(each.count for each in stats if each.status not in {"skipped", "cancelled"})
    succeeded = sum(each.count for each in stats if each.status == "succeeded")
    return {
        "since": instant(since),
        "finished": sum(each.count for each in stats),
        "success_rate": succeeded / tried if tried else None,
        "by_status": [
            {
                "status": each.status.value,
                "count": each.count,
                "mean_seconds": each.mean_seconds,
                "latest_at": instant(each.latest_at),
            }
            for each in stats
        ],
    }


def duties_view(leases: Sequence[DutyLease], now: datetime) -> list[dict[str, Any]]:
    """Every duty of this version, also one that nobody ever took."""
    of_duty = {lease.duty: lease for lease in leases}
    return [_duty_view(duty, of_duty.get(duty), now) for duty in Duty]


def _duty_view(duty: Duty, lease: DutyLease | None, now: datetime) -> dict[str, Any]:
    return {
        "duty": duty,
        "is_held": lease is not None and lease.is_held(now),
        "holder": lease and lease.holder,
        "since": lease and instant(lease.taken_at),
        "lease_expires_at": lease and instant(lease.lease_expires_at),
    }


def component_view(found: Finding) -> dict[str, Any]:
    """A part that was asked how it is."""
    view: dict[str, Any]
    if found.problem is None:
        view = {"status": "up", "answers_ms": round(found.answered_after_seconds * 1000, 2)}
    else:
        view = {"status": "down", "detail": found.problem}
    if found.component.breaker is not None:
        view["circuit_breaker"] = found.component.breaker().state
    return view


def queue_views(
    lanes: Sequence[LaneDepth], workers: Sequence[Worker], now: datetime
) -> list[dict[str, Any]]:
    """Lanes gathered by their queue; one that a worker serves is there though nothing is in it."""
    of_lanes = [(lane.lane.partition("/")[0], lane) for lane in lanes]
    names = {name for name, _ in of_lanes} | {name for each in workers for name in each.queues}
    queues: dict[str, dict[str, Any]] = {
        name: {
            "name": name,
            "depth": 0,
            "running": 0,
            "oldest_age_seconds": None,
            "started_per_second": 0.0,
        }
        for name in sorted(names)
    }
    for name, lane in of_lanes:
        queue = queues[name]
        queue["depth"] += lane.ready
        queue["running"] += lane.running
        queue["started_per_second"] += lane.started_last_minute / _RATE_SECONDS
        if lane.oldest_ready_at is not None:
            age = max((now - lane.oldest_ready_at) / timedelta(seconds=1), 0)
            queue["oldest_age_seconds"] = max(queue["oldest_age_seconds"] or 0, age)
    return list(queues.values())
