"""One claimed run in a worker: executed, watched, and ended on time."""

import asyncio
from datetime import timedelta
from typing import Any

import msgspec

from tidemill.domain.outcome import Outcome, failure
from tidemill.domain.template import RUN_FACTS, TemplateError, render
from tidemill.foundation.control_plane import AttemptReport, Cause, ClaimedRun, OutputReport
from tidemill.foundation.executor import Execution, Executor, OutputChunk, StopRequest
from tidemill.foundation.store import LogLines
from tidemill.run_facts import rfc3339
from tidemill.worker.reporter import Reporter


class RunningAttempt:
    """An attempt that this worker holds, from the claim to its recorded end."""

    def __init__(self, claimed: ClaimedRun, reporter: Reporter, kill_grace: timedelta) -> None:
        self.run = claimed.run
        self.stop = StopRequest(kill_grace)
        self.is_abandoned = False  # the lease is somebody else's: nothing more is to be said
        self.stop_before = float("inf")  # by the monotonic clock, unless the lease is renewed
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

    async def execute(self, executor: Executor | None) -> Outcome:
        """Run the attempt to its end."""
        if executor is None:
            return failure("no_executor", f"this worker has no executor for {self.run.task_type!r}")
        return await self._watched(executor)

    async def record(self, outcome: Outcome) -> None:
        """Return once the outcome is recorded, or was refused as stale."""
        if not self.is_abandoned:
            await self._reporter.record(
                AttemptReport(self.run.id, self.run.fence, self._cause, outcome, self._last_line)
            )

    async def _watched(self, executor: Executor) -> Outcome:
        loop = asyncio.get_running_loop()
        timers = [
            loop.call_later(seconds, self.end, cause) for seconds, cause in self._time_limits()
        ]
        try:
            execution = _filled_in(execution_of(self._claimed), executor)
            return await executor.execute(execution, self, self.stop)
        except TemplateError as error:
            return failure("template", str(error))
        except Exception as error:  # an executor's defect must not leave a run without an end
            return failure("executor_error", f"{type(error).__name__}: {error}")
        finally:
            for timer in timers:
                timer.cancel()

    def _time_limits(self) -> list[tuple[float, Cause]]:
        limits: list[tuple[float, Cause]] = []
        if self.run.timeout_seconds is not None:
            limits.append((self.run.timeout_seconds, "timeout"))
        if self._claimed.deadline_seconds is not None:
            limits.append((self._claimed.deadline_seconds, "deadline"))
        return limits

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


def _filled_in(execution: Execution, executor: Executor) -> Execution:
    """The same with its placeholders filled in; raises TemplateError where that cannot be done, or
    gives what its executor does not take."""
    run = {
        "id": execution.run_id,
        "scheduled_for": rfc3339(execution.scheduled_for),
        "previous_success_at": rfc3339(execution.previous_success_at) or None,
    } | {
        name: getattr(execution, name)
        for name in RUN_FACTS
        if name not in {"id", "scheduled_for", "previous_success_at"}
    }
    facts = {"parameters": execution.parameters, "run": run}
    arguments = render(executor.task_type, execution.arguments, facts)
    if arguments is execution.arguments:
        return execution
    problems = executor.check(execution.command, arguments)
    if problems:
        raise TemplateError("; ".join(f"{each.pointer}: {each.message}" for each in problems))
    return msgspec.structs.replace(execution, arguments=arguments)


def execution_of(claimed: ClaimedRun) -> Execution:
    """A claimed run as its executor sees it."""
    run, definition = claimed.run, claimed.definition
    return Execution(
        run_id=run.id,
        task_id=run.task_id,
        task_name=run.task_name,
        namespace=run.namespace,
        attempt=run.attempt,
        fence=run.fence,
        command=definition.command,
        arguments=definition.arguments,
        parameters=run.parameters,
        scheduled_for=run.scheduled_for,
        previous_success_at=claimed.previous_success_at,
        missed_count=run.missed_count,
        flow_run_id=run.flow_run_id,
        traceparent=run.traceparent,
        checkpoint=run.checkpoint,
        shard_index=claimed.shard.index,
        shard_total=claimed.shard.total,
    )
