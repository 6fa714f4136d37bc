"""Tells brokers how runs go, for programs that listen there and not at the API."""

from collections.abc import Sequence

from tidemill.domain.events import RunEvent
from tidemill.domain.run_status import RunStatus
from tidemill.foundation.queue import Fact, FactSink

# By the status that a run comes to; of others nothing is told.
_ROUTES = {
    RunStatus.RUNNING: "status.running",
    RunStatus.SUCCEEDED: "status.success",
    RunStatus.FAILED: "status.failed",
    RunStatus.TIMED_OUT: "status.failed",
    RunStatus.CANCELLED: "status.completed",
    RunStatus.SKIPPED: "status.completed",
}


class StatusMessages:
    """An event sink: a run that starts, and one that ends, is a fact."""

    def __init__(self, facts: FactSink) -> None:
        self._facts = facts

    def publish(self, events: Sequence[RunEvent]) -> None:
        """Tell those of these that are told at brokers."""
        found = [status_update(event) for event in events]
        self._facts.tell([fact for fact in found if fact is not None])


def status_update(event: RunEvent) -> Fact | None:
    """What a broker is told of an event; None where it is told nothing."""
    status = event.data.get("to")
    route = _ROUTES.get(status) if status else None
    if route is None:
        return None
    payload = {
        "run_id": event.run_id,
        "seq": event.seq,
        "namespace": event.namespace,
        "status": status,
        "reason": event.data.get("reason"),
        "at": event.at,
    }
    return Fact(route, str(event.run_id), payload)
