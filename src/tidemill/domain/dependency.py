"""When a run that waits for others may start, and when it never will.

    upstream run ends ─► each of its edges is met, or not ─► the dependent's tally ─► verdict

Nothing here knows of databases: whoever ends runs counts the edges and asks for the verdicts.
"""

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Literal

import msgspec

from tidemill.domain.run_status import FAILURES, FINAL, RunStatus

Condition = Literal["succeeded", "failed", "completed", "skipped"]
Rule = Literal["all", "any", "none_failed"]

_MEETS: dict[Condition, frozenset[RunStatus]] = {
    "succeeded": frozenset({RunStatus.SUCCEEDED}),
    "failed": FAILURES,
    "completed": FINAL - {RunStatus.SKIPPED},  # it ran, or was to run and was cancelled
    "skipped": frozenset({RunStatus.SKIPPED}),
}


class Verdict(StrEnum):
    """What a waiting run comes to."""

    WAIT = "wait"
    START = "start"
    SKIP = "skip"  # its rule can no longer be satisfied


class Edge(msgspec.Struct, frozen=True):
    """One run of a flow run waits for another; the fields are the columns of `run_edges`.

    `upstream_run_id` is None for a task outside the flow run until one of its runs counts: the
    latest finished one for the same or a later period. `ended_as` is how the upstream run ended,
    once that was counted. Of an upstream run that was split or mapped, each further part has an
    edge: `part` is its id, and 0 for the first.
    """

    downstream_run_id: int
    upstream_task_id: int
    part: int
    upstream_run_id: int | None
    flow_run_id: str
    condition: Condition
    ended_as: RunStatus | None = None
    is_mapped_over: bool = False  # the downstream run becomes one for each item of its result


class Tally(msgspec.Struct, frozen=True):
    """What the upstream runs of one waiting run came to so far.

    The fields are the columns of `run_tallies`. `failed` of those that are not met are failures.
    """

    run_id: int
    rule: Rule
    total: int
    met: int = 0
    unmet: int = 0
    failed: int = 0

    def counting(self, condition: Condition, status: RunStatus) -> "Tally":
        """With one more edge counted, whose upstream run ended like this."""
        is_met = status in _MEETS[condition]
        is_failure = status in FAILURES or status is RunStatus.CANCELLED
        return msgspec.structs.replace(
            self,
            met=self.met + is_met,
            unmet=self.unmet + (not is_met),
            failed=self.failed + is_failure,
        )

    @property
    def verdict(self) -> Verdict:
        """By the rule.

        `all`: each edge is met. `any`: one is, whatever the others are still doing. `none_failed`:
        all have ended, and none of them failed, timed out or was cancelled.
        """
        if self.rule == "none_failed":
            starts, is_in_vain = self.met + self.unmet == self.total, self.failed > 0
        elif self.rule == "any":
            starts, is_in_vain = self.met > 0, self.unmet == self.total
        else:
            starts, is_in_vain = self.met == self.total, self.unmet > 0
        if is_in_vain:
            return Verdict.SKIP
        return Verdict.START if starts else Verdict.WAIT


class Settled(msgspec.Struct, frozen=True):
    """What some ends led to: the tallies that changed, and the runs that start or are skipped."""

    tallies: Mapping[int, Tally]
    starts: Sequence[int]
    skips: Sequence[int]


def settle(
    tallies: Mapping[int, Tally], edges: Collection[Edge], ended: Mapping[int, RunStatus]
) -> Settled:
    """Count the edges from the runs that `ended`, and from all that are skipped for it.

    `tallies` are those of the runs that still wait.
    """
    downstream: dict[int, list[Edge]] = {}
    for edge in edges:
        if edge.upstream_run_id is not None:
            downstream.setdefault(edge.upstream_run_id, []).append(edge)
    counting = _Counting(tallies, downstream)
    for run_id, status in ended.items():
        for edge in downstream.get(run_id, ()):
            counting.count(edge, status)
    return counting.result()


def settle_edges(tallies: Mapping[int, Tally], edges: Collection[Edge]) -> Settled:
    """Count these edges, each by what it `ended_as`."""
    counting = _Counting(tallies, {})
    for edge in edges:
        assert edge.ended_as is not None
        counting.count(edge, edge.ended_as)
    return counting.result()


class _Counting:
    """Tallies that grow. A skipped run has ended as well: a work-list takes it on."""

    def __init__(self, tallies: Mapping[int, Tally], downstream: Mapping[int, list[Edge]]) -> None:
        self._tallies = tallies
        self._downstream = downstream
        self._changed: dict[int, Tally] = {}
        self._starts: dict[int, None] = {}
        self._skips: dict[int, None] = {}

    def count(self, edge: Edge, status: RunStatus) -> None:
        """Count an edge, and those of all that are skipped for it, however long the chain."""
        work = [(edge, status)]
        while work:
            each, ended_as = work.pop()
            if self._verdict(each, ended_as) is Verdict.SKIP:
                skipped = each.downstream_run_id
                self._skips[skipped] = None
                work += [(e, RunStatus.SKIPPED) for e in self._downstream.get(skipped, ())]

    def _verdict(self, edge: Edge, status: RunStatus) -> Verdict:
        run_id = edge.downstream_run_id
        tally = self._changed.get(run_id) or self._tallies.get(run_id)
        if tally is None or run_id in self._skips:
            return Verdict.WAIT  # it waits no longer
        self._changed[run_id] = tally = tally.counting(edge.condition, status)
        if tally.verdict is Verdict.START:
            self._starts[run_id] = None
        return tally.verdict

    def result(self) -> Settled:
        """What it came to."""
        return Settled(self._changed, list(self._starts), list(self._skips))
