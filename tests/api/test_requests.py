"""What holds for every request: its id, its size, its key, its host."""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx2
import pytest
from in_process import HOST, MAX_BODY, InProcess

from tidemill.api.app import description
from tidemill.client.client import Client
from tidemill.errors import Problem
from tidemill.foundation.store import Transaction
from tidemill.testing import builders
from tidemill.testing.server import Server

TASK = {"name": "a-task", "executor": "shell", "command": "true"}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_a_request_id_is_given_back_or_made(api: httpx2.AsyncClient) -> None:
    given = await api.get("/tasks", headers={"X-Request-ID": "from-me-1"})
    unusable = await api.get("/tasks", headers={"X-Request-ID": "has a space"})
    refused = await api.get("/nothing", headers={"X-Request-ID": "from-me-2"})

    assert given.headers["X-Request-ID"] == "from-me-1"
    assert len(unusable.headers["X-Request-ID"]) == 32
    assert refused.headers["X-Request-ID"] == refused.json()["request_id"] == "from-me-2"


async def test_a_trace_goes_on_into_the_runs_that_are_asked_for(
    api: httpx2.AsyncClient, process: InProcess
) -> None:
    await api.post("/tasks", json=TASK)
    headers = {"traceparent": TRACE}
    one = (await api.post("/tasks/1/trigger", headers=headers)).json()["id"]
    many = (await api.post("/runs", json={"items": [{"task": 1}]}, headers=headers)).json()["ids"]
    malformed = await api.post("/tasks/1/trigger", headers={"traceparent": "ff-12-34-01"})
    await api.post(f"/runs/{one}/cancel")
    again = (await api.post(f"/runs/{one}/retry", headers=headers)).json()["id"]

    ids = [one, *many, malformed.json()["id"], again]
    runs = process.store.transact_now(lambda t: t.runs(ids))
    assert [runs[run_id].traceparent for run_id in ids] == [TRACE, TRACE, None, TRACE]


# size


async def test_a_body_of_ten_megabytes_is_refused(api: httpx2.AsyncClient) -> None:
    answer = await api.post("/tasks", json=TASK | {"description": "x" * 10_000_000})

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert str(MAX_BODY) in answer.json()["detail"]
    assert (await api.get("/tasks")).json()["items"] == []


async def test_a_body_that_is_announced_too_large_is_refused_unread(process: InProcess) -> None:
    async def receive() -> dict[str, Any]:
        raise AssertionError("it was read")

    sent = await _call(process, receive, {"content-length": "9" * 30})

    assert sent[0]["status"] == 413


async def test_a_body_of_unknown_size_is_read_no_further_than_it_may_be(
    api: httpx2.AsyncClient,
) -> None:
    handed_out = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal handed_out
        while True:
            handed_out += 65_536
            yield b"x" * 65_536

    answer = await api.post(
        "/tasks", content=endless(), headers={"Content-Type": "application/json"}
    )

    assert answer.status_code == 413
    assert handed_out <= MAX_BODY + 2 * 65_536


async def test_a_body_whose_sender_left_is_not_carried_out(
    api: httpx2.AsyncClient, process: InProcess
) -> None:
    await api.post("/tasks", json=TASK)
    messages = iter(
        [{"type": "http.request", "body": b"", "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> dict[str, Any]:
        return next(messages)

    sent = await _call(process, receive, {"content-length": "40"}, "/api/v1/tasks/1/trigger")

    assert sent == []
    assert (await api.get("/runs")).json()["items"] == []


async def _call(
    process: InProcess, receive: Any, headers: dict[str, str], path: str = "/api/v1/tasks"
) -> list[Any]:
    """A POST as a server hands it over; what is sent back."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"host": HOST, "content-type": "application/json", **headers}
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "scheme": "http",
        "server": (HOST, 80),
    }
    await process.app(scope, receive, send)
    return sent


# idempotency keys


def _posts(task: int, run: int, flow_run: str) -> list[tuple[str, Any, Any]]:
    """Every POST there is: path, body, another body."""
    span = {"from": "2025-12-01T00:00:00Z", "to": "2025-12-02T00:00:00Z"}
    item = {"task": task}
    return [
        ("/tasks", TASK | {"name": "another"}, TASK | {"name": "other"}),
        ("/apply", {"tasks": [TASK | {"name": "more"}]}, {"tasks": [TASK | {"name": "much"}]}),
        (f"/tasks/{task}/trigger", {}, {"priority": "high"}),
        (f"/tasks/{task}/pause", {}, None),
        (f"/tasks/{task}/resume", {}, None),
        (f"/tasks/{task}/backfill", span, span | {"dry_run": True}),
        ("/runs", {"items": [item]}, {"items": [item, item]}),
        ("/runs/bulk", {"action": "cancel", "ids": [99]}, {"action": "retry", "ids": [99]}),
        (f"/runs/{run}/cancel", {}, None),
        (f"/runs/{run}/retry", {}, None),
        (f"/flow-runs/{flow_run}/cancel", {}, None),
        (f"/flow-runs/{flow_run}/retry", {}, {"versions": "now"}),
        ("/workers", {"name": "w"}, {"name": "v"}),
        ("/workers/w-1/heartbeat", {}, {"current_task_count": 1}),
        ("/workers/w-1/claim", {"number": 1}, {"number": 2}),
        ("/workers/w-1/report", {}, {"outputs": [{"run_id": 99, "fence": 1}]}),
        ("/workers/w-1/drain", {}, None),
        ("/workers/w-1/sign-off", {}, None),
        ("/schedules/preview", {"schedule": "@daily"}, {"schedule": "@hourly"}),
    ]


def _seed(transaction: Transaction) -> None:
    transaction.save_worker(builders.worker("w-1"))


async def test_a_post_with_the_same_key_is_answered_as_the_first_time(
    api: httpx2.AsyncClient, process: InProcess
) -> None:
    flow_run = await _prepare(api, process)
    for path, body, _ in _posts(1, 1, flow_run):
        key = {"Idempotency-Key": f"key of {path}"}
        first = await api.post(path, json=body, headers=key)
        events = process.store.read_now(lambda r: r.last_event())
        second = await api.post(path, json=body, headers=key)

        assert first.status_code < 300, first.text
        told = [(each.status_code, each.content, _own(each)) for each in (first, second)]
        assert told[0] == told[1], path
        assert process.store.read_now(lambda r: r.last_event()) == events, path


async def test_a_post_with_the_key_of_another_body_is_refused(
    api: httpx2.AsyncClient, process: InProcess
) -> None:
    flow_run = await _prepare(api, process)
    for path, body, other in _posts(1, 1, flow_run):
        key = {"Idempotency-Key": f"key of {path}"}
        await api.post(path, json=body, headers=key)
        before = process.store.read_now(lambda r: r.last_event())
        content = b"{ }" if other is None else json.dumps(other)
        headers = key | {"Content-Type": "application/json"}
        answer = await api.post(path, content=content, headers=headers)

        assert answer.status_code == 422, path
        assert answer.json()["code"] == "idempotency_key_reused"
        assert process.store.read_now(lambda r: r.last_event()) == before


def test_every_post_takes_an_idempotency_key() -> None:
    documented = {
        path: operation["post"].get("parameters", [])
        for path, operation in description("0")["paths"].items()
        if "post" in operation
    }

    assert len(documented) == len(_posts(1, 1, "a"))
    for path, parameters in documented.items():
        assert "idempotency-key" in {each["name"] for each in parameters}, path


async def test_a_call_that_failed_is_carried_out_when_it_comes_again(
    api: httpx2.AsyncClient,
) -> None:
    key = {"Idempotency-Key": "k"}
    failed = await api.post("/tasks/1/trigger", headers=key)
    await api.post("/tasks", json=TASK)
    again = await api.post("/tasks/1/trigger", headers=key)

    assert (failed.status_code, again.status_code) == (404, 202)


async def test_a_key_belongs_to_the_whole_address(api: httpx2.AsyncClient) -> None:
    for namespace in ("default", "team"):
        await api.post("/tasks", json=TASK | {"namespace": namespace})
    path, key = "/tasks/name:a-task/trigger", {"Idempotency-Key": "k"}
    first = await api.post(path, headers=key)
    elsewhere = await api.post(path, headers=key, params={"namespace": "team"})

    assert first.json()["namespace"] == "default"
    assert elsewhere.json()["code"] == "idempotency_key_reused"


async def _prepare(api: httpx2.AsyncClient, process: InProcess) -> str:
    """A worker, task 1 with run 1, and two tasks with a flow run, of which this is the id."""
    process.store.transact_now(_seed)
    await api.post("/tasks", json=TASK | {"schedule": "@hourly"})
    await api.post("/tasks/1/trigger")
    await api.post("/tasks", json=TASK | {"name": "upstream"})
    downstream = {"name": "downstream", "dependencies": [{"task": "name:upstream"}]}
    await api.post("/tasks", json=TASK | downstream)
    opened = await api.post("/tasks/name:upstream/trigger")
    flow_run_id: str = opened.json()["flow_run_id"]
    return flow_run_id


def _own(answer: httpx2.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name != "x-request-id"}


# hosts, defects, the database


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Host": ""}]
)
async def test_a_page_of_another_site_is_not_answered(
    api: httpx2.AsyncClient, headers: dict[str, str]
) -> None:
    answer = await api.post("/tasks", json=TASK, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (403, "host_not_allowed")
    assert (await api.get("/tasks")).json()["items"] == []


async def test_a_defect_of_ours_is_told_without_its_details(
    api: httpx2.AsyncClient, process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> Sequence[Problem]:
        raise ZeroDivisionError("in /some/file.py")

    monkeypatch.setattr(process.context, "check_task", broken)
    answer = await api.post("/tasks", json=TASK, headers={"Idempotency-Key": "k"})
    monkeypatch.undo()
    again = await api.post("/tasks", json=TASK, headers={"Idempotency-Key": "k"})

    assert (answer.status_code, answer.json()["code"]) == (503, "internal_error")
    assert "file.py" not in answer.text
    assert again.status_code == 201


# tasks


async def test_a_change_of_what_somebody_else_changed_is_refused(api: httpx2.AsyncClient) -> None:
    created = await api.post("/tasks", json=TASK)
    stale = {"If-Match": created.headers["ETag"]}
    changed = await api.put("/tasks/1", json=TASK | {"command": "date"}, headers=stale)
    put = await api.put("/tasks/1", json=TASK, headers=stale)
    patched = await api.patch("/tasks/1", json={"command": "x"}, headers=stale)
    deleted = await api.delete("/tasks/1", headers=stale)
    unknown = await api.delete("/tasks/1", headers={"If-Match": '"abc"'})

    assert created.headers["Location"] == "/api/v1/tasks/1"
    assert changed.headers["ETag"] == (await api.get("/tasks/1")).headers["ETag"] == '"2"'
    assert {each.status_code for each in (put, patched, deleted, unknown)} == {412}
    assert put.json()["code"] == "version_mismatch"
    assert (await api.get("/tasks/1")).json()["command"] == "date"
    current = {"If-Match": changed.headers["ETag"]}
    assert (await api.delete("/tasks/1", headers=current)).status_code == 204
    assert (await api.get("/tasks/1")).status_code == 404


async def test_a_change_that_would_undo_a_pause_made_in_between_is_refused(
    api: httpx2.AsyncClient,
) -> None:
    created = await api.post("/tasks", json=TASK)
    paused = await api.post("/tasks/1/pause")
    based = {"If-Match": created.headers["ETag"]}
    put = await api.put("/tasks/1", json=TASK | {"command": "date"}, headers=based)

    assert (created.headers["ETag"], paused.headers["ETag"]) == ('"1"', '"1-paused"')
    assert (put.status_code, put.json()["code"]) == (412, "version_mismatch")
    assert (await api.get("/tasks/1")).json()["status"] == "paused"
    based = {"If-Match": paused.headers["ETag"]}
    resumed = await api.put("/tasks/1", json=TASK, headers=based)
    assert (resumed.status_code, resumed.headers["ETag"]) == (200, '"1"')


async def test_a_merge_patch_may_say_that_it_is_one(api: httpx2.AsyncClient) -> None:
    await api.post("/tasks", json=TASK | {"description": "old", "tags": ["t"]})
    answer = await api.patch(
        "/tasks/1",
        content=b'{"description": null, "retry": {"max_retries": 2}}',
        headers={"Content-Type": "application/merge-patch+json"},
    )
    task = answer.json()

    assert (task["description"], task["tags"], task["retry"]["max_retries"]) == ("", ["t"], 2)


async def test_lists_are_walked_page_by_page_in_every_order(api: httpx2.AsyncClient) -> None:
    for number in (3, 1, 2):
        await api.post("/tasks", json=TASK | {"name": f"n{number}"})
    await api.post("/runs", json={"items": [{"task": 1}] * 3})

    for path, sort, key, expected in (
        ("/tasks", "id", "id", [1, 2, 3]),
        ("/tasks", "-name", "name", ["n3", "n2", "n1"]),
        ("/runs", "-id", "id", [3, 2, 1]),
        ("/runs", "scheduled_for", "id", [1, 2, 3]),
        ("/tasks/1/runs", "id", "id", [1, 2, 3]),
    ):
        found, cursor = [], None
        while len(found) < 4:
            params = {"sort": sort, "limit": 1} | ({"cursor": cursor} if cursor else {})
            page = (await api.get(path, params=params)).json()
            found += [item[key] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert found == expected, (path, sort)


async def test_bulk_tells_what_became_of_each_run(api: httpx2.AsyncClient) -> None:
    await api.post("/tasks", json=TASK)
    await api.post("/runs", json={"items": [{"task": 1}] * 2})
    await api.post("/runs/2/cancel")
    answer = await api.post("/runs/bulk", json={"action": "cancel", "ids": [1, 2, 1, 9]})
    await api.delete("/tasks/1")
    orphaned = await api.post("/runs/bulk", json={"action": "retry", "ids": [1]})

    assert answer.status_code == 207
    told = [(item["id"], item["status"]) for item in answer.json()["items"]]
    assert told == [(1, 202), (2, 409), (9, 404)]
    assert [item["status"] for item in orphaned.json()["items"]] == [409]


async def test_bulk_says_when_a_filter_matches_more_than_one_call_takes(
    api: httpx2.AsyncClient,
) -> None:
    await api.post("/tasks", json=TASK)
    for count in (1_000, 1):
        await api.post("/runs", json={"items": [{"task": 1}] * count})
    body = {"action": "cancel", "filter": {"task_id": 1}}
    first, second = [(await api.post("/runs/bulk", json=body)).json() for _ in range(2)]

    assert (len(first["items"]), first["has_more"]) == (1_000, True)
    assert (len(second["items"]), second["has_more"]) == (1, False)


async def test_a_worker_of_any_name_can_be_found_where_it_is_said_to_be(
    api: httpx2.AsyncClient,
) -> None:
    created = await api.post("/workers", json={"name": "größe ☃ ?#%"})
    found = await api.get(created.headers["Location"].removeprefix("/api/v1"))

    assert found.json() == created.json()


# over a real socket


def test_a_real_server_answers_a_body_of_ten_megabytes(shared_server: Server) -> None:
    answer = httpx2.post(
        f"{shared_server.url}/api/v1/tasks",
        content=b"x" * 10_000_000,
        headers={"Content-Type": "application/json"},
        trust_env=False,
    )

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_a_run_tells_its_trace_to_its_command(client: Client) -> None:
    body = {"name": "traced", "executor": "shell", "command": 'echo "$TRACEPARENT"'}
    task = client.call("POST", "/tasks", body=body)
    path = f"/tasks/{task['id']}/trigger"
    run = client.call("POST", path, body={}, headers={"traceparent": TRACE})
    client.wait(run["id"], timeout_seconds=60)

    [line] = client.call("GET", f"/runs/{run['id']}/logs")["items"]
    assert line["text"] == TRACE
