"""When a run that waits for others may start, and when it never will.

    upstream run ends ─► each of its edges is met, or not ─► the dependent's tally ─► verdict

Nothing here knows of databases: whoever ends runs counts the edges and asks for the verdicts.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from typing import Literal

import msgspec

from tidemill.domain.expression import Answer
from tidemill.domain.run_status import FAILURES, FINAL, RunStatus

Condition = Literal["succeeded", "failed", "completed", "skipped"]
Rule = str  # one of RULES, or an expression
RULES = ("all", "any", "none_failed")

_MEETS: dict[Condition, frozenset[RunStatus]] = {
    "succeeded": frozenset({RunStatus.SUCCEEDED}),
    "failed": FAILURES,
    "completed": FINAL - {RunStatus.SKIPPED},  # it ran, or was to run and was cancelled
    "skipped": frozenset({RunStatus.SKIPPED}),
}


def is_expression(rule: Rule) -> bool:
    """Whether a rule has to be worked out, as none of the three that have a name."""
    return rule not in RULES


class Verdict(StrEnum):
    """What a waiting run comes to."""

    WAIT = "wait"
    START = "start"
    ASK = "ask"  # all have ended: now its expression says
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
        all have ended, and none of them failed, timed out or was cancelled. An expression is asked
        when all have ended.
        """
        have_all_ended = self.met + self.unmet == self.total
        if is_expression(self.rule):
            return Verdict.ASK if have_all_ended else Verdict.WAIT
        if self.rule == "none_failed":
            starts, is_in_vain = have_all_ended, self.failed > 0
        elif self.rule == "any":
            starts, is_in_vain = self.met > 0, self.unmet == self.total
        else:
            starts, is_in_vain = self.met == self.total, self.unmet > 0
        if is_in_vain:
            return Verdict.SKIP
        return Verdict.START if starts else Verdict.WAIT


class Refusal(msgspec.Struct, frozen=True):
    """Why a run that waited will not start."""

    reason: str = "upstream"
    expression: str | None = None  # that was not true
    error: str | None = None  # or could not be told


UPSTREAM = Refusal()

# Asks the expression of a run; told which runs are refused by then, of which no row tells yet.
Ask = Callable[[Tally, Mapping[int, Refusal]], Answer]


class Settled(msgspec.Struct, frozen=True):
    """What some ends led to: the tallies that changed, and the runs that start or are skipped.

    `asks` are runs whose expression is to be asked.
    """

    tallies: Mapping[int, Tally]
    starts: Sequence[int]
    skips: Mapping[int, Refusal]
    asks: Sequence[int]


def settle(
    tallies: Mapping[int, Tally], edges: Collection[Edge], ended: Mapping[int, RunStatus]
) -> Settled:
    """Count the edges from the runs that `ended`, and from all that are skipped for it.

    `tallies` are those of the runs that still wait.
    """
    downstream = _by_upstream_run(edges)
    counting = _Counting(tallies, downstream)
    for run_id, status in ended.items():
        for edge in downstream.get(run_id, ()):
            counting.count(edge, status)
    return counting.result()


def settle_below(
    tallies: Mapping[int, Tally], edges: Collection[Edge], skips: Mapping[int, Refusal], ask: Ask
) -> Settled:
    """Count the edges from the runs that are skipped, these among them, and ask on the way.

    `tallies` are those of the other runs that still wait. Nobody is left to be asked.
    """
    downstream = _by_upstream_run(edges)
    counting = _Counting(tallies, downstream, skips, ask)
    for run_id in skips:
        for edge in downstream.get(run_id, ()):
            counting.count(edge, RunStatus.SKIPPED)
    return counting.result()


def _by_upstream_run(edges: Collection[Edge]) -> dict[int, list[Edge]]:
    downstream: dict[int, list[Edge]] = {}
    for edge in edges:
        if edge.upstream_run_id is not None:
            downstream.setdefault(edge.upstream_run_id, []).append(edge)
    return downstream


def settle_edges(tallies: Mapping[int, Tally], edges: Collection[Edge]) -> Settled:
    """Count these edges, each by what it `ended_as`."""
    counting = _Counting(tallies, {})
    for edge in edges:
        assert edge.ended_as is not None
        counting.count(edge, edge.ended_as)
    return counting.result()


def refusal_of(rule: Rule, answer: Answer) -> Refusal | None:
    """What follows from an answer; None where the run starts."""
    if answer.holds:
        return None
    return Refusal("upstream" if answer.error is None else "expression", rule, answer.error)


class _Counting:
    """Tallies that grow. A skipped run has ended as well: a work-list takes it on."""

    def __init__(
        self,
        tallies: Mapping[int, Tally],
        downstream: Mapping[int, list[Edge]],
        skips: Mapping[int, Refusal] | None = None,
        ask: Ask | None = None,
    ) -> None:
        self._tallies = tallies
        self._downstream = downstream
        self._ask = ask
        self._changed: dict[int, Tally] = {}
        self._starts: dict[int, None] = {}
        self._skips = dict(skips or {})
        self._asks: dict[int, None] = {}

    def count(self, edge: Edge, status: RunStatus) -> None:
        """Count an edge, and those of all that are skipped for it, however long the chain."""
        work = [(edge, status)]
        while work:
            each, ended_as = work.pop()
            refusal = self._refusal(each, ended_as)
            if refusal is not None:
                skipped = each.downstream_run_id
                self._skips[skipped] = refusal
                work += [(e, RunStatus.SKIPPED) for e in self._downstream.get(skipped, ())]

    def _refusal(self, edge: Edge, status: RunStatus) -> Refusal | None:
        """Why the dependent will not start, if that is what this edge leads to."""
        run_id = edge.downstream_run_id
        tally = self._changed.get(run_id) or self._tallies.get(run_id)
        if tally is None or run_id in self._skips:
            return None  # it waits no longer
        self._changed[run_id] = tally = tally.counting(edge.condition, status)
        verdict = tally.verdict
        if verdict is Verdict.SKIP:
            return UPSTREAM
        if verdict is Verdict.ASK:
            if self._ask is None:
                self._asks[run_id] = None
                return None
            refusal = refusal_of(tally.rule, self._ask(tally, self._skips))
            if refusal is not None:
                return refusal
            verdict = Verdict.START
        if verdict is Verdict.START:
            self._starts[run_id] = None
        return None

    def result(self) -> Settled:
        """What it came to, those included that were skipped before."""
        return Settled(self._changed, list(self._starts), self._skips, list(self._asks))
