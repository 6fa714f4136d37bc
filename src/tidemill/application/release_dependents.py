"""Runs ended: those that waited for them start, or will never start and have ended as well.

All of it in the transaction that ends them. The flow run is locked first, so that of two that end
at the same time one sees what the other counted.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from tidemill.application.advance_backfills import advance_backfills
from tidemill.application.ask_expressions import Expressions
from tidemill.application.begin_runs import begin_runs
from tidemill.domain.dependency import (
    Edge,
    Refusal,
    Settled,
    refusal_of,
    settle,
    settle_below,
    settle_edges,
)
from tidemill.domain.events import EventType
from tidemill.domain.flow_run import FlowRun, ended
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task_run import RunChange, RunHead, TaskRun, move
from tidemill.foundation.store import RunEnd, Transaction
from tidemill.foundation.wakeups import Topic

_OUTSIDE_AT_ONCE = 1_000


def release_dependents(transaction: Transaction, over: Sequence[RunHead]) -> None:
    """Count that these runs, of any flow run or none, have ended, and see who is free by that."""
    in_flow = [run for run in over if run.flow_run_id is not None]
    if not in_flow:
        return
    flow_runs = transaction.flow_runs({run.flow_run_id for run in in_flow if run.flow_run_id})
    ends = {run.id: run.status for run in in_flow}
    transaction.forget_tallies([run.id for run in in_flow if not run.attempt])
    settled = _settle(transaction, ends)
    skipped = _move(transaction, flow_runs, settled)
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


def count_carried_over(
    transaction: Transaction, flow_run_id: str, run_ids: Collection[int]
) -> None:
    """Count these runs, which succeeded in an earlier flow run, in the one that retries it."""
    flow_runs = transaction.flow_runs([flow_run_id])
    settled = _settle(transaction, dict.fromkeys(run_ids, RunStatus.SUCCEEDED))
    skipped = _move(transaction, flow_runs, settled)
    _count_down(transaction, flow_runs, Counter(run.flow_run_id for run in skipped))


def count_outside_edges(transaction: Transaction) -> None:
    """Count what ended outside of the flow runs that wait for it, for the same period or later."""
    count_from_outside(transaction, transaction.outside_edges(_OUTSIDE_AT_ONCE))


def give_up_outside_edges(transaction: Transaction, task_id: int) -> None:
    """Nobody waits any more for a run of this task, which was deleted."""
    never = RunEnd(None, RunStatus.CANCELLED)
    edges = transaction.edges_from_outside(task_id)
    count_from_outside(transaction, [(edge, never) for edge in edges])


def count_from_outside(transaction: Transaction, found: Sequence[tuple[Edge, RunEnd]]) -> None:
    """Count each of these edges from outside by that end."""
    if not found:
        return
    flow_runs = transaction.flow_runs({edge.flow_run_id for edge, _ in found})
    taken = transaction.take_outside_edges(found)
    tallies = transaction.tallies({edge.downstream_run_id for edge in taken})
    settled = _carried_on(transaction, settle_edges(tallies, taken))
    skipped = _move(transaction, flow_runs, settled)
    _count_down(transaction, flow_runs, Counter(run.flow_run_id for run in skipped))


def _settle(transaction: Transaction, ends: Mapping[int, RunStatus]) -> Settled:
    counted = transaction.end_edges([RunEnd(*each) for each in ends.items()])
    if not counted:
        return Settled({}, [], {}, [])
    tallies = transaction.tallies({edge.downstream_run_id for edge in counted})
    return _carried_on(transaction, settle(tallies, counted, ends))


def _carried_on(transaction: Transaction, settled: Settled) -> Settled:
    return _with_those_below(transaction, _with_answers(transaction, settled))


def _with_answers(transaction: Transaction, settled: Settled) -> Settled:
    """The same, and what the expressions say of whom all upstream runs have ended."""
    if not settled.asks:
        return settled
    asked = [settled.tallies[run_id] for run_id in settled.asks]
    expressions = Expressions(transaction, asked)
    refusals = {
        tally.run_id: refusal_of(tally.rule, expressions.ask(tally, settled.skips))
        for tally in asked
    }
    return Settled(
        settled.tallies,
        [*settled.starts, *(run_id for run_id, refusal in refusals.items() if refusal is None)],
        {**settled.skips, **{run_id: each for run_id, each in refusals.items() if each}},
        [],
    )


def _with_those_below(transaction: Transaction, settled: Settled) -> Settled:
    """The same, and what is skipped or starts because others are skipped, however far down."""
    if not settled.skips:
        return settled
    edges = transaction.open_edges_below(settled.skips)
    stored = transaction.tallies({edge.downstream_run_id for edge in edges})
    waiting = {
        run_id: tally
        for run_id, tally in {**stored, **settled.tallies}.items()
        if run_id not in settled.skips
    }
    expressions = Expressions(transaction, waiting.values())
    below = settle_below(waiting, edges, settled.skips, expressions.ask)
    transaction.end_edges([RunEnd(run_id, RunStatus.SKIPPED) for run_id in below.skips])
    return Settled(
        {**settled.tallies, **below.tallies},
        list(dict.fromkeys([*settled.starts, *below.starts])),
        below.skips,
        [],
    )


def _move(
    transaction: Transaction, flow_runs: Mapping[str, FlowRun], settled: Settled
) -> list[TaskRun]:
    """Let them start or skip them; those that were skipped."""
    decided = {*settled.starts, *settled.skips}
    transaction.save_tallies(
        [tally for run_id, tally in settled.tallies.items() if run_id not in decided]
    )
    if not decided:
        return []
    transaction.forget_tallies(decided)
    waiting = {
        run_id: run
        for run_id, run in transaction.runs(decided).items()
        if run.status is RunStatus.WAITING
    }
    skips = [waiting[run_id] for run_id in settled.skips if run_id in waiting]
    transaction.change_runs([_skip(run, settled.skips[run.id], transaction.now) for run in skips])
    begin_runs(
        transaction, flow_runs, [waiting[run_id] for run_id in settled.starts if run_id in waiting]
    )
    transaction.announce(Topic.EVENTS)
    return skips


def _skip(run: TaskRun, refusal: Refusal, now: datetime) -> RunChange:
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


def _count_down(
    transaction: Transaction, flow_runs: Mapping[str, FlowRun], gone: Mapping[str | None, int]
) -> None:
    """So many runs of each flow run have ended; with the last, so has the flow run.

    One that is over stays as it is: an edge from outside may be counted later.
    """
    counted = [
        msgspec.structs.replace(each, unfinished=each.unfinished - gone.get(each.id, 0))
        for each in flow_runs.values()
        if each.completed_at is None
    ]
    over = [each for each in counted if not each.unfinished]
    unhandled = transaction.unhandled_ends([each.id for each in over]) if over else {}
    transaction.save_flow_runs(
        [
            each if each.unfinished else ended(each, unhandled[each.id], transaction.now)
            for each in counted
        ]
    )
    advance_backfills(transaction, {each.backfill_id for each in over if each.backfill_id})
