"""Many tasks are applied together, or none of them is."""

import asyncio
from typing import Any

import httpx2
import pytest
from in_process import InProcess

from tidemill.api.definitions import definition_of
from tidemill.api.routes.apply import LARGEST_BODY
from tidemill.api.schemas import TaskBody


def task(name: str, *upstream: str, **fields: Any) -> dict[str, Any]:
    dependencies = [{"task": f"name:{each}"} for each in upstream]
    given = {"name": name, "executor": "shell", "command": "true", **fields}
    return given | ({"dependencies": dependencies} if upstream else {})


async def applied(api: httpx2.AsyncClient, *tasks: dict[str, Any], **wish: Any) -> dict[str, Any]:
    """The fate of each task, by its name."""
    answer = await api.post("/apply", json={"tasks": tasks, **wish})
    assert answer.status_code == 200, answer.text
    return {each["name"]: each["fate"] for each in answer.json()["items"]}


async def stored(api: httpx2.AsyncClient) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in (await api.get("/tasks")).json()["items"]}


async def test_tasks_that_name_one_another_in_any_order_are_created_together(
    api: httpx2.AsyncClient,
) -> None:
    assert await applied(api, task("b", "a"), task("a")) == {"b": "created", "a": "created"}
    assert await applied(api, task("b", "a"), task("a")) == {"b": "unchanged", "a": "unchanged"}
    changed = await applied(api, task("b", "a"), task("a", command="false"), task("c", "b"))

    assert changed == {"b": "unchanged", "a": "updated", "c": "created"}
    assert {name: each["version"] for name, each in (await stored(api)).items()} == {
        "b": 1, "a": 2, "c": 1,
    }  # fmt: skip
    run = (await api.post("/tasks/name:a/trigger")).json()
    found = (await api.get(f"/flow-runs/{run['flow_run_id']}")).json()
    assert [each["task_name"] for each in found["runs"]] == ["a", "b", "c"]


async def test_a_dry_run_says_the_same_and_stores_nothing(api: httpx2.AsyncClient) -> None:
    await applied(api, task("a"), task("old"))
    before = await stored(api)
    wish = [task("a", command="false"), task("b", "a")], {"prune": True}
    dry = await applied(api, *wish[0], **wish[1], dry_run=True)

    assert dry == {"a": "updated", "b": "created", "old": "deleted"}
    assert await stored(api) == before
    assert await applied(api, *wish[0], **wish[1]) == dry
    assert set(await stored(api)) == {"a", "b"}


async def test_everything_that_is_wrong_is_said_at_once_and_nothing_is_stored(
    api: httpx2.AsyncClient,
) -> None:
    answer = await api.post(
        "/apply",
        json={
            "tasks": [
                task("a", "nobody", schedule="61 * * * *"),
                task("b", "c"),
                task("c", "b"),
                task("d", executor="none"),
                task("d"),
            ]
        },
    )

    assert answer.status_code == 422
    said = {each["pointer"]: each["message"] for each in answer.json()["errors"]}
    assert said.keys() == {
        "/tasks/0/schedule", "/tasks/0/dependencies/0/task", "/tasks/3/executor", "/tasks/4/name",
    }  # fmt: skip
    assert "task 'a': no task 'name:nobody'" in said["/tasks/0/dependencies/0/task"]
    assert await stored(api) == {}


async def test_each_circle_is_told_with_its_way(api: httpx2.AsyncClient) -> None:
    await applied(api, task("a"), task("b", "a"))
    answer = await api.post(
        "/apply", json={"tasks": [task("a", "b"), task("x", "y"), task("y", "x")]}
    )

    assert answer.status_code == 422
    said = sorted(each["message"].partition(": ")[2] for each in answer.json()["errors"])
    assert [set(way.split(" → ")) for way in said] == [{"a", "b"}, {"x", "y"}]
    assert set(await stored(api)) == {"a", "b"}


async def test_what_others_need_is_not_pruned_from_under_them(api: httpx2.AsyncClient) -> None:
    await applied(api, task("a"), task("b"))
    await api.post("/tasks", json=task("by-hand", "a"))
    kept = await api.post("/apply", json={"tasks": [task("b")], "prune": True})
    named = await api.post("/apply", json={"tasks": [task("b", "a")], "prune": True})

    assert kept.status_code == named.status_code == 422
    assert kept.json()["errors"] == [{"pointer": "/prune", "message": "'by-hand' depends on 'a'"}]
    assert set(await stored(api)) == {"a", "b", "by-hand"}


async def test_a_status_is_changed_only_where_it_is_given(api: httpx2.AsyncClient) -> None:
    await applied(api, task("a", schedule="@hourly"), task("b", status="paused"))
    await api.post("/tasks/name:a/pause")
    left = await applied(api, task("a", schedule="@hourly"), task("b", status="active"))
    found = await stored(api)

    assert left == {"a": "unchanged", "b": "updated"}
    assert (found["a"]["status"], found["b"]["status"]) == ("paused", "active")
    assert await applied(api, task("a", schedule="@daily", status="active")) == {"a": "updated"}
    assert (await stored(api))["a"]["status"] == "active"


async def test_the_same_key_gives_the_first_answer_again(api: httpx2.AsyncClient) -> None:
    key = {"Idempotency-Key": "k"}
    first = await api.post("/apply", json={"tasks": [task("a")]}, headers=key)
    again = await api.post("/apply", json={"tasks": [task("a")]}, headers=key)

    assert first.json() == again.json()
    assert first.json()["items"][0]["fate"] == "created"


async def test_a_body_may_be_larger_than_others_but_not_of_any_size(
    api: httpx2.AsyncClient, process: InProcess
) -> None:
    large = task("a", description="x" * 9_000)
    many = [large | {"name": f"a-{number}"} for number in range(200)]
    assert set((await applied(api, *many, dry_run=True)).values()) == {"created"}
    refused = await api.post(
        "/apply",
        content=b"[" + b" " * LARGEST_BODY,
        headers={"Content-Type": "application/json"},
    )

    assert process.context.max_body_bytes < 200 * 9_000 < LARGEST_BODY
    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")


async def test_a_large_body_is_read_while_others_are_answered(
    api: httpx2.AsyncClient, process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()
    check = process.context.check_task

    def wait_for_the_other(definition: Any) -> Any:
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(60)
        return check(definition)

    monkeypatch.setattr(process.context, "check_task", wait_for_the_other)
    applying = asyncio.create_task(applied(api, task("a")))
    assert (await api.get("/tasks")).status_code == 200
    assert not applying.done()
    gate.set()

    assert await applying == {"a": "created"}


def test_what_a_body_leaves_out_is_as_the_domain_has_it() -> None:
    parts: dict[str, Any] = {
        "dst": {}, "misfire": {}, "retry": {}, "concurrency": {}, "map_over": {"task": "name:a"},
    }  # fmt: skip
    for brief in (task("b"), task("b", "a") | parts):
        body = TaskBody.model_validate(brief)
        all_said = TaskBody.model_validate(body.model_dump())

        assert definition_of(body) == definition_of(all_said)


async def test_expressions_and_maps_of_a_file_are_checked_like_those_of_one_task(
    api: httpx2.AsyncClient,
) -> None:
    tasks = [
        task("a"),
        task("b", "a", trigger_rule='upstream.c.status == "succeeded"'),
        task("c", "a", map_over={"task": "name:b"}),
        task("d", "a", trigger_rule='upstream.a.status == "succeeded"'),
    ]
    answer = await api.post("/apply", json={"tasks": tasks})

    assert answer.status_code == 422
    assert [each["pointer"] for each in answer.json()["errors"]] == [
        "/tasks/1/trigger_rule", "/tasks/2/map_over/task",
    ]  # fmt: skip
    assert await stored(api) == {}
