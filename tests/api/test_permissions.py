"""Every route says what it needs, and no query reaches beyond what its caller sees."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from in_process import InProcess

from tidemill.api import probes
from tidemill.api.app import description
from tidemill.api.permissions import Requirement
from tidemill.api.routes import apply, flow_runs, runs, system, tasks, worker_calls, workers
from tidemill.domain.flow_run import FlowRun
from tidemill.domain.task_run import Trigger
from tidemill.foundation.store import Transaction

TASK = {"name": "a-task", "executor": "shell", "command": "true", "schedule": "@hourly"}
SPAN = {"from": "2025-12-01T00:00:00Z", "to": "2025-12-02T00:00:00Z"}


def _routes() -> Iterator[APIRoute]:
    for module in (tasks, apply, runs, flow_runs, workers, worker_calls, system):
        yield from _routes_of(module.router)
    yield from _routes_of(probes.router)


def _routes_of(router: APIRouter) -> Iterator[APIRoute]:
    for route in router.routes:
        assert isinstance(route, APIRoute)
        yield route


def test_a_route_declares_exactly_one_permission_or_is_a_probe() -> None:
    public, served = set(), 0
    for route in _routes():
        declared = [each for each in route.dependencies if isinstance(each.dependency, Requirement)]
        assert len(declared) <= 1, route.path
        served += len(route.methods or ())
        if not declared:
            public.add(route.path)

    assert public == {"/health", "/ready", "/metrics"}
    assert served == sum(map(len, description("0")["paths"].values()))


@pytest.fixture
async def of_team(api: httpx2.AsyncClient, process: InProcess) -> Any:
    """A caller who sees the namespace `team`, where everything numbered 2 is; 1 is in `default`."""
    for number, namespace in ((1, "default"), (2, "team")):
        await api.post("/tasks", json=TASK | {"namespace": namespace})
        await api.post(f"/tasks/{number}/trigger")
        process.store.transact_now(partial(_open_flow_run, number=number, namespace=namespace))

    process.context.visible_namespace = "team"
    yield api
    process.context.visible_namespace = None


def _open_flow_run(transaction: Transaction, number: int, namespace: str) -> None:
    opened = FlowRun(
        id=str(number),
        namespace=namespace,
        root_task_id=number,
        root_run_id=number,
        trigger=Trigger.MANUAL,
        scheduled_for=transaction.now,
        total=0,
        unfinished=0,
        created_at=transaction.now,
    )
    transaction.open_flow_runs([opened], [])


def _by_id() -> list[tuple[str, str]]:
    """Every route about one task, run or flow run."""
    return [
        (method, route.path)
        for route in _routes()
        for method in sorted(route.methods or ())
        if route.path.startswith(("/tasks/{id}", "/runs/{id}", "/flow-runs/{id}"))
    ]


@pytest.mark.parametrize(("method", "path"), _by_id())
async def test_a_caller_does_not_find_what_is_in_another_namespace(
    of_team: httpx2.AsyncClient, method: str, path: str
) -> None:
    body: Any = {}
    if path.endswith("/backfill"):
        body = SPAN
    elif method == "PUT":
        body = TASK | {"namespace": "team"}
    given = {"json": body} if method in {"POST", "PUT", "PATCH"} else {}

    foreign = await of_team.request(method, path.replace("{id}", "1"), **given)
    named = await of_team.request(method, path.replace("{id}", "name:a-task"), **given)
    own = await of_team.request(method, path.replace("{id}", "2"), **given)

    assert foreign.status_code == 404
    assert named.status_code == 404  # the namespace that names are looked up in is `default`
    assert own.status_code in {200, 202, 204, 409}


async def test_a_caller_lists_only_what_they_see(of_team: httpx2.AsyncClient) -> None:
    for path in ("/tasks", "/runs", "/flow-runs"):
        found = (await of_team.get(path)).json()["items"]
        assert [str(item["id"]) for item in found] == ["2"]
        assert (await of_team.get(f"{path}?namespace=default")).status_code == 403
    assert (await of_team.get("/events?namespace=default")).status_code == 403


async def test_a_caller_puts_nothing_where_they_do_not_see(of_team: httpx2.AsyncClient) -> None:
    created = await of_team.post("/tasks", json=TASK | {"name": "b"})
    moved = await of_team.patch("/tasks/2", json={"namespace": "default"})

    assert (created.status_code, moved.status_code) == (403, 403)
    assert created.json()["code"] == "permission_denied"


async def test_many_runs_are_asked_for_and_ended_only_where_the_caller_sees(
    of_team: httpx2.AsyncClient,
) -> None:
    in_team = {"params": {"namespace": "team"}}
    foreign = await of_team.post("/runs", json={"items": [{"task": 1}, {"task": 2}]}, **in_team)
    own = await of_team.post("/runs", json={"items": [{"task": 2}]}, **in_team)
    elsewhere = await of_team.post("/runs", json={"items": [{"task": 2}]})
    ended = await of_team.post("/runs/bulk", json={"action": "cancel", "ids": [1, 2]})
    matching = await of_team.post("/runs/bulk", json={"action": "cancel", "filter": {}})

    assert (foreign.status_code, own.status_code, elsewhere.status_code) == (422, 202, 403)
    assert [item["status"] for item in ended.json()["items"]] == [404, 202]
    assert [item["id"] for item in matching.json()["items"]] == own.json()["ids"]


async def test_a_task_is_triggered_by_its_id_whatever_its_namespace(
    api: httpx2.AsyncClient,
) -> None:
    await api.post("/tasks", json=TASK | {"namespace": "team"})
    await api.post("/runs", json={"items": [{"task": 1}, {"task": "01"}]})

    runs = (await api.get("/runs")).json()["items"]
    assert [run["namespace"] for run in runs] == ["team", "team"]
