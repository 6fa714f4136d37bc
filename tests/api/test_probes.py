"""What operators ask: alive, ready, how much, how late."""

from datetime import timedelta

import httpx2
import pytest
from in_process import InProcess
from prometheus_client.parser import text_string_to_metric_families

from tidemill.api.probes import Probes, create_probes
from tidemill.application.claim_runs import claim_runs
from tidemill.application.dispatch_ready_runs import dispatch_ready_runs
from tidemill.application.manage_workers import register_worker
from tidemill.application.record_outcomes import record_outcomes
from tidemill.client.client import Client
from tidemill.domain.duty import Duty
from tidemill.domain.outcome import success
from tidemill.domain.strategies.registry import built_in_strategies
from tidemill.errors import Unavailable
from tidemill.foundation.control_plane import AttemptReport
from tidemill.infrastructure.resilience.circuit_breaker import BreakerOptions, CircuitBreaker
from tidemill.observability.health import Component, Health
from tidemill.observability.metrics import Metrics
from tidemill.testing import builders
from tidemill.testing.clock import FakeClock
from tidemill.testing.server import Server

TASK = {"name": "a-task", "executor": "shell", "command": "true"}


@pytest.fixture
def process() -> InProcess:
    """One whose database may be broken and whose numbers begin at nothing."""
    return InProcess()


async def test_a_server_that_may_serve_says_so(process: InProcess) -> None:
    async with process.client("") as probe:
        assert (await probe.get("/health")).json() == {"status": "up"}
        assert (await probe.get("/ready")).json() == {"status": "ready"}


async def test_a_server_that_drains_is_alive_but_not_ready(process: InProcess) -> None:
    process.context.close()
    async with process.client("") as probe:
        ready = await probe.get("/ready")

        assert (ready.status_code, ready.json()["detail"]) == (503, "draining")
        assert (await probe.get("/health")).status_code == 200


@pytest.mark.parametrize("loss", ["closed", "schema"])
async def test_a_server_without_its_database_is_alive_but_not_ready(
    process: InProcess, loss: str
) -> None:
    driver = process.store._connection.driver
    if loss == "closed":
        driver.close()
    else:
        driver.execute("ALTER TABLE run_events RENAME TO something_else")
    async with process.client("") as probe:
        ready = await probe.get("/ready")
        metrics = await probe.get("/metrics")

        assert (ready.status_code, ready.json()["code"]) == (503, "unavailable")
        assert ready.headers["Retry-After"] == "1"
        assert (await probe.get("/health")).status_code == 200
        if loss == "closed":
            assert _samples(metrics.text)["tidemill_database_up", ()] == 0
            health = (await probe.get("/api/v1/system/health")).json()
            assert health["components"]["database"]["status"] == "down"


async def test_what_is_there_but_does_not_keep_a_server_from_serving_is_told_of(
    process: InProcess,
) -> None:
    breaker = CircuitBreaker("message_queue", BreakerOptions(failure_threshold=1), process.clock)
    process.metrics.watch(breaker.read)

    async def check() -> None:
        with breaker.call():
            raise Unavailable("no broker", was_reached=False)

    process.health.serve([
        Component("database", process.store.check),
        Component("message_queue", check, breaker.read, is_needed=False),
    ])  # fmt: skip
    async with process.client("") as probe:
        assert (await probe.get("/ready")).status_code == 200
        health = (await probe.get("/api/v1/system/health")).json()
        numbers = _samples((await probe.get("/metrics")).text)

    assert health["status"] == "degraded"
    assert health["components"]["database"]["status"] == "up"
    found = health["components"]["message_queue"]
    assert (found["status"], found["circuit_breaker"]) == ("down", "open")
    assert found["detail"].startswith("the message queue does not answer; it is asked again")
    label = (("component", "message_queue"),)
    assert numbers["tidemill_circuit_breaker_state", label] == 2
    assert numbers["tidemill_circuit_breaker_openings_total", label] == 1
    assert numbers["tidemill_circuit_breaker_refusals_total", label] == 1


async def test_a_process_without_an_api_answers_probes_and_nothing_else() -> None:
    health, metrics = Health(FakeClock()), Metrics()
    app = create_probes(Probes(health, metrics.render_own))
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://10.1.2.3:9100") as probe:
        starting = await probe.get("/ready")
        health.serve([])
        ready = await probe.get("/ready")
        alive = await probe.get("/health")
        numbers = _samples((await probe.get("/metrics")).text)
        elsewhere = [await probe.get(path) for path in ("/", "/api/v1/tasks", "/docs")]
        written = await probe.post("/ready", json={})

    assert (starting.status_code, starting.json()["detail"]) == (503, "starting")
    assert starting.headers["content-type"] == "application/problem+json"
    assert starting.json()["request_id"] == starting.headers["X-Request-ID"]
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    assert alive.json() == {"status": "up"}
    assert numbers["process_resident_memory_bytes", ()] > 0
    assert ("tidemill_database_up", ()) not in numbers
    assert {each.json()["code"] for each in elsewhere} == {"not_found"}
    assert written.status_code in {405, 413}


async def test_metrics_tell_how_late_runs_start_and_how_they_end(process: InProcess) -> None:
    process.store.transact_now(lambda t: register_worker(t, builders.worker("w")))
    async with process.client() as api, process.client("") as probe:
        await api.post("/tasks", json=TASK)
        await api.post("/runs", json={"items": [{"task": 1}] * 3})
        process.clock.advance(timedelta(seconds=0.2))
        process.store.transact_now(lambda t: dispatch_ready_runs(t, 10, built_in_strategies()))
        [claimed, _] = process.store.transact_now(
            lambda t: claim_runs(t, "w", [1, 2], timedelta(seconds=10))
        )
        process.clock.advance(timedelta(seconds=3))
        report = AttemptReport(1, claimed.run.fence, "itself", success(), 0)
        process.store.transact_now(lambda t: record_outcomes(t, [report]))
        await api.post("/runs/3/cancel")
        found = _samples((await probe.get("/metrics")).text)

    late, took = "tidemill_run_start_lateness_seconds", "tidemill_run_duration_seconds"
    assert found[f"{late}_count", ()] == 2
    assert found[f"{late}_sum", ()] == pytest.approx(0.4)
    assert found[f"{late}_bucket", (("le", "0.1"),)] == 0
    assert found[f"{late}_bucket", (("le", "0.25"),)] == 2
    assert found[f"{took}_bucket", (("le", "1.0"),)] == 0
    assert found[f"{took}_bucket", (("le", "5.0"),)] == 1
    finished = "tidemill_runs_finished_total"
    assert found[finished, (("reason", ""), ("status", "succeeded"))] == 1
    assert found[finished, (("reason", "cancelled_by_user"), ("status", "cancelled"))] == 1
    assert found["tidemill_run_events_total", (("type", "RunCreated"),)] == 3
    assert found["tidemill_runs_unfinished", (("status", "running"),)] == 1
    assert found["tidemill_runs_unfinished", (("status", "pending"),)] == 0
    assert found["tidemill_queue_running", (("queue", "default"),)] == 1
    assert found["tidemill_workers", (("status", "active"),)] == 1
    assert (found["tidemill_worker_slots", ()], found["tidemill_worker_slots_used", ()]) == (4, 1)


async def test_metrics_tell_what_waits(process: InProcess) -> None:
    async with process.client() as api, process.client("") as probe:
        await api.post("/tasks", json=TASK)
        await api.post("/tasks/1/trigger")
        process.clock.advance(timedelta(seconds=7))
        found = _samples((await probe.get("/metrics")).text)

    assert found["tidemill_queue_depth", (("queue", "default"),)] == 1
    assert found["tidemill_queue_oldest_age_seconds", (("queue", "default"),)] == 7
    assert found["tidemill_workers", (("status", "active"),)] == 0


def test_a_real_server_is_ready_and_counts_what_it_ran(
    shared_server: Server, client: Client
) -> None:
    task = client.call("POST", "/tasks", body=TASK | {"name": "counted"})
    before = _scraped(shared_server)
    run = client.trigger(str(task["id"]))
    client.wait(run["id"], timeout_seconds=60)
    after = _scraped(shared_server)

    succeeded = ("tidemill_runs_finished_total", (("reason", ""), ("status", "succeeded")))
    assert after[succeeded] > before.get(succeeded, 0)
    assert after["tidemill_database_up", ()] == 1
    assert after["process_resident_memory_bytes", ()] > 0
    assert httpx2.get(f"{shared_server.url}/ready", trust_env=False).status_code == 200


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def _scraped(server: Server) -> Samples:
    return _samples(httpx2.get(f"{server.url}/metrics", trust_env=False).text)


def _samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_stats_tell_who_does_what_for_all(process: InProcess) -> None:
    lease = timedelta(seconds=60)
    process.store.transact_now(
        lambda t: t.take_duty(Duty.PRUNE_HISTORY, "host-1/7/ab", t.now + lease)
    )
    began, ends = (
        f"{at.isoformat(timespec='milliseconds')[:-6]}Z"
        for at in (process.clock.now(), process.clock.now() + lease)
    )
    never_taken = {
        "duty": "tidy_queue",
        "is_held": False,
        "holder": None,
        "since": None,
        "lease_expires_at": None,
    }
    held = {
        "duty": "prune_history",
        "is_held": True,
        "holder": "host-1/7/ab",
        "since": began,
        "lease_expires_at": ends,
    }
    async with process.client() as api:
        assert (await api.get("/system/stats")).json()["duties"] == [held, never_taken]
        process.clock.advance(lease)
        [neglected, _] = (await api.get("/system/stats")).json()["duties"]

    assert neglected == held | {"is_held": False}
