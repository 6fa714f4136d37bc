"""Runs ended: those that waited for them start, or will never start and have ended as well.

All of it in the transaction that ends them. The flow run is locked first, so that of two that end
at the same time one sees what the other counted.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from tidemill.application.start_dependents import start_dependents
from tidemill.domain.dependency import Edge, Settled, settle, settle_edges
from tidemill.domain.events import EventType
from tidemill.domain.flow_run import FlowRun, flow_status
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task_run import RunChange, RunHead, TaskRun, move
from tidemill.foundation.store import RunEnd, Transaction
from tidemill.foundation.wakeups import Topic

_OUTSIDE_AT_ONCE = 1_000


def release_dependents(transaction: Transaction, ended: Sequence[RunHead]) -> None:
    """Count that these runs, of any flow run or none, have ended, and see who is free by that."""
    in_flow = [run for run in ended if run.flow_run_id is not None]
    if not in_flow:
        return
    counts = _Counts(transaction.flow_runs({run.flow_run_id for run in in_flow if run.flow_run_id}))
    counts.gone.update(run.flow_run_id for run in in_flow)
    transaction.forget_tallies([run.id for run in in_flow if not run.attempt])
    _go_on(transaction, _settle(transaction, {run.id: run.status for run in in_flow}), counts)
    counts.save(transaction)


def wait_for_parts(transaction: Transaction, parts: Sequence[TaskRun]) -> None:
    """Whoever waits for a run that was split waits for these further parts of it as well."""
    in_flow = [part for part in parts if part.flow_run_id is not None]
    if not in_flow:
        return
    counts = _Counts(
        transaction.flow_runs({part.flow_run_id for part in in_flow if part.flow_run_id})
    )
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


def count_outside_edges(transaction: Transaction) -> None:
    """Count what ended outside of the flow runs that wait for it, for the same period or later."""
    _count_from_outside(transaction, transaction.outside_edges(_OUTSIDE_AT_ONCE))


def give_up_outside_edges(transaction: Transaction, task_id: int) -> None:
    """Nobody waits any more for a run of this task, which was deleted."""
    never = RunEnd(None, RunStatus.CANCELLED)
    edges = transaction.edges_from_outside(task_id)
    _count_from_outside(transaction, [(edge, never) for edge in edges])


def _count_from_outside(transaction: Transaction, found: Sequence[tuple[Edge, RunEnd]]) -> None:
    if not found:
        return
    counts = _Counts(transaction.flow_runs({edge.flow_run_id for edge, _ in found}))
    taken = transaction.take_outside_edges(found)
    further = _edges_from_further_parts(transaction, taken)
    more = Counter(edge.downstream_run_id for edge in further)
    tallies = {
        run_id: msgspec.structs.replace(tally, total=tally.total + more[run_id])
        for run_id, tally in transaction.tallies({edge.downstream_run_id for edge in taken}).items()
    }
    settled = _with_those_below(transaction, settle_edges(tallies, [*taken, *further]))
    _go_on(transaction, settled, counts)
    counts.save(transaction)


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


def _settle(transaction: Transaction, ends: Mapping[int, RunStatus]) -> Settled:
    counted = transaction.end_edges([RunEnd(*each) for each in ends.items()]) if ends else []
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


def _go_on(transaction: Transaction, settled: Settled, counts: "_Counts") -> None:
    """Let them start or skip them; and what waits for those that end at once in place of starting,
    because there is nothing that they could be mapped over."""
    while settled.tallies:
        starts, skips = _decided(transaction, settled)
        transaction.change_runs([_skip(run, transaction.now) for run in skips])
        started = start_dependents(transaction, starts)
        _add_edges_from(transaction, started.items)
        counts.gone.update(run.flow_run_id for run in [*skips, *started.ended])
        counts.new.update(run.flow_run_id for run in started.items)
        settled = _settle(transaction, {run.id: run.status for run in started.ended})


def _decided(transaction: Transaction, settled: Settled) -> tuple[list[TaskRun], list[TaskRun]]:
    """Those that start and those that are skipped, of which no tally is kept any more."""
    decided = {*settled.starts, *settled.skips}
    transaction.save_tallies(
        [tally for run_id, tally in settled.tallies.items() if run_id not in decided]
    )
    if not decided:
        return [], []
    transaction.forget_tallies(decided)
    transaction.announce(Topic.READY, Topic.EVENTS)
    waiting = {
        run_id: run
        for run_id, run in transaction.runs(decided).items()
        if run.status is RunStatus.WAITING
    }
    return (
        [waiting[run_id] for run_id in settled.starts if run_id in waiting],
        [waiting[run_id] for run_id in settled.skips if run_id in waiting],
    )


def _skip(run: TaskRun, now: datetime) -> RunChange:
    return move(
        run,
        RunStatus.SKIPPED,
        now,
        EventType.RUN_SKIPPED,
        {"reason": "upstream"},
        reason="upstream",
        completed_at=now,
    )


class _Counts:
    """How many runs of each of these flow runs, which are locked, are new, and how many gone."""

    def __init__(self, flow_runs: Mapping[str, FlowRun]) -> None:
        self._flow_runs = flow_runs
        self.new: Counter[str | None] = Counter()
        self.gone: Counter[str | None] = Counter()

    def save(self, transaction: Transaction) -> None:
        """Store what was counted; with its last run, a flow run has ended."""
        counted = [self._counted(each) for each in self._flow_runs.values()]
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

    def _counted(self, flow_run: FlowRun) -> FlowRun:
        new = self.new[flow_run.id]
        return msgspec.structs.replace(
            flow_run,
            total=flow_run.total + new,
            unfinished=flow_run.unfinished + new - self.gone[flow_run.id],
        )
