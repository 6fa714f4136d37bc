"""What the expressions of waiting runs see, read at once for all of them, and what they say."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tidemill.domain.dependency import Refusal, Tally, is_expression
from tidemill.domain.expression import Answer, Expression, expression_of
from tidemill.domain.expression_syntax import SyntaxProblem
from tidemill.domain.run_status import RunStatus
from tidemill.foundation.store import Transaction, UpstreamEnd, WaitingRun

MOST_RESULT_BYTES = 1_048_576  # of the results that one expression looks into, as they are kept

# How the parts of a run ended together: the first of these that any of them did.
_WORST_FIRST = (
    RunStatus.FAILED, RunStatus.TIMED_OUT, RunStatus.CANCELLED, RunStatus.SKIPPED,
    RunStatus.SUCCEEDED,
)  # fmt: skip


class Expressions:
    """The expressions of some waiting runs, and how what they wait for has ended so far."""

    def __init__(self, transaction: Transaction, tallies: Collection[Tally]) -> None:
        self._expressions: dict[int, Expression] = {}
        self._refused: dict[int, str] = {}  # written for a version that takes more
        for tally in tallies:
            if is_expression(tally.rule):
                try:
                    self._expressions[tally.run_id] = expression_of(tally.rule)
                except SyntaxProblem as error:
                    self._refused[tally.run_id] = str(error)
        self._ends: dict[int, dict[str, list[UpstreamEnd]]] = {}
        self._results: Mapping[int, Any] = {}
        self._runs: Mapping[int, WaitingRun] = {}
        if self._expressions:
            self._read(transaction)

    def ask(self, tally: Tally, refused: Mapping[int, Refusal]) -> Answer:
        """Whether the expression of this run holds.

        The runs in `refused` are skipped by this transaction, which has not written it yet.
        """
        if tally.run_id in self._refused:
            return Answer(False, self._refused[tally.run_id])
        expression = self._expressions[tally.run_id]
        if self._is_too_large(tally.run_id, expression):
            said = f"the results that it looks into have more than {MOST_RESULT_BYTES} bytes"
            return Answer(False, said)
        run = self._runs[tally.run_id]
        upstream = {
            name: self._told(ends, refused)
            for name, ends in self._ends.get(tally.run_id, {}).items()
        }
        return expression.ask(upstream, run.parameters, run.scheduled_for)

    def _read(self, transaction: Transaction) -> None:
        for end in transaction.upstream_ends(self._expressions):
            of_run = self._ends.setdefault(end.downstream_run_id, {})
            of_run.setdefault(end.task_name, []).append(end)
        wanted = {
            end.run_id
            for run_id, expression in self._expressions.items()
            if not self._is_too_large(run_id, expression)
            for end in self._looked_into(run_id, expression)
            if end.run_id is not None
        }
        self._results = transaction.results(wanted) if wanted else {}
        self._runs = transaction.waiting_runs(self._expressions)

    def _is_too_large(self, run_id: int, expression: Expression) -> bool:
        ends = self._looked_into(run_id, expression)
        return sum(end.result_bytes for end in ends) > MOST_RESULT_BYTES

    def _looked_into(self, run_id: int, expression: Expression) -> Iterator[UpstreamEnd]:
        """The ends whose results the expression reads."""
        for name, ends in self._ends.get(run_id, {}).items():
            if expression.reads_results_of(name):
                yield from ends

    def _told(self, ends: Sequence[UpstreamEnd], refused: Mapping[int, Refusal]) -> dict[str, Any]:
        """A task's end as its dependents' expressions see it."""
        whole = min((_as_it_stands(end, refused) for end in ends), key=_severity)
        results = [self._results.get(end.run_id or 0) for end in ends]
        told = {"status": whole.status.value, "reason": whole.reason}
        return told | ({"results": results} if ends[0].is_part else {"result": results[0]})


def _as_it_stands(end: UpstreamEnd, refused: Mapping[int, Refusal]) -> UpstreamEnd:
    refusal = refused.get(end.run_id or 0)
    if refusal is None:
        return end
    return msgspec.structs.replace(end, status=RunStatus.SKIPPED, reason=refusal.reason)


def _severity(end: UpstreamEnd) -> int:
    return _WORST_FIRST.index(end.status)
