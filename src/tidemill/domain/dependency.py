"""When a run that waits for others may start, and when it never will.

    upstream run ends ─► each of its edges is met, or not ─► the dependent's tally ─► verdict

Nothing here knows of databases: whoever ends runs counts the edges and asks for the verdicts.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Literal

import msgspec

from tidemill.domain.run_status import FINAL, RunStatus

Condition = Literal["succeeded", "failed", "completed", "skipped"]
Rule = Literal["all", "any", "none_failed"]

_FAILURES = frozenset({RunStatus.FAILED, RunStatus.TIMED_OUT})
_MEETS: dict[Condition, frozenset[RunStatus]] = {
    "succeeded": frozenset({RunStatus.SUCCEEDED}),
    "failed": _FAILURES,
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
    once that was counted.
    """

    downstream_run_id: int
    upstream_task_id: int
    upstream_run_id: int | None
    flow_run_id: str
    condition: Condition
    ended_as: RunStatus | None = None


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

    def counting(self, ended: Iterable[tuple[Condition, RunStatus]]) -> "Tally":
        """With edges counted whose upstream runs ended like this."""
        met, unmet, failed = self.met, self.unmet, self.failed
        for condition, status in ended:
            if status in _MEETS[condition]:
                met += 1
            else:
                unmet += 1
            failed += status in _FAILURES or status is RunStatus.CANCELLED
        return msgspec.structs.replace(self, met=met, unmet=unmet, failed=failed)

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
    """Count the edges of the runs that `ended`, and those of all that are skipped for it.

    `tallies` are those of the runs that still wait. A skipped run has ended as well: a work-list
    takes it on, however long the chain.
    """
    downstream: dict[int, list[Edge]] = {}
    for edge in edges:
        if edge.upstream_run_id is not None:
            downstream.setdefault(edge.upstream_run_id, []).append(edge)
    changed: dict[int, Tally] = {}
    starts: dict[int, None] = {}
    skips: dict[int, None] = {}
    work = list(ended.items())
    while work:
        upstream, status = work.pop()
        for edge in downstream.get(upstream, ()):
            run_id = edge.downstream_run_id
            if run_id in skips or run_id not in tallies:
                continue
            tally = changed.get(run_id, tallies[run_id]).counting([(edge.condition, status)])
            changed[run_id] = tally
            if tally.verdict is Verdict.START:
                starts[run_id] = None
            elif tally.verdict is Verdict.SKIP:
                starts.pop(run_id, None)
                skips[run_id] = None
                work.append((run_id, RunStatus.SKIPPED))
    return Settled(changed, list(starts), list(skips))
