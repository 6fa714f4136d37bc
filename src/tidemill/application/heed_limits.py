"""Of ready runs, those that their concurrency keys let go; the others wait for room."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from tidemill.domain.events import EventType
from tidemill.domain.gates import GateFinding, concurrency_gate
from tidemill.domain.task_run import Hold, ReadyRun, TaskRun, annotate
from tidemill.foundation.store import Transaction

Ready = TypeVar("Ready", ReadyRun, TaskRun)


def within_limits(
    transaction: Transaction, candidates: Sequence[Ready]
) -> tuple[list[Ready], dict[int, GateFinding]]:
    """The runs that go, and what keeps the others back."""
    holders = transaction.key_holders(
        {run.concurrency_key for run in candidates if run.concurrency_key is not None}
    )
    goes, kept = [], {}
    for run in candidates:
        key = run.concurrency_key
        finding = concurrency_gate(run, holders.get(key, 0) if key else 0)
        if not finding.passes:
            kept[run.id] = finding
            continue
        if key is not None:
            holders[key] = holders.get(key, 0) + 1
        goes.append(run)
    return goes, kept


def hold_back(transaction: Transaction, kept: Mapping[int, GateFinding]) -> None:
    """Let these runs wait until what keeps them back makes room."""
    heads = transaction.run_heads(kept) if kept else {}
    transaction.change_runs(
        [
            annotate(
                run,
                transaction.now,
                EventType.RUN_HELD,
                {"gate": kept[run.id].gate, "detail": kept[run.id].detail},
                hold=Hold.LIMIT,
            )
            for run in heads.values()
        ]
    )
