"""One claimed run in a worker: executed, watched, and ended on time."""

from datetime import timedelta
from typing import Any

import msgspec

from tidemill.domain.outcome import Outcome, failure
from tidemill.domain.template import TemplateError, facts_of, has_placeholders, render
from tidemill.foundation.control_plane import (
    AttemptReport,
    Cause,
    ClaimedRun,
    OutputReport,
    execution_of,
)
from tidemill.foundation.executor import (
    DirectExecutor,
    Ended,
    Execution,
    Executor,
    OutputChunk,
    StopRequest,
)
from tidemill.foundation.store import LogLines
from tidemill.worker.in_tasks import executor_error
from tidemill.worker.reporter import Reporter


class RunningAttempt:
    """An attempt that this worker holds, from the claim to its recorded end."""

    def __init__(self, claimed: ClaimedRun, reporter: Reporter, kill_grace: timedelta) -> None:
        self.run = claimed.run
        self.stop = StopRequest(kill_grace)
        self.is_over = False
        self.is_abandoned = False  # the lease is somebody else's: nothing more is to be said
        self.stop_before = float("inf")  # by the monotonic clock, unless the lease is renewed
        self.time_limit = _time_limit(claimed)  # in seconds from its start, and what it is
        self._claimed = claimed
        self._reporter = reporter
        self._kill_grace = kill_grace
        self._cause: Cause = "itself"
        self._last_line = claimed.run.log_seq

    def end(self, cause: Cause) -> None:
        """Ask the attempt to end because of `cause`; the first cause stands."""
        if not self.stop.is_requested:
            self._cause = cause
            self.stop.request(self._kill_grace)

    def abandon(self) -> None:
        """The run is no longer this worker's: end its tree and say nothing more."""
        self.is_abandoned = True
        self.stop.request(timedelta(0))

    def begin(self, executor: DirectExecutor | None, ended: Ended) -> None:
        """Run the attempt and return; `ended` is given its outcome, once, perhaps before that."""
        self._ended = ended
        if executor is None:
            said = f"this worker has no executor for {self.run.task_type!r}"
            self._end(failure("no_executor", said))
            return
        try:
            execution = _filled_in(execution_of(self._claimed), executor)
            executor.begin(execution, self, self.stop, self._end)
        except TemplateError as error:
            self._end(failure("template", str(error)))
        except Exception as error:
            self._end(executor_error(error))

    def _end(self, outcome: Outcome) -> None:
        if not self.is_over:
            self.is_over = True
            self._ended(outcome)

    def record(self, outcome: Outcome) -> None:
        """Have the outcome recorded, or refused as stale."""
        self._reporter.record(
            AttemptReport(self.run.id, self.run.fence, self._cause, outcome, self._last_line)
        )

    def output(self, chunk: OutputChunk) -> None:
        if self.is_abandoned or not chunk.text:
            return
        first = self.run.log_seq + chunk.first_line + 1
        count = chunk.text.count("\n") + (not chunk.text.endswith("\n"))
        self._last_line = max(self._last_line, first + count - 1)
        self._say(
            lines=[
                LogLines(
                    self.run.id,
                    first,
                    first + count - 1,
                    self.run.attempt,
                    chunk.stream,
                    chunk.at,
                    chunk.text,
                )
            ]
        )

    def progress(self, fraction: float | None, message: str) -> None:
        self._say(progress={"fraction": fraction, "message": message})

    def checkpoint(self, data: Any) -> None:
        self._say(checkpoint=data)

    def _say(self, **what: Any) -> None:
        if not self.is_abandoned:
            self._reporter.say(OutputReport(self.run.id, self.run.fence, **what))


def _time_limit(claimed: ClaimedRun) -> tuple[float, Cause] | None:
    timeout, deadline = claimed.run.timeout_seconds, claimed.deadline_seconds
    if deadline is not None and (timeout is None or deadline < timeout):
        return deadline, "deadline"
    return None if timeout is None else (timeout, "timeout")


def _filled_in(execution: Execution, executor: Executor) -> Execution:
    """The same with its placeholders filled in; raises TemplateError where that cannot be done, or
    gives what its executor does not take."""
    if not has_placeholders(execution.arguments):
        return execution
    arguments = render(executor.task_type, execution.arguments, facts_of(execution))
    problems = executor.check(execution.command, arguments)
    if problems:
        raise TemplateError("; ".join(f"{each.pointer}: {each.message}" for each in problems))
    return msgspec.structs.replace(execution, arguments=arguments)
