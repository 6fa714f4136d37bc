"""What cannot be accepted is refused with one clear answer, and nothing of it is kept."""

import base64
from typing import Any

import httpx2
import pytest

TASK = {"name": "a-task", "executor": "shell", "command": "true"}

_REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("a cron field out of range", {"schedule": "61 * * * *"}, "/schedule", "61"),
    ("a word for a schedule", {"schedule": "sometimes"}, "/schedule", "sometimes"),
    ("a day that never comes", {"schedule": "0 0 31 2 *"}, "/schedule", "never fires"),
    ("an unknown recurrence", {"schedule": "RRULE:FREQ=SOMETIMES"}, "/schedule", "SOMETIMES"),
    ("an unknown zone", {"timezone": "Mars/Olympus", "schedule": "@daily"}, "/timezone", "Mars"),
    ("an unknown field", {"comand": "x"}, "/comand", "not known here"),
    ("an unknown field inside", {"retry": {"retries": 3}}, "/retry/retries", "not known here"),
    ("an unknown executor", {"executor": "cobol"}, "/executor", "there are: shell"),
    ("another task_type", {"task_type": "http"}, "/task_type", "must be the executor's"),
    ("an end before the start", {"start_at": "2026-02-01T00:00:00Z",
      "end_at": "2026-01-01T00:00:00Z"}, "/end_at", "after start_at"),
    ("a time without a zone", {"start_at": "2026-02-01T00:00:00"}, "/start_at", "timezone"),
    ("a number for a time", {"start_at": 1_700_000_000}, "/start_at", "RFC 3339"),
    ("a time beyond all use", {"end_at": "9998-01-01T00:00:00Z"}, "/end_at", "2199"),
    ("a time before time", {"start_at": "0001-01-01T00:00:00+14:00"}, "/start_at", "1970"),
    ("a name that is too long", {"name": "n" * 201}, "/name", "200"),
    ("a name with a slash", {"name": "a/b"}, "/name", "pattern"),
    ("a description that is too long", {"description": "d" * 10_001}, "/description", "10000"),
    ("a negative delay", {"retry": {"delay_seconds": -1}}, "/retry/delay_seconds", "0"),
    ("a tag that is no text", {"tags": ["a", 7]}, "/tags/1", "string"),
    ("too many tags", {"tags": ["t"] * 51}, "/tags", "50"),
    ("arguments of no kind", {"arguments": "text"}, "/arguments", "dictionary"),
    ("a key without a limit", {"concurrency": {"key": "k"}}, "/concurrency", "needs a limit"),
    ("an unknown overlap", {"overlap": "fight"}, "/overlap", "cancel_running"),
    ("an unknown strategy", {"strategy": "fastest"}, "/strategy", "there are: affinity, broadcast"),
    ("a number for a strategy", {"strategy": 7}, "/strategy", "give a strategy's name"),
    ("a strategy without a name", {"strategy": {"count": 3}}, "/strategy", "with its `name`"),
    ("a setting that the strategy lacks", {"strategy": {"name": "queue", "count": 3}},
     "/strategy", "queue: object contains unknown field `count`"),
    ("a strategy that lacks a setting", {"strategy": "shard"}, "/strategy", "missing required"),
    ("no shards", {"strategy": {"name": "shard", "count": 0}}, "/strategy/count", ">= 1"),
    ("too many shards", {"strategy": {"name": "shard", "count": 1001}}, "/strategy/count",
     "<= 1000"),
    ("a composite of nothing", {"strategy": {"name": "composite", "strategies": []}},
     "/strategy/strategies", "length >= 1"),
    ("a strategy that is wrong within another",
     {"strategy": {"name": "composite", "strategies": ["queue", "fastest"]}},
     "/strategy/strategies/1", "no strategy 'fastest'"),
    ("a NUL", {"metadata": {"a": ["x\0"]}}, "/metadata/a/0", "NUL"),
    ("an upstream task that is not there", {"dependencies": [{"task": "name:nobody"}]},
     "/dependencies/0/task", "no task"),
    ("an edge to itself", {"dependencies": [{"task": "name:a-task"}]},
     "/dependencies/0/task", "cannot depend on itself"),
    ("a map over nothing that it waits for", {"map_over": {"task": "name:nobody"}},
     "/map_over/task", "is not among `dependencies`"),
    ("a map over what failed", {"dependencies": [{"task": "name:x", "condition": "failed"}],
      "map_over": {"task": "name:x"}}, "/map_over/task", "may not be 'failed'"),
    ("a map of no kind", {"map_over": {"task": "x"}}, "/map_over/task", "name:"),
    ("a map without a task", {"map_over": {}}, "/map_over/task", "is required"),
    ("a map of an unknown field", {"map_over": {"task": "name:x", "key": 1}}, "/map_over/key",
     "not known here"),
    ("a path with a gap", {"map_over": {"task": "name:x", "field": "a..b"}}, "/map_over/field",
     "pattern"),
    ("no item at once", {"map_over": {"task": "name:x", "max_parallel": 0}},
     "/map_over/max_parallel", "1"),
    ("too many items", {"map_over": {"task": "name:x", "max_items": 10_001}},
     "/map_over/max_items", "10000"),
    ("a bound that cannot be kept", {"dependencies": [{"task": "name:x"}],
      "concurrency": {"limit": 3}, "map_over": {"task": "name:x", "max_parallel": 2}},
     "/map_over/max_parallel", "may not be lower"),
    ("a map that starts before its list", {"dependencies": [{"task": "name:x"}],
      "trigger_rule": "any", "map_over": {"task": "name:x"}}, "/trigger_rule", "before its list"),
    ("a map that is split", {"dependencies": [{"task": "name:x"}], "strategy": "broadcast",
      "map_over": {"task": "name:x"}}, "/strategy", "are parts already"),
    ("a reference of no kind", {"dependencies": [{"task": "nobody"}]},
     "/dependencies/0/task", "name:"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "pointer", "message"),
    [each[1:] for each in _REFUSED],
    ids=[each[0] for each in _REFUSED],
)
async def test_a_task_that_cannot_be_accepted_is_refused_where_it_is_wrong(
    api: httpx2.AsyncClient, change: dict[str, Any], pointer: str, message: str
) -> None:
    answer = await api.post("/tasks", json=TASK | change)

    problem = _problem(answer, 422, "invalid_input")
    found = {each["pointer"]: each["message"] for each in problem["errors"]}
    assert message in found[pointer]
    assert (await api.get("/tasks")).json()["items"] == []


@pytest.mark.parametrize("missing", ["name", "executor", "command"])
async def test_a_task_that_lacks_a_field_is_refused(api: httpx2.AsyncClient, missing: str) -> None:
    answer = await api.post("/tasks", json={k: v for k, v in TASK.items() if k != missing})

    assert _problem(answer, 422)["errors"] == [{"pointer": f"/{missing}", "message": "is required"}]


async def test_tasks_that_would_wait_for_each_other_are_refused(api: httpx2.AsyncClient) -> None:
    await api.post("/tasks", json=TASK | {"name": "first"})
    second = TASK | {"name": "second", "dependencies": [{"task": "name:first"}]}
    await api.post("/tasks", json=second)
    before = (await api.get("/tasks")).json()

    circle = await api.patch("/tasks/1", json={"dependencies": [{"task": "name:second"}]})
    itself = await api.patch("/tasks/1", json={"dependencies": [{"task": "name:first"}]})

    [place] = _problem(circle, 422)["errors"]
    assert place["pointer"] == "/dependencies"
    assert "first" in place["message"]
    assert "second" in place["message"]
    [place] = _problem(itself, 422)["errors"]
    assert place == {"pointer": "/dependencies/0/task", "message": "a task cannot depend on itself"}
    assert (await api.get("/tasks")).json() == before


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"name": ', "not JSON"),
        (b"[" * 100_000, "recursion limit"),
        (b'{"name": NaN}', "not JSON"),
        (b'{"name": "\\ud800"}', "not JSON"),
        (b'{"name": "\xff"}', "not JSON"),
        (b"1" * 10_000, "not JSON"),
    ],
    ids=["cut off", "nested without end", "NaN", "half a surrogate", "no UTF-8", "a huge number"],
)
async def test_a_body_that_is_no_json_is_a_bad_request(
    api: httpx2.AsyncClient, body: bytes, message: str
) -> None:
    answer = await api.post("/tasks", content=body, headers={"Content-Type": "application/json"})

    assert message in _problem(answer, 400, "bad_request")["detail"]


async def test_a_number_that_is_infinite_is_refused_and_a_large_one_is_kept(
    api: httpx2.AsyncClient,
) -> None:
    json = {"Content-Type": "application/json"}
    start = b'{"name": "n", "executor": "shell", "command": "x", "metadata": {"n": '
    infinite = await api.post("/tasks", content=start + b"1e400}}", headers=json)
    large = await api.post("/tasks", content=start + b"1" + b"0" * 30 + b"}}", headers=json)

    assert _problem(infinite, 422)["errors"][0]["pointer"] == "/metadata/n"
    assert large.json()["metadata"] == {"n": 10**30}


@pytest.mark.parametrize("body", [b"[]", b"7", b'"text"', b"null"])
async def test_a_body_that_is_no_object_is_refused(api: httpx2.AsyncClient, body: bytes) -> None:
    for method, path in (("POST", "/tasks"), ("PATCH", "/tasks/1"), ("POST", "/runs/bulk")):
        answer = await api.request(
            method, path, content=body, headers={"Content-Type": "application/json"}
        )
        _problem(answer, 422, "invalid_input")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
async def test_a_body_of_another_kind_is_refused(api: httpx2.AsyncClient, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = await api.post("/tasks", content=b'{"name": "x"}', headers=headers)

    assert "application/json" in _problem(answer, 415)["detail"]


@pytest.mark.parametrize(
    "query",
    ["status=running", "sort=owner", "limit=0", "limit=1001", "limit=many", "cursor=nonsense",
     "nmae=x", "name=a&name=b", "name=%00"],
)  # fmt: skip
async def test_a_query_that_is_not_known_is_a_bad_request(
    api: httpx2.AsyncClient, query: str
) -> None:
    answer = await api.get(f"/tasks?{query}")

    assert query.partition("=")[0] in str(_problem(answer, 400, "bad_request")) or "%00" in query


@pytest.mark.parametrize(
    "query",
    ["status=done", "task_id=0", f"task_id={2**63}", "scheduled_after=yesterday",
     "scheduled_after=1700000000", "scheduled_before=0001-01-01T00:00:00%2B14:00",
     "trigger=hand", "sort=status"],
)  # fmt: skip
async def test_a_filter_that_cannot_match_anything_is_a_bad_request(
    api: httpx2.AsyncClient, query: str
) -> None:
    [place] = _problem(await api.get(f"/runs?{query}"), 400)["errors"]

    assert place["pointer"] == query.partition("=")[0]


@pytest.mark.parametrize(
    ("path", "position"),
    [
        ("/runs?sort=-scheduled_for", b'["-scheduled_for","text",1]'),
        ("/runs?sort=-scheduled_for", b'["-scheduled_for",4611686018427387903,1]'),
        ("/runs?sort=-scheduled_for", b'["-scheduled_for",-1,1]'),
        ("/runs?sort=-id", b'["-id","1","1"]'),
        ("/tasks?sort=name", b'["name",1,1]'),
        ("/tasks?sort=id", b'["name","a",1]'),
        ("/workers?", b'["id",1,1]'),
        ("/runs?", b"[]"),
    ],
)
async def test_a_cursor_of_another_list_is_a_bad_request(
    api: httpx2.AsyncClient, path: str, position: bytes
) -> None:
    cursor = base64.urlsafe_b64encode(position).decode()
    answer = await api.get(f"{path}&cursor={cursor}")

    assert _problem(answer, 400)["errors"][0]["pointer"] == "cursor"


@pytest.mark.parametrize(
    "path",
    ["/runs/0", "/runs/x", f"/runs/{2**70}", "/runs/7", "/tasks/x", "/tasks/7", "/tasks/name:x",
     "/tasks/", "/nothing", "/workers/none", "/runs/7/logs", "/runs/7/events?follow=1"],
)  # fmt: skip
async def test_what_is_not_there_is_not_found(api: httpx2.AsyncClient, path: str) -> None:
    _problem(await api.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/tasks/1", "DELETE, GET, PATCH, PUT"),
        ("DELETE", "/tasks", "GET, POST"),
        ("PUT", "/runs/bulk", "GET, POST"),
        ("TRACE", "/runs", "GET, POST"),
        ("POST", "/openapi.json", "GET, HEAD"),
    ],
)
async def test_a_method_that_is_not_taken_is_told_which_are(
    api: httpx2.AsyncClient, method: str, path: str, allowed: str
) -> None:
    answer = await api.request(method, path)

    assert answer.headers["Allow"] == allowed
    assert allowed in _problem(answer, 405, "method_not_allowed")["detail"]


async def test_a_range_that_ends_before_it_begins_is_refused(api: httpx2.AsyncClient) -> None:
    await api.post("/tasks", json=TASK | {"schedule": "@daily"})
    span = {"from": "2025-12-02T00:00:00Z", "to": "2025-12-01T00:00:00Z"}
    backfill = await api.post("/tasks/1/backfill", json=span)
    ledger = await api.get("/tasks/1/ledger", params=span)

    assert _problem(backfill, 422)["errors"][0]["pointer"] == "/to"
    assert _problem(ledger, 400)["errors"][0]["pointer"] == "to"
    assert (await api.get("/runs")).json()["items"] == []


@pytest.mark.slow
async def test_a_preview_ends_where_nobody_plans_any_more(api: httpx2.AsyncClient) -> None:
    rule = {"schedule": "0 0 29 2 *"}
    await api.post("/tasks", json=TASK | rule)
    of_task = await api.get("/tasks/1/preview?count=1000")
    of_rule = await api.post("/schedules/preview", json=rule | {"count": 1000})

    assert of_task.json() == of_rule.json()
    assert of_rule.json()["items"][-1]["local"] == "2196-02-29T00:00:00.000+00:00"
    assert len(of_rule.json()["items"]) == 42  # 2100 is no leap year


@pytest.mark.parametrize(("letter", "most"), [("x", 65_536 - 8), ("é", (65_536 - 8) // 6)])
async def test_parameters_larger_than_a_task_can_be_given_are_refused(
    api: httpx2.AsyncClient, letter: str, most: int
) -> None:
    await api.post("/tasks", json=TASK)
    fits, large = ({"p": letter * count} for count in (most, most + 1))
    kept = await api.post("/tasks/1/trigger", json={"parameters": fits})
    one = await api.post("/tasks/1/trigger", json={"parameters": large})
    many = await api.post("/runs", json={"items": [{"task": 1, "parameters": large}]})

    assert kept.status_code == 202
    [place] = _problem(one, 422)["errors"]
    assert place["pointer"] == "/parameters"
    assert place["message"].startswith("have at most 65536 bytes as ASCII JSON")
    assert _problem(many, 422)["errors"][0]["pointer"] == "/items/0/parameters"


async def test_many_triggers_with_one_that_is_wrong_start_nothing(api: httpx2.AsyncClient) -> None:
    await api.post("/tasks", json=TASK)
    items = [{"task": 1}, {"task": "name:nobody"}]
    unknown = await api.post("/runs", json={"items": items})
    alone = await api.post("/runs", json={"items": items[1:]})
    malformed = await api.post("/runs", json={"items": [{"task": 1}, {"task": "nobody"}]})
    none = await api.post("/runs", json={"items": []})
    too_many = await api.post("/runs", json={"items": [{"task": 1}] * 1_001})

    assert _problem(unknown, 422)["errors"][0]["pointer"] == "/items/1/task"
    assert _problem(alone, 422)["errors"] == [
        {"pointer": "/items/0/task", "message": "no task name:nobody"}
    ]
    assert _problem(malformed, 422)["errors"][0]["pointer"] == "/items/1/task"
    assert _problem(none, 422)["errors"][0]["pointer"] == "/items"
    assert _problem(too_many, 422)["errors"][0]["pointer"] == "/items"
    assert (await api.get("/runs")).json()["items"] == []


async def test_a_patch_that_is_wrong_is_refused_where_it_is(api: httpx2.AsyncClient) -> None:
    await api.post("/tasks", json=TASK)
    answer = await api.patch("/tasks/1", json={"retry": {"max_retries": "x"}, "a/b": 1})

    assert {e["pointer"] for e in _problem(answer, 422)["errors"]} == {
        "/retry/max_retries",
        "/a~1b",
    }
    assert (await api.get("/tasks/1")).json()["version"] == 1


def _problem(answer: httpx2.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """The problem that was answered, once it is seen to be a complete one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["X-Request-ID"]
    assert problem["type"].endswith(f"/{problem['code']}")
    assert problem["title"]
    assert problem["detail"]
    assert code in {None, problem["code"]}
    return problem
