"""What a worker asks of the rest of the system, whether that is in its process or far away.

Every write carries the fence of its claim. One that is old changes nothing, is counted, and is no
error: the worker hears of it by its next renewal.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Literal, Protocol

import msgspec

from tidemill.domain.artifact import ArtifactId
from tidemill.domain.outcome import Outcome
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import TaskDefinition
from tidemill.domain.task_run import LeasedRun, Shard
from tidemill.domain.worker import Worker
from tidemill.foundation.executor import Execution
from tidemill.foundation.slots import Slots
from tidemill.foundation.store import LogLines

CALL_HEADER = "Tidemill-Call"  # names a call over HTTP; the answer to it carries the same

Cause = Literal["itself", "timeout", "deadline", "cancel", "drain"]


class ClaimedRun(msgspec.Struct, frozen=True):
    """A run as the worker that now holds it needs it."""

    run: LeasedRun
    definition: TaskDefinition
    previous_success_at: datetime | None
    deadline_seconds: float | None = None  # what is left of it; the worker's clock is not asked
    shard: Shard = Shard()


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


class Renewal(msgspec.Struct, frozen=True):
    """What a worker must know after a heartbeat."""

    is_known: bool  # False: it was given up as lost and must come back as a new incarnation
    statuses: dict[int, RunStatus]  # of the runs it still holds; the others it must stop
    may_claim: bool = True  # False: it was drained


class OutputReport(msgspec.Struct, frozen=True):
    """What one attempt said since the last report."""

    run_id: int
    fence: int
    lines: list[LogLines] = []
    progress: dict[str, Any] | None = None
    checkpoint: Any = None


class AttemptReport(msgspec.Struct, frozen=True):
    """How the attempt that was claimed with `fence` ended, and what made it end."""

    run_id: int
    fence: int
    cause: Cause
    outcome: Outcome
    log_seq: int  # the last number given to a line of output


class ArtifactChunk(msgspec.Struct, frozen=True):
    """A piece, numbered from 0, of what the attempt that was claimed with `fence` returned."""

    run_id: int
    fence: int
    size: int  # of the whole, in bytes
    number: int
    content: bytes


Begin = Callable[[Sequence[ClaimedRun], float], None]


class GoOn(msgspec.Struct, frozen=True):
    """Where a worker would begin further runs."""

    slots: Slots
    begin: Begin


@contextmanager
def taking(slots: Slots, at_most: int, begin: Begin) -> Iterator[tuple[int, Begin]]:
    """Take up to so many slots for a claim; those in which it begins nothing are free again."""
    taken = left = slots.take(at_most)

    def begin_in_them(claimed: Sequence[ClaimedRun], asked_at: float) -> None:
        nonlocal left
        left -= len(claimed)
        begin(claimed, asked_at)

    try:
        yield taken, begin_in_them
    finally:
        slots.give_back(left)


class ControlPlane(Protocol):
    """One worker's way to the others. A call raises Unavailable where it may not have gone through;
    it may then be made again, and does nothing twice."""

    async def register(self, worker: Worker) -> Worker:
        """Let a new incarnation in; as it is known from now on. What follows is in its name."""

    async def claim(self, slots: Slots, begin: Begin) -> None:
        """Wait for runs and for slots, claim as many as both allow, and hand them to `begin`.

        `begin` is given the runs, a slot taken for each, and a monotonic instant before which no
        lease of theirs began. It may all come to nothing. Whoever cancels this calls
        `stop_claiming`.
        """

    @property
    def reaches_line(self) -> bool:
        """Whether it may claim what any worker may have, without being handed it."""

    async def claim_next(self, slots: Slots, begin: Begin) -> None:
        """As `claim`, of what is next in line for this worker; only where it `reaches_line`."""

    async def stop_claiming(self, begin: Begin) -> None:
        """Let others have what was meant for this worker, and begin what is claimed already."""

    async def renew(self, fences: Mapping[int, int]) -> Renewal:
        """Extend the leases held with these fences (run id → fence) and give a sign of life."""

    async def report(
        self,
        outputs: Sequence[OutputReport],
        endings: Sequence[AttemptReport],
        go_on: GoOn | None = None,
    ) -> None:
        """Return once the output, and then the ends, are stored or refused as stale.

        What the ends made ready may be claimed at once, by whoever would go on.
        """

    async def store_chunk(self, chunk: ArtifactChunk) -> bool:
        """Return once it is stored, once however often it is sent; False where its fence is old.

        Raises LimitExceeded where the whole is larger than what the other side takes, and Conflict
        or InvalidInput where it takes nothing of it.
        """

    async def fetch_chunk(self, run_id: int, fence: int, id: ArtifactId, number: int) -> bytes:
        """A piece of a large result, for a run that is held with this fence.

        Raises Conflict where it is not, or there is no such piece in its namespace.
        """

    async def drain(self) -> None:
        """Say that this worker claims no more."""

    async def sign_off(self) -> None:
        """Say that it is gone; raises Conflict while it holds runs."""

    async def close(self) -> None:
        """Free what is held; may be called twice."""
