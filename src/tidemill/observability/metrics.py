"""Numbers for operators: facts counted as they are committed, levels read when asked for."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from operator import attrgetter

from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from tidemill.application.queries.levels import Levels
from tidemill.domain.events import EventType, RunEvent
from tidemill.domain.run_status import UNFINISHED
from tidemill.domain.worker import WorkerStatus
from tidemill.foundation.health import BreakerReading, BreakerState

_LATENESS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3_600)
_DURATION = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3_600, 14_400, 86_400)
_BATCH = (1, 4, 16, 64, 256, 1_024)

_NUMBER_OF_STATE = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
_type_of = attrgetter("type")
_ENDINGS = {EventType.RUN_FINISHED, EventType.RUN_CANCELLED, EventType.RUN_SKIPPED}


class Metrics:
    """Counts the committed events of one process.

    Plain numbers, shaped for Prometheus only when it asks: events come and are read on one event
    loop, so that counting one costs no lock.
    """

    def __init__(self) -> None:
        self._process = ProcessCollector(registry=None)
        self._events: Counter[EventType] = Counter()
        self._finished: Counter[tuple[str, str]] = Counter()
        self._lateness = _Distribution(_LATENESS)
        self._duration = _Distribution(_DURATION)
        self._batches = _Distribution(_BATCH)
        self._breakers: list[Callable[[], BreakerReading]] = []

    def watch(self, breaker: Callable[[], BreakerReading]) -> None:
        """Tell of this circuit breaker as well."""
        self._breakers.append(breaker)

    def publish(self, events: Sequence[RunEvent]) -> None:
        """Count committed events."""
        self._batches.add([len(events)])
        self._events.update(map(_type_of, events))
        started = [each.data for each in events if each.type is EventType.RUN_STARTED]
        ended = [each.data for each in events if each.type in _ENDINGS and "to" in each.data]
        self._lateness.add(data["late_seconds"] for data in started if data["attempt"] == 1)
        self._finished.update((data["to"], data.get("reason") or "") for data in ended)
        took = (data.get("took_seconds") for data in ended)
        self._duration.add(seconds for seconds in took if seconds is not None)

    def render(self, levels: Levels | None) -> bytes:
        """The Prometheus text format; without levels the database is told to be down."""
        return generate_latest(_Families([*self._own(), *_shown(levels)]))

    async def render_own(self) -> bytes:
        """The same of this process alone."""
        return generate_latest(_Families([*self._own()]))

    def _own(self) -> Iterable[Metric]:
        breakers = [read() for read in self._breakers]
        return [*self._process.collect(), *self._counted(), *_breakers(breakers)]

    def _counted(self) -> Iterable[Metric]:
        events = CounterMetricFamily(
            "tidemill_run_events", "Facts of runs' lives.", labels=["type"]
        )
        for kind, count in sorted(self._events.items()):
            events.add_metric([kind.value], count)
        finished = CounterMetricFamily(
            "tidemill_runs_finished", "Runs that came to an end.", labels=["status", "reason"]
        )
        for labels, count in sorted(self._finished.items()):
            finished.add_metric(labels, count)
        return (
            events,
            finished,
            self._lateness.family(
                "tidemill_run_start_lateness_seconds",
                "From the instant at which a run might start to the start of its first attempt.",
            ),
            self._duration.family(
                "tidemill_run_duration_seconds",
                "From the start of a run's last attempt to its end.",
            ),
            self._batches.family("tidemill_event_batch", "Facts committed together."),
        )


def _breakers(readings: Sequence[BreakerReading]) -> Iterable[Metric]:
    state = GaugeMetricFamily(
        "tidemill_circuit_breaker_state",
        "Whether calls to it go through: 0 they do, 1 one does to find out, 2 none does.",
        labels=["component"],
    )
    openings = CounterMetricFamily(
        "tidemill_circuit_breaker_openings", "How often it was found gone.", labels=["component"]
    )
    refusals = CounterMetricFamily(
        "tidemill_circuit_breaker_refusals",
        "Calls to it that failed at once, because it was gone.",
        labels=["component"],
    )
    for each in readings:
        state.add_metric([each.component], _NUMBER_OF_STATE[each.state])
        openings.add_metric([each.component], each.openings)
        refusals.add_metric([each.component], each.refusals)
    return state, openings, refusals


def _shown(levels: Levels | None) -> Iterable[Metric]:
    up = GaugeMetricFamily(
        "tidemill_database_up", "Whether the database answers.", value=float(levels is not None)
    )
    if levels is None:
        return [up]
    unfinished = GaugeMetricFamily(
        "tidemill_runs_unfinished", "Runs that have not ended.", labels=["status"]
    )
    for status in sorted(UNFINISHED):
        unfinished.add_metric([status.value], levels.unfinished.get(status, 0))
    return [up, unfinished, *_queues(levels), *_workers(levels)]


def _queues(levels: Levels) -> Iterable[Metric]:
    depth: dict[str, int] = defaultdict(int)
    running: dict[str, int] = defaultdict(int)
    age: dict[str, float] = defaultdict(float)
    for lane in levels.lanes:
        queue = lane.lane.partition("/")[0]
        depth[queue] += lane.ready
        running[queue] += lane.running
        if lane.oldest_ready_at is not None:
            waited = (levels.at - lane.oldest_ready_at).total_seconds()
            age[queue] = max(age[queue], waited)
    for name, text, values in (
        ("tidemill_queue_depth", "Runs that may start and wait.", depth),
        ("tidemill_queue_running", "Runs that a worker holds.", running),
        ("tidemill_queue_oldest_age_seconds", "How long the oldest of them waits.", age),
    ):
        family = GaugeMetricFamily(name, text, labels=["queue"])
        for queue, value in sorted(values.items()):
            family.add_metric([queue], value)
        yield family


def _workers(levels: Levels) -> Iterable[Metric]:
    alive = GaugeMetricFamily("tidemill_workers", "Workers that are alive.", labels=["status"])
    for status in (WorkerStatus.ACTIVE, WorkerStatus.DRAINING):
        count = sum(worker.status is status for worker in levels.workers)
        alive.add_metric([status.value], count)
    slots = sum(worker.max_concurrent_tasks for worker in levels.workers)
    used = sum(lane.running for lane in levels.lanes)
    yield alive
    yield GaugeMetricFamily("tidemill_worker_slots", "Room for runs, free or not.", value=slots)
    yield GaugeMetricFamily("tidemill_worker_slots_used", "Room that runs take.", value=used)


class _Distribution:
    """How many values came up to each bound, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, values: Iterable[float]) -> None:
        for value in values:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    def family(self, name: str, text: str) -> Metric:
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        buckets = list(zip(names, accumulate(self._counts), strict=True))
        return HistogramMetricFamily(name, text, buckets=buckets, sum_value=self._sum)


class _Families(Collector):
    """What is shown in one answer."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
