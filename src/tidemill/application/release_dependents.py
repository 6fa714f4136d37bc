"""Runs ended: those that waited for them start, or will never start and have ended as well.

    runs end ─► their edges are counted ─► who is free begins, who never will be is skipped
             ─► the flow run is counted down ─► with its last run it ends, another takes its turn

All of it in the transaction that ends them. The flow run is locked first, so that of two that end
at the same time one sees what the other counted.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import msgspec

from tidemill.application.begin_runs import begin_runs
from tidemill.application.flow_counts import FlowCounts
from tidemill.application.settle_dependents import settle_ends, settle_further
from tidemill.domain.dependency import Edge, Refusal, Settled, settle_edges
from tidemill.domain.events import EventType
from tidemill.domain.flow_run import FlowRun, begun
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task_run import RunChange, RunHead, TaskRun, move
from tidemill.foundation.batches import in_batches
from tidemill.foundation.store import RunEnd, Transaction
from tidemill.foundation.wakeups import Topic

_OUTSIDE_AT_ONCE = 1_000
_RUNS_AT_ONCE = 2_000  # between two batches others get a turn


def release_dependents(transaction: Transaction, over: Sequence[RunHead]) -> list[FlowRun]:
    """Count that these runs, of any flow run or none, have ended, and see who is free by that.

    The flow runs that have ended with them, and that runs called which wait for that.
    """
    in_flow = [run for run in over if run.flow_run_id is not None]
    if not in_flow:
        return []
    ended = Counter(run.flow_run_id for run in in_flow if run.flow_run_id is not None)
    counts = FlowCounts(transaction.count_down(ended))
    transaction.forget_tallies([run.id for run in in_flow if not run.attempt])
    settled = settle_ends(transaction, {run.id: run.status for run in in_flow})
    return [each for each in _go_on(transaction, settled, counts) if each.called_by is not None]


def count_carried_over(
    transaction: Transaction, flow_run_id: str, run_ids: Collection[int]
) -> None:
    """Count these runs, which succeeded in an earlier flow run, in the one that retries it."""
    counts = _counts_of(transaction, [flow_run_id])
    settled = settle_ends(transaction, dict.fromkeys(run_ids, RunStatus.SUCCEEDED))
    _go_on(transaction, settled, counts)


def count_outside_edges(transaction: Transaction) -> None:
    """Count what ended outside of the flow runs that wait for it, for the same period or later."""
    count_from_outside(transaction, transaction.outside_edges(_OUTSIDE_AT_ONCE))


def give_up_outside_edges(transaction: Transaction, task_ids: Collection[int]) -> None:
    """Nobody waits any more for a run of these tasks, which were deleted."""
    never = RunEnd(None, RunStatus.CANCELLED)
    edges = transaction.edges_from_outside(task_ids)
    count_from_outside(transaction, [(edge, never) for edge in edges])


def count_from_outside(transaction: Transaction, found: Sequence[tuple[Edge, RunEnd]]) -> None:
    """Count each of these edges from outside by that end."""
    if not found:
        return
    counts = _counts_of(transaction, [edge.flow_run_id for edge, _ in found])
    taken = transaction.take_outside_edges(found)
    further = _edges_from_further_parts(transaction, taken)
    more = Counter(edge.downstream_run_id for edge in further)
    tallies = {
        run_id: msgspec.structs.replace(tally, total=tally.total + more[run_id])
        for run_id, tally in transaction.tallies({edge.downstream_run_id for edge in taken}).items()
    }
    settled = settle_further(transaction, settle_edges(tallies, [*taken, *further]))
    _go_on(transaction, settled, counts)


def _edges_from_further_parts(transaction: Transaction, taken: Sequence[Edge]) -> list[Edge]:
    """What was split or mapped outside has ended with its last part: each is counted."""
    first = {edge.upstream_run_id for edge in taken if edge.upstream_run_id is not None}
    parts = transaction.further_parts(first) if first else {}
    edges = [
        msgspec.structs.replace(
            edge, part=end.run_id, upstream_run_id=end.run_id, ended_as=end.status
        )
        for edge in taken
        if edge.upstream_run_id is not None
        for end in parts.get(edge.upstream_run_id, ())
    ]
    transaction.add_edges(edges)
    return edges


def advance_backfills(transaction: Transaction, backfill_ids: Collection[str]) -> None:
    """The flow runs of a backfill take turns: of each, let as many begin as it has room for, the
    earliest fire time first."""
    while backfill_ids:
        waiting = transaction.next_flow_runs(backfill_ids)
        counts = FlowCounts({each.id: begun(each, transaction.now) for each in waiting})
        transaction.save_flow_runs(list(counts.flow_runs.values()))
        transaction.forget_backfills(backfill_ids)
        runs = transaction.runs_without_turn(counts.flow_runs)
        settled = _begin(transaction, runs, counts)
        _begin_and_skip(transaction, settled, counts)
        backfill_ids = _backfills_of(counts.save(transaction))


def _counts_of(transaction: Transaction, flow_run_ids: Collection[str | None]) -> FlowCounts:
    return FlowCounts(transaction.flow_runs({each for each in flow_run_ids if each is not None}))


def _go_on(transaction: Transaction, settled: Settled, counts: FlowCounts) -> list[FlowRun]:
    """Let them start or skip them, and the next of a backfill begin where a flow run has ended;
    those that have."""
    _begin_and_skip(transaction, settled, counts)
    over = counts.save(transaction)
    advance_backfills(transaction, _backfills_of(over))
    return over


def _backfills_of(over: Sequence[FlowRun]) -> set[str]:
    return {each.backfill_id for each in over if each.backfill_id is not None}


def _begin_and_skip(transaction: Transaction, settled: Settled, counts: FlowCounts) -> None:
    """Let them start or skip them; and what waits for those that end at once in place of starting,
    because there is nothing that they could be mapped over."""
    while settled.tallies:
        _keep_tallies(transaction, settled)
        for batch in in_batches(sorted(settled.skips), _RUNS_AT_ONCE):
            skips = [
                run
                for run in transaction.run_heads(batch).values()
                if run.status is RunStatus.WAITING
            ]
            transaction.change_runs(
                [_skip(run, settled.skips[run.id], transaction.now) for run in skips]
            )
            counts.gone.update(run.flow_run_id for run in skips)
        settled = _begin(transaction, settled.starts, counts)


def _keep_tallies(transaction: Transaction, settled: Settled) -> None:
    """Of those that still wait; of those that start or are skipped there is none any more."""
    decided = {*settled.starts, *settled.skips}
    transaction.save_tallies(
        [tally for run_id, tally in settled.tallies.items() if run_id not in decided]
    )
    if decided:
        transaction.forget_tallies(decided)
        transaction.announce(Topic.EVENTS)


def _skip(run: RunHead, refusal: Refusal, now: datetime) -> RunChange:
    """What went wrong with an expression stands in the run, as it does where a run failed."""
    told: dict[str, Any] = {"reason": refusal.reason}
    changes: dict[str, Any] = {"reason": refusal.reason}
    if refusal.expression is not None:
        told |= {"expression": refusal.expression, "error": refusal.error}
    if refusal.error is not None:
        changes["error_message"] = f"{refusal.expression!r} cannot be told: {refusal.error}"
    return move(
        run, RunStatus.SKIPPED, now, EventType.RUN_SKIPPED, told, **changes, completed_at=now
    )


def _begin(transaction: Transaction, run_ids: Collection[int], counts: FlowCounts) -> Settled:
    """Let them begin, none after the other; what it comes to that some of them ended at once."""
    beside: set[int] = set()
    over: dict[int, RunStatus] = {}
    for batch in in_batches(sorted(run_ids), _RUNS_AT_ONCE):
        runs, busy = transaction.runs_to_begin(batch, beside)
        done = begin_runs(transaction, counts.flow_runs, runs, busy)
        beside.update(run.id for run in [*runs, *done.items])
        _add_edges_from(transaction, done.items)
        counts.new.update(run.flow_run_id for run in done.items)
        counts.gone.update(run.flow_run_id for run in done.ended)
        over |= {run.id: run.status for run in done.ended}
    return settle_ends(transaction, over)


def wait_for_parts(transaction: Transaction, parts: Sequence[TaskRun]) -> None:
    """Whoever waits for a run that was split waits for these further parts of it as well."""
    in_flow = [part for part in parts if part.flow_run_id is not None]
    if not in_flow:
        return
    counts = _counts_of(transaction, [part.flow_run_id for part in in_flow])
    _add_edges_from(transaction, in_flow)
    counts.new.update(part.flow_run_id for part in in_flow)
    counts.save(transaction)


def _add_edges_from(transaction: Transaction, parts: Sequence[TaskRun]) -> None:
    if not parts:
        return
    edges: dict[int, list[Edge]] = {}
    for edge in transaction.open_edges_from({part.part_of for part in parts if part.part_of}):
        assert edge.upstream_run_id is not None
        edges.setdefault(edge.upstream_run_id, []).append(edge)
    further = [
        msgspec.structs.replace(edge, part=part.id, upstream_run_id=part.id)
        for part in parts
        for edge in edges.get(part.part_of or part.id, ())
    ]
    if not further:
        return
    more = Counter(edge.downstream_run_id for edge in further)
    transaction.add_edges(further)
    transaction.save_tallies(
        [
            msgspec.structs.replace(tally, total=tally.total + more[run_id])
            for run_id, tally in transaction.tallies(more.keys()).items()
        ]
    )
