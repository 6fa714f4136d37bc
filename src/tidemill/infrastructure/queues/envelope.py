"""What stands in a broker's message: an envelope of JSON, as the public contract has it."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import uuid4

import msgspec

from tidemill.domain.task import parse_lane
from tidemill.foundation.queue import Fact, RunMessage

LIFETIME = timedelta(minutes=10)  # of a message: its runs are dispatched again long before


class MessageType(StrEnum):
    """What a message is about."""

    TASK_EXECUTION = "TaskExecution"
    TASK_STATUS_UPDATE = "TaskStatusUpdate"
    WORKER_HEARTBEAT = "WorkerHeartbeat"
    WORKER_REGISTRATION = "WorkerRegistration"
    SYSTEM_COMMAND = "SystemCommand"
    HEALTH_CHECK = "HealthCheck"


class TraceHeaders(msgspec.Struct, frozen=True):
    """The trace that a message belongs to, as in W3C Trace Context."""

    traceparent: str | None = None
    tracestate: str | None = None


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """A message of any type.

    `retry_count` is how often it was delivered before and given back, where the broker does not
    count that itself. What is there at `expires_at` means nothing to anybody any more.
    """

    id: str
    message_type: MessageType
    correlation_id: str | None = None
    payload: dict[str, Any]
    timestamp: datetime
    retry_count: int = 0
    expires_at: datetime | None = None
    trace_headers: TraceHeaders = TraceHeaders()


class UnreadableMessage(ValueError):
    """What a message holds is not what the contract says; `str(error)` is the reason."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Envelope)


def encode(envelope: Envelope) -> bytes:
    """As it goes over the wire."""
    return _encoder.encode(envelope)


def decode(data: bytes) -> Envelope:
    """The envelope of a message; raises UnreadableMessage."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableMessage(str(error)) from error


def task_execution(message: RunMessage, now: datetime) -> Envelope:
    """A message that names runs to be claimed."""
    first, *others = message.run_ids
    return Envelope(
        id=str(uuid4()),
        message_type=MessageType.TASK_EXECUTION,
        correlation_id=None if others else str(first),
        payload={
            "lane": message.lane,
            "run_ids": message.run_ids,
            "attempts": message.attempts,
        },
        timestamp=now,
        expires_at=now + LIFETIME,
        trace_headers=TraceHeaders(message.traceparent),
    )


def has_expired(envelope: Envelope, age_seconds: float) -> bool:
    """Whether a message that is at the broker for so long should not be there any more.

    The age is by the broker's clock, and what the message was given is the difference of two
    instants of one sender: no two clocks are compared.
    """
    if envelope.expires_at is None:
        return False
    return age_seconds > (envelope.expires_at - envelope.timestamp).total_seconds()


def run_message(envelope: Envelope) -> RunMessage:
    """The runs that a message names; raises UnreadableMessage."""
    if envelope.message_type is not MessageType.TASK_EXECUTION:
        raise UnreadableMessage(f"a {envelope.message_type} on a route of tasks")
    try:
        message = msgspec.convert(
            envelope.payload | {"traceparent": envelope.trace_headers.traceparent}, RunMessage
        )
        parse_lane(message.lane)
    except ValueError as error:  # msgspec's own among them
        raise UnreadableMessage(f"payload: {error}") from error
    return message


def lanes_announcement(lanes: Sequence[str], now: datetime) -> Envelope:
    """A message that says which lanes are in use."""
    return Envelope(
        id=str(uuid4()),
        message_type=MessageType.SYSTEM_COMMAND,
        payload={"command": "announce_lanes", "lanes": lanes},
        timestamp=now,
    )


def announced_lanes(envelope: Envelope) -> list[str]:
    """The lanes that a message says are in use; raises UnreadableMessage."""
    try:
        return msgspec.convert(envelope.payload.get("lanes"), list[str])
    except msgspec.ValidationError as error:
        raise UnreadableMessage(f"payload.lanes: {error}") from error


def fact_message(fact: Fact, now: datetime) -> Envelope:
    """A message that tells what happened."""
    return Envelope(
        id=str(uuid4()),
        message_type=_TYPES[fact.route],
        correlation_id=fact.correlation_id,
        payload=fact.payload,
        timestamp=now,
    )


_TYPES = {
    "status.running": MessageType.TASK_STATUS_UPDATE,
    "status.success": MessageType.TASK_STATUS_UPDATE,
    "status.failed": MessageType.TASK_STATUS_UPDATE,
    "status.completed": MessageType.TASK_STATUS_UPDATE,
    "worker.registration": MessageType.WORKER_REGISTRATION,
    "worker.heartbeat": MessageType.WORKER_HEARTBEAT,
    "worker.command": MessageType.SYSTEM_COMMAND,
}
