"""What brokers are told of runs."""

from collections.abc import Sequence
from typing import Any

import pytest

from tidemill.domain.events import EventType, RunEvent
from tidemill.foundation.queue import Fact
from tidemill.infrastructure.queues.status_messages import StatusMessages
from tidemill.testing.clock import START


class Listener:
    """Somebody at a broker."""

    dropped = 0

    def __init__(self) -> None:
        self.heard: list[Fact] = []

    def tell(self, facts: Sequence[Fact]) -> None:
        self.heard.extend(facts)


def event(type: EventType, **data: Any) -> RunEvent:
    return RunEvent(7, 3, type, START, data, "default")


@pytest.mark.parametrize(
    ("told", "route"),
    [
        (event(EventType.RUN_STARTED, to="running"), "status.running"),
        (event(EventType.RUN_FINISHED, to="succeeded", reason=None), "status.success"),
        (event(EventType.RUN_FINISHED, to="failed", reason="exit_code"), "status.failed"),
        (event(EventType.RUN_FINISHED, to="timed_out", reason="deadline"), "status.failed"),
        (event(EventType.RUN_CANCELLED, to="cancelled"), "status.completed"),
        (event(EventType.RUN_SKIPPED, to="skipped", reason="overlap"), "status.completed"),
    ],
)
def test_a_run_that_starts_or_ends_is_told_on_the_route_of_its_status(
    told: RunEvent, route: str
) -> None:
    listener = Listener()
    StatusMessages(listener).publish([told])

    assert listener.heard == [
        Fact(
            route,
            "7",
            {
                "run_id": 7,
                "seq": 3,
                "namespace": "default",
                "status": told.data["to"],
                "reason": told.data.get("reason"),
                "at": START,
            },
        )
    ]


def test_what_changes_no_status_is_not_told() -> None:
    listener = Listener()
    StatusMessages(listener).publish(
        [
            event(EventType.RUN_DISPATCHED, to="dispatched"),
            event(EventType.RUN_HELD, gate="concurrency"),
        ]
    )

    assert listener.heard == []
