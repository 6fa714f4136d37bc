"""What a run's end sets free: runs of the same task or key that waited for it, and fixed delays."""

from collections.abc import Collection, Sequence

import msgspec

from tidemill.application.note_ready import Freed, note_ready
from tidemill.application.release_dependents import release_dependents
from tidemill.application.return_calls import return_calls
from tidemill.application.stop_maps import stop_maps
from tidemill.domain.events import EventType
from tidemill.domain.flow_run import FlowRun
from tidemill.domain.gates import concurrency_gate
from tidemill.domain.run_status import FINAL
from tidemill.domain.task import TaskStatus
from tidemill.domain.task_run import Hold, RunChange, RunHead, TaskRun, annotate
from tidemill.foundation.batches import in_batches
from tidemill.foundation.store import TaskAdvance, Transaction
from tidemill.foundation.wakeups import Topic

_DEFINITIONS_AT_ONCE = 5_000


def follow_up_attempts(transaction: Transaction, changes: Sequence[RunChange]) -> None:
    """Let go on what waited for attempts that these changes, written already, have ended.

    A run that is to be tried again has left its key; only one that is final has made way for the
    next of its task.
    """
    final = [
        msgspec.structs.replace(change.before, status=change.changes["status"])
        for change in changes
        if change.changes["status"] in FINAL
    ]
    retried = [change.before for change in changes if change.changes["status"] not in FINAL]
    follow_up_ended(transaction, final)
    let_waiting_for_keys_go(transaction, _limits_of(retried))


def follow_up_ended(
    transaction: Transaction, ended: Sequence[RunHead], waited_for: Collection[int] | None = None
) -> None:
    """Let go on what waited for these runs, which have the final status that is written already.

    `waited_for` are those of their tasks of which other runs wait; None where that is not known.
    """
    while ended:
        if waited_for is None:
            waited_for = {run.task_id for run in ended}
        stopped = stop_maps(transaction, ended)
        ended = [*ended, *stopped]
        called = release_dependents(transaction, ended)
        let_next_of_task_go(transaction, {*waited_for, *(run.task_id for run in stopped)})
        let_waiting_for_keys_go(transaction, _limits_of(ended))
        _rearm_fixed_delays(transaction, ended)
        ended, waited_for = _return_calls(transaction, called) if called else [], None


def follow_up_calls(transaction: Transaction, called: Sequence[FlowRun]) -> None:
    """Let go on what waited for these called flow runs, which have ended, and so on upwards."""
    if called:
        follow_up_ended(transaction, _return_calls(transaction, called))


def _return_calls(transaction: Transaction, called: Sequence[FlowRun]) -> list[RunHead]:
    """Those that are final with these flow runs; the others are to be tried again."""
    returned = return_calls(transaction, called)
    let_waiting_for_keys_go(transaction, _limits_of(returned.retried))
    return returned.final


def _limits_of(runs: Sequence[RunHead]) -> dict[str, int]:
    return {
        run.concurrency_key: run.concurrency_limit
        for run in runs
        if run.concurrency_key is not None and run.concurrency_limit is not None
    }


def let_next_of_task_go(transaction: Transaction, task_ids: Collection[int] | None) -> None:
    """For each of these tasks, or of all, that has no open run, free the one that waited longest
    for that; where it is one of those that a run was mapped into, all of them."""
    if task_ids is not None and not task_ids:
        return
    idle = transaction.tasks_waited_for_in_vain(task_ids)
    if not idle:
        return
    held = transaction.held_for_tasks(idle)
    first: dict[int, TaskRun] = {}
    for run in held:
        first.setdefault(run.task_id, run)
    _free(transaction, [run for run in held if _go_together(first[run.task_id], run)])


def _go_together(first: TaskRun, run: TaskRun) -> bool:
    return run is first or (run.part_of is not None and run.part_of == first.part_of)


def let_waiting_for_keys_go(transaction: Transaction, limits: dict[str, int]) -> None:
    """For each key, free as many runs as its limit leaves room for."""
    if not limits:
        return
    holders = transaction.key_holders(limits)
    room = {key: limit - holders.get(key, 0) for key, limit in limits.items()}
    freed = []
    for run in transaction.held_for_keys({key: free for key, free in room.items() if free > 0}):
        assert run.concurrency_key is not None
        taken = holders.get(run.concurrency_key, 0)
        if concurrency_gate(run, taken).passes:
            holders[run.concurrency_key] = taken + 1
            freed.append(run)
    _free(transaction, freed)


def _free(transaction: Transaction, runs: Sequence[TaskRun]) -> None:
    if not runs:
        return
    now = transaction.now
    freed = [
        annotate(
            run,
            now,
            EventType.RUN_RELEASED,
            {"held_for": run.hold.value if run.hold else None},
            hold=Hold.TIME if run.not_before > now else None,
        )
        for run in runs
    ]
    transaction.change_runs(freed)
    holds = [change.changes["hold"] for change in freed]
    note_ready(
        transaction,
        [
            Freed(run.lane, hold, run.concurrency_key is not None)
            for run, hold in zip(runs, holds, strict=True)
        ],
    )


def _rearm_fixed_delays(transaction: Transaction, ended: Sequence[RunHead]) -> None:
    candidates: set[int] = set()
    for batch in in_batches(ended, _DEFINITIONS_AT_ONCE):
        definitions = transaction.definitions({(run.task_id, run.task_version) for run in batch})
        candidates |= {
            run.task_id
            for run in batch
            if (definitions[run.task_id, run.task_version].schedule or "").startswith("@after")
        }
    if candidates:
        rearm_tasks(transaction, candidates)


def rearm_tasks(transaction: Transaction, task_ids: Collection[int]) -> None:
    """Set the next time of `@after` tasks that have no open run: now and the delay."""
    busy = {run.task_id for run in transaction.unfinished_runs(task_ids)}
    advances = [
        TaskAdvance(task.id, task.next_after_end(transaction.now), task.last_run_at)
        for task in transaction.tasks(set(task_ids) - busy).values()
        if task.status is TaskStatus.ACTIVE and task.next_run_at is None
    ]
    if advances:
        transaction.advance_tasks(advances)
        transaction.announce(Topic.SCHEDULES)
