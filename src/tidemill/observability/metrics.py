"""Numbers for operators, counted from committed facts."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from tidemill.domain.events import EventType, RunEvent


class Metrics:
    """Counts events; one registry per process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._events = Counter(
            "tidemill_run_events", "Facts of runs' lives.", ["type"], registry=self.registry
        )
        self._finished = Counter(
            "tidemill_runs_finished",
            "Runs that came to an end.",
            ["status", "reason"],
            registry=self.registry,
        )
        self._recorded = Histogram(
            "tidemill_event_batch",
            "Facts committed together.",
            buckets=(1, 4, 16, 64, 256, 1024),
            registry=self.registry,
        )

    def publish(self, events: Sequence[RunEvent]) -> None:
        """Count committed events."""
        self._recorded.observe(len(events))
        by_type: dict[EventType, int] = {}
        for event in events:
            by_type[event.type] = by_type.get(event.type, 0) + 1
            status = event.data.get("to")
            if event.type in _ENDINGS and status is not None:
                self._finished.labels(status, event.data.get("reason") or "").inc()
        for kind, count in by_type.items():
            self._events.labels(kind.value).inc(count)

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)


_ENDINGS = {
    EventType.RUN_FINISHED,
    EventType.RUN_CANCELLED,
    EventType.RUN_SKIPPED,
}
