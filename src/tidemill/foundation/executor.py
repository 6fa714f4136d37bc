"""What the worker asks of an executor, and what an executor may ask of the worker."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import IO, Any, Protocol

import msgspec

from tidemill.domain.outcome import Outcome
from tidemill.errors import Problem


class Execution(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One attempt of one run, as the executor sees it; as JSON, the values alone."""

    run_id: int
    task_id: int
    task_name: str
    namespace: str
    attempt: int
    fence: int
    command: str
    arguments: Any  # the task's: a list, a mapping, or {}
    parameters: dict[str, Any]  # the run's own, JSON-compatible
    scheduled_for: datetime
    previous_success_at: datetime | None = None
    missed_count: int = 0
    flow_run_id: str | None = None
    traceparent: str | None = None
    checkpoint: Any = None  # what an earlier attempt of this run saved last
    shard_index: int = 0  # which part of the work is this run's own
    shard_total: int = 1  # of how many


class LargeResult(msgspec.Struct, frozen=True):
    """Stands as an outcome's result where that has more than fits into its run's row.

    `content` is a file that nobody else has, with a descriptor, of `size` bytes, which should be
    JSON; whoever is given the outcome closes it. `beside` is what is known of the result without
    it.
    """

    content: IO[bytes]
    size: int
    beside: dict[str, Any] = {}


class OutputChunk(msgspec.Struct, frozen=True):
    """Consecutive lines of one stream.

    `first_line` counts from 0 over all streams of the attempt, lines that were cut away included,
    so that a gap in the numbers is the number of lines missing. `text` holds whole lines, each
    ended by a newline but perhaps the last; a line longer than 64 KiB is split.
    """

    stream: str  # stdout | stderr | log
    first_line: int
    at: datetime
    text: str


class ExecutionReports(Protocol):
    """Where an executor sends what happens while an attempt runs. Calls return at once."""

    def output(self, chunk: OutputChunk) -> None:
        """Store these lines. The executor has already applied the cap on size."""

    def progress(self, fraction: float | None, message: str) -> None:
        """Show how far the attempt is: `fraction` in 0…1 where known."""

    def checkpoint(self, data: Any) -> None:
        """Keep JSON-compatible `data` for the next attempt of this run."""


class StopRequest:
    """Asks one attempt to end. The executor ends its whole tree within `grace` and then returns.

    Until it is asked for, `grace` is for what an attempt that ends by itself leaves behind.
    """

    def __init__(self, grace: timedelta = timedelta(seconds=5)) -> None:
        self.is_requested = False
        self.grace = grace
        self._callbacks: list[Callable[[], object]] = []

    def request(self, grace: timedelta) -> None:
        """Ask now. Asking again changes nothing but a shorter grace."""
        if self.is_requested and grace >= self.grace:
            return
        self.grace = grace
        self.is_requested = True
        for callback in list(self._callbacks):
            callback()

    def on_request(self, callback: Callable[[], object]) -> None:
        """Call `callback` when the end is asked for, again for a shorter grace; now if it was."""
        self._callbacks.append(callback)
        if self.is_requested:
            callback()

    def forget(self, callback: Callable[[], object]) -> None:
        """Call it no more: what it ends is over."""
        self._callbacks.remove(callback)


class Executor(Protocol):
    """Performs one kind of task.

    Guarantees: `execute` never raises for what the task does; it becomes an Outcome. When
    `execute` returns, no process of the attempt's tree lives.

    One whose tasks read no files of this machine says so by `reads_files = False`: what they are
    referred to is not fetched.
    """

    task_type: str

    def check(self, command: str, arguments: Any) -> Sequence[Problem]:
        """What is wrong with this definition, pointers relative to the task; nothing is run."""

    async def start(self) -> None:
        """Prepare; called once before the first execution."""

    async def execute(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest
    ) -> Outcome:
        """Run one attempt to its end."""

    async def close(self) -> None:
        """End every tree that still lives and free what is held; may be called twice."""


Ended = Callable[[Outcome], None]


class DirectExecutor(Executor, Protocol):
    """One that needs no coroutine for each attempt, so that a worker begins many in a row."""

    def begin(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest, ended: Ended
    ) -> None:
        """Run one attempt as `execute` does, but return at once: `ended` is given its outcome.

        It is called once, perhaps before this returns.
        """
