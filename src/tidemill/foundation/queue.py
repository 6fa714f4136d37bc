"""Hands ready runs to workers. A message is a hint: the database decides what it still means."""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import msgspec

from tidemill.domain.task_run import ReadyRun, TaskRun
from tidemill.domain.worker import Worker


class RunMessage(msgspec.Struct, frozen=True):
    """Names runs of one lane, in the order in which they should start.

    `attempts` are the numbers of the attempts that these runs wait for, and `traceparent` is the
    trace that all of them belong to. Both are for people and programs who watch a broker; nothing
    hangs on them, and what has no watchers leaves them out.
    """

    lane: str
    run_ids: tuple[int, ...]
    attempts: tuple[int, ...] = ()
    traceparent: str | None = None


def message_of(lane: str, runs: Sequence[ReadyRun] | Sequence[TaskRun]) -> RunMessage:
    """The message that hands over these runs, of which there is at least one."""
    traceparent, *others = {run.traceparent for run in runs}
    return RunMessage(
        lane,
        tuple(run.id for run in runs),
        tuple(run.attempt + 1 for run in runs),
        None if others else traceparent,
    )


class Delivery(Protocol):
    """A message as one worker received it. The first answer counts; none raises or waits long."""

    message: RunMessage

    async def acknowledge(self) -> None:
        """The claim it led to is committed, or will never be."""

    async def refuse(self) -> None:
        """Give it back: another may claim what it names."""


class Subscription(Protocol):
    """What one worker receives."""

    async def receive(self) -> Delivery:
        """The next message for this worker; waits for it. Raises Unavailable once closed."""

    def received(self) -> Delivery | None:
        """Another message that is here already; None where none is."""

    async def close(self) -> None:
        """Receive no more; what was delivered and not acknowledged goes to others."""


class MessageQueue(Protocol):
    """Carries messages from dispatchers to workers, at least once, order not promised.

    `carries_all` is False where the queue is part of the database. Workers look there themselves
    for what any worker may have; only what somebody has to decide on is dispatched at once.
    """

    @property
    def carries_all(self) -> bool:
        """Whether nothing starts without a message."""

    async def publish(self, messages: Sequence[RunMessage]) -> None:
        """Hand these over; raises Unavailable when that cannot be said for sure."""

    async def subscribe(self, worker: Worker) -> Subscription:
        """Receive the messages of the lanes that this worker serves."""

    async def check(self) -> None:
        """Raises Unavailable unless what carries the messages answers now."""

    async def kept_for(self) -> set[str]:
        """The ids of workers for whose lanes something is kept that does not go by itself."""

    async def tidy(self, gone: Collection[str]) -> None:
        """Drop what is kept for these workers, and what is too old to mean anything to anybody."""

    async def close(self) -> None:
        """Free what is held; may be called twice."""


class Fact(msgspec.Struct, frozen=True):
    """Something that happened, for whoever listens at a broker.

    `route` is `status.<running|success|failed|completed>` or
    `worker.<registration|heartbeat|command>`; `correlation_id` is shared by facts of one run.
    """

    route: str
    correlation_id: str | None
    payload: dict[str, Any]


class FactSink(Protocol):
    """Where facts are told, at best: one that cannot be told soon is dropped and counted."""

    @property
    def dropped(self) -> int:
        """How many were not told."""

    def tell(self, facts: Sequence[Fact]) -> None:
        """Tell these, in this order. Called on the event loop; does not raise and does not wait."""
