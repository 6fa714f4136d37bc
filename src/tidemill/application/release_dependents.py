"""Runs ended: those that waited for them start, or will never start and have ended as well.

All of it in the transaction that ends them. The flow run is locked first, so that of two that end
at the same time one sees what the other counted.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec

from tidemill.domain.deadline import queue_deadline
from tidemill.domain.dependency import Edge, Settled, settle, settle_edges
from tidemill.domain.events import EventType
from tidemill.domain.flow_run import FlowRun, flow_status
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import TaskDefinition
from tidemill.domain.task_run import Hold, RunChange, RunHead, TaskRun, move, rank_of
from tidemill.foundation.batches import in_batches
from tidemill.foundation.store import RunEnd, Transaction
from tidemill.foundation.wakeups import Topic

R = TypeVar("R", bound=RunHead)

_OUTSIDE_AT_ONCE = 1_000
_RUNS_AT_ONCE = 2_000  # between two batches others get a turn


def release_dependents(transaction: Transaction, ended: Sequence[RunHead]) -> None:
    """Count that these runs, of any flow run or none, have ended, and see who is free by that."""
    in_flow = [run for run in ended if run.flow_run_id is not None]
    if not in_flow:
        return
    flow_runs = transaction.flow_runs({run.flow_run_id for run in in_flow if run.flow_run_id})
    ends = {run.id: run.status for run in in_flow}
    transaction.forget_tallies([run.id for run in in_flow if not run.attempt])
    settled = _settle(transaction, ends)
    skipped = _move(transaction, settled)
    gone = Counter(run.flow_run_id for run in [*in_flow, *skipped])
    _count_down(transaction, flow_runs, gone)


def wait_for_parts(transaction: Transaction, parts: Sequence[TaskRun]) -> None:
    """Whoever waits for a run that was split waits for these further parts of it as well."""
    in_flow = [part for part in parts if part.flow_run_id is not None]
    if not in_flow:
        return
    flow_runs = transaction.flow_runs({part.flow_run_id for part in in_flow if part.flow_run_id})
    edges = transaction.open_edges_from({part.part_of for part in in_flow if part.part_of})
    further = [
        msgspec.structs.replace(edge, part=part.id, upstream_run_id=part.id)
        for part in in_flow
        for edge in edges
        if edge.upstream_run_id == part.part_of
    ]
    more = Counter(edge.downstream_run_id for edge in further)
    transaction.add_edges(further)
    transaction.save_tallies(
        [
            msgspec.structs.replace(tally, total=tally.total + more[run_id])
            for run_id, tally in transaction.tallies(more.keys()).items()
        ]
    )
    new = Counter(part.flow_run_id for part in in_flow)
    transaction.save_flow_runs(
        [
            msgspec.structs.replace(
                each, total=each.total + new[each.id], unfinished=each.unfinished + new[each.id]
            )
            for each in flow_runs.values()
        ]
    )


def count_outside_edges(transaction: Transaction) -> None:
    """Count what ended outside of the flow runs that wait for it, for the same period or later."""
    _count_from_outside(transaction, transaction.outside_edges(_OUTSIDE_AT_ONCE))


def give_up_outside_edges(transaction: Transaction, task_ids: Collection[int]) -> None:
    """Nobody waits any more for a run of these tasks, which were deleted."""
    never = RunEnd(None, RunStatus.CANCELLED)
    edges = transaction.edges_from_outside(task_ids)
    _count_from_outside(transaction, [(edge, never) for edge in edges])


def _count_from_outside(transaction: Transaction, found: Sequence[tuple[Edge, RunEnd]]) -> None:
    if not found:
        return
    flow_runs = transaction.flow_runs({edge.flow_run_id for edge, _ in found})
    taken = transaction.take_outside_edges(found)
    tallies = transaction.tallies({edge.downstream_run_id for edge in taken})
    settled = _with_those_below(transaction, settle_edges(tallies, taken))
    skipped = _move(transaction, settled)
    _count_down(transaction, flow_runs, Counter(run.flow_run_id for run in skipped))


def _settle(transaction: Transaction, ends: Mapping[int, RunStatus]) -> Settled:
    counted = transaction.end_edges([RunEnd(*each) for each in ends.items()])
    if not counted:
        return Settled({}, [], [])
    tallies = transaction.tallies({edge.downstream_run_id for edge in counted})
    return _with_those_below(transaction, settle(tallies, counted, ends))


def _with_those_below(transaction: Transaction, settled: Settled) -> Settled:
    """The same, and what is skipped or starts because others are skipped, however far down."""
    if not settled.skips:
        return settled
    skipped = dict.fromkeys(settled.skips, RunStatus.SKIPPED)
    edges = transaction.open_edges_below(skipped)
    stored = transaction.tallies({edge.downstream_run_id for edge in edges})
    tallies = {**stored, **settled.tallies}
    waiting = {run_id: tally for run_id, tally in tallies.items() if run_id not in skipped}
    further = settle(waiting, edges, skipped)
    skipped |= dict.fromkeys(further.skips, RunStatus.SKIPPED)
    transaction.end_edges([RunEnd(*each) for each in skipped.items()])
    return Settled(
        {**settled.tallies, **further.tallies},
        list(dict.fromkeys([*settled.starts, *further.starts])),
        list(skipped),
    )


def _move(transaction: Transaction, settled: Settled) -> list[RunHead]:
    """Let them start or skip them; those that were skipped."""
    decided = {*settled.starts, *settled.skips}
    transaction.save_tallies(
        [tally for run_id, tally in settled.tallies.items() if run_id not in decided]
    )
    if not decided:
        return []
    transaction.forget_tallies(decided)
    for batch in in_batches(sorted(settled.starts), _RUNS_AT_ONCE):
        _start_all(transaction, batch)
    skipped: list[RunHead] = []
    for batch in in_batches(sorted(settled.skips), _RUNS_AT_ONCE):
        waiting = _waiting(transaction.run_heads(batch))
        transaction.change_runs([_skip(run, transaction.now) for run in waiting])
        skipped += waiting
    transaction.announce(Topic.READY, Topic.EVENTS)
    return skipped


def _start_all(transaction: Transaction, run_ids: Sequence[int]) -> None:
    runs = _waiting(transaction.runs(run_ids))
    definitions = transaction.definitions({(run.task_id, run.task_version) for run in runs})
    bound = [
        run.task_id for run in runs if definitions[run.task_id, run.task_version].overlap != "allow"
    ]
    busy = {run.task_id for run in transaction.unfinished_runs(bound)} if bound else set()
    transaction.change_runs(
        [
            _start(run, definitions[run.task_id, run.task_version], transaction.now, busy)
            for run in runs
        ]
    )


def _waiting(runs: Mapping[int, R]) -> list[R]:
    return [run for run in runs.values() if run.status is RunStatus.WAITING]


def _start(
    run: TaskRun, definition: TaskDefinition, now: datetime, busy: Iterable[int]
) -> RunChange:
    """In a flow run nobody is skipped for overlap: it waits until the earlier run has ended."""
    ready_at = max(run.not_before, now)
    hold = Hold.TIME if run.not_before > now else None
    if run.task_id in busy and definition.overlap != "allow":
        hold = Hold.CATCH_UP
    return move(
        run,
        RunStatus.PENDING,
        now,
        EventType.RUN_RELEASED,
        {"held_for": RunStatus.WAITING.value},
        hold=hold,
        not_before=ready_at,
        rank=rank_of(ready_at, run.priority),
        queue_deadline_at=queue_deadline(run, ready_at),
        deadline_at=_after(ready_at, definition.deadline_seconds),
    )


def _skip(run: RunHead, now: datetime) -> RunChange:
    return move(
        run,
        RunStatus.SKIPPED,
        now,
        EventType.RUN_SKIPPED,
        {"reason": "upstream"},
        reason="upstream",
        completed_at=now,
    )


def _count_down(
    transaction: Transaction, flow_runs: Mapping[str, FlowRun], gone: Mapping[str | None, int]
) -> None:
    """So many runs of each flow run have ended; with the last, so has the flow run."""
    counted = [
        msgspec.structs.replace(each, unfinished=each.unfinished - gone.get(each.id, 0))
        for each in flow_runs.values()
    ]
    ended = [each.id for each in counted if not each.unfinished]
    unhandled = transaction.unhandled_ends(ended) if ended else {}
    transaction.save_flow_runs(
        [
            each
            if each.unfinished
            else msgspec.structs.replace(
                each, status=flow_status(unhandled[each.id]), completed_at=transaction.now
            )
            for each in counted
        ]
    )


def _after(instant: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else instant + timedelta(seconds=seconds)
