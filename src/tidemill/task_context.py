"""What a Python task may ask of the run it is in.

    from tidemill.task_context import RunContext

    def copy(source: str, run: RunContext) -> int:
        for done, row in enumerate(rows(source, after=run.last_checkpoint)):
            run.checkpoint(done)
            run.progress(done / 1000, "copying")
        return done

A parameter that is annotated `RunContext` is given the context; `current_run()` finds it from
anywhere below. Only the standard library is used here.
"""

import logging
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Protocol

from tidemill.run_facts import as_environment


class TaskCancelled(BaseException):
    """Raised inside a task that is to end: cancelled, timed out, or its worker drains.

    Like KeyboardInterrupt it passes by `except Exception`; clean up and let it go on. What does
    not end within the grace is killed.
    """


class Reports(Protocol):
    """Where a context sends what the task says."""

    def progress(self, fraction: float | None, message: str) -> None: ...

    def checkpoint(self, data: Any) -> None: ...


class RunContext:
    """The run that is under way."""

    logger = logging.getLogger("tidemill.task")

    def __init__(self, facts: Mapping[str, Any], reports: Reports) -> None:
        self.run_id: int = facts["run_id"]
        self.task_id: int = facts["task_id"]
        self.task_name: str = facts["task_name"]
        self.namespace: str = facts["namespace"]
        self.attempt: int = facts["attempt"]  # from 1
        self.fence: int = facts["fence"]  # grows with every claim of this run
        self.scheduled_for = datetime.fromisoformat(facts["scheduled_for"])
        self.previous_success_at = _instant(facts["previous_success_at"])  # of this task
        self.missed_count: int = facts["missed_count"]  # firings that this run stands for
        self.flow_run_id: str | None = facts["flow_run_id"]
        self.shard_index: int = facts["shard_index"]  # which part of the work is its own, from 0
        self.shard_total: int = facts["shard_total"]  # of how many; 1 where it is not split
        self.traceparent: str | None = facts["traceparent"]
        self.parameters: dict[str, Any] = facts["parameters"]
        self.last_checkpoint: Any = facts["checkpoint"]  # of an earlier attempt of this run
        self.is_cancelled = False
        self._reports = reports

    @property
    def environment(self) -> dict[str, str]:
        """The same facts, as a shell task would see them."""
        return as_environment(self)

    def progress(self, fraction: float | None = None, message: str = "") -> None:
        """Show how far the task is; `fraction` in 0…1."""
        self._reports.progress(fraction, message)

    def checkpoint(self, data: Any) -> None:
        """Keep JSON-compatible `data` for the next attempt, should this one not finish."""
        self._reports.checkpoint(data)

    def raise_if_cancelled(self) -> None:
        """Raise TaskCancelled once the run is to end."""
        if self.is_cancelled:
            raise TaskCancelled


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


_current: ContextVar[RunContext] = ContextVar("tidemill_run")


def current_run() -> RunContext:
    """The context of the run this code is part of; raises LookupError outside of one."""
    return _current.get()
