"""Streams: nothing is lost or told twice, from wherever a reader goes on."""

import asyncio
import itertools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx2
import pytest
from in_process import HOST, InProcess

from tidemill.client.client import Client
from tidemill.testing.server import Server

_numbers = itertools.count(1)


class Frame(NamedTuple):
    """One server-sent event."""

    event: str
    id: str | None
    data: Any


def follow(server: Server, path: str, last_event_id: str | None = None) -> Iterator[Frame]:
    """The events of a stream, until it is closed."""
    headers = {"Accept": "text/event-stream"}
    if last_event_id is not None:
        headers["Last-Event-ID"] = last_event_id
    with httpx2.stream(
        "GET", f"{server.url}/api/v1{path}", headers=headers, timeout=60, trust_env=False
    ) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name in {"event", "id", "data"}:
                fields[name] = value
            elif not line and fields:
                yield Frame(fields["event"], fields.get("id"), json.loads(fields["data"]))
                fields = {}


@pytest.fixture(scope="session")
def finished(shared_server: Server) -> dict[str, Any]:
    """A run that wrote ten lines in three pieces."""
    with shared_server.client() as client:
        command = "printf '1\\n2\\n3\\n'; echo 4 >&2; printf '5\\n6\\n7\\n8\\n9\\n10\\n'"
        body = {"name": "ten-lines", "executor": "shell", "command": command}
        run = client.trigger(str(client.call("POST", "/tasks", body=body)["id"]))
        return client.wait(run["id"], timeout_seconds=60)


def test_a_reader_of_output_goes_on_from_any_line(
    shared_server: Server, client: Client, finished: dict[str, Any]
) -> None:
    path = f"/runs/{finished['id']}/logs"
    stored = client.call("GET", path)["items"]
    assert [line["seq"] for line in stored] == list(range(1, 11))
    assert sorted(int(line["text"]) for line in stored) == list(range(1, 11))

    for known in range(12):
        *lines, end = follow(shared_server, f"{path}?follow=1", last_event_id=str(known))
        assert [frame.data for frame in lines] == stored[known:]
        assert [frame.id for frame in lines] == [str(line["seq"]) for line in stored[known:]]
        assert (end.event, end.data["status"]) == ("end", "succeeded")
        assert client.call("GET", path, params={"after": known})["items"] == stored[known:]


def test_a_reader_of_events_goes_on_from_any_event(
    shared_server: Server, client: Client, finished: dict[str, Any]
) -> None:
    path = f"/runs/{finished['id']}/events"
    stored = client.call("GET", path)["items"]
    assert [event["seq"] for event in stored] == list(range(1, len(stored) + 1))

    for known in range(len(stored) + 2):
        *events, end = follow(shared_server, path, last_event_id=str(known))
        assert [frame.data for frame in events] == stored[known:]
        assert [frame.event for frame in events] == [event["type"] for event in stored[known:]]
        assert end.event == "end"


def test_a_reader_of_all_events_goes_on_where_they_were(
    shared_server: Server, client: Client
) -> None:
    known = client.call("GET", "/system/stats")["last_event_id"]
    body = {"name": f"streamed-{next(_numbers)}", "executor": "shell", "command": "true"}
    run = client.trigger(str(client.call("POST", "/tasks", body=body)["id"]))

    def of_run(after: str) -> list[Frame]:
        found = []
        for frame in follow(shared_server, "/events", last_event_id=after):
            if frame.data["run_id"] == run["id"]:
                found.append(frame)
                if frame.event == "RunFinished":
                    break
        return found

    seen = of_run(known)
    assert [frame.data["seq"] for frame in seen] == list(range(1, len(seen) + 1))
    for index, frame in enumerate(seen[:-1]):
        assert frame.id is not None
        assert of_run(frame.id) == seen[index + 1 :]


def test_output_and_events_are_read_page_by_page(client: Client, finished: dict[str, Any]) -> None:
    for kind in ("logs", "events"):
        path = f"/runs/{finished['id']}/{kind}"
        whole, found, cursor = client.call("GET", path), [], None
        assert whole["next_cursor"] is None
        for _ in whole["items"]:
            page = client.call("GET", path, params={"limit": 1, "cursor": cursor})
            found += page["items"]
            cursor = page["next_cursor"]
        assert (found, cursor) == (whole["items"], None)


@pytest.mark.parametrize("wrong", ["x", "-1", "1.5", "9" * 30, ""])
async def test_a_reader_with_a_senseless_position_is_told(
    api: httpx2.AsyncClient, wrong: str
) -> None:
    await api.post("/tasks", json={"name": "n", "executor": "shell", "command": "x"})
    await api.post("/tasks/1/trigger")
    for path in ("/events", "/runs/1/events", "/runs/1/logs"):
        answer = await api.get(path, headers={"Last-Event-ID": wrong})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


async def test_streams_end_when_the_server_drains() -> None:
    process, connected, sent = InProcess(), asyncio.Event(), []

    async def receive() -> dict[str, Any]:
        await asyncio.Future()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)
        if b": connected" in message.get("body", b""):
            connected.set()

    path = b"/api/v1/events"
    scope = {
        "type": "http",
        "method": "GET",
        "path": path.decode(),
        "raw_path": path,
        "query_string": b"",
        "headers": [(b"host", HOST.encode())],
    }
    stream = asyncio.create_task(process.app(scope, receive, send))
    await connected.wait()
    process.context.close()
    async with asyncio.timeout(10):  # less than the time after which a stream looks by itself
        await stream

    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
