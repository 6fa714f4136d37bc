"""The Python SDK: the REST API as calls.

    with Client() as tidemill:
        run = tidemill.trigger("nightly-report", parameters={"day": "2026-11-24"})
        print(tidemill.wait(run["id"])["status"])

Every call raises ServerError for an answer that is a problem, and Unreachable where there is none.
A POST carries an idempotency key, so that it may be repeated when its answer was lost.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx2

from tidemill.client.errors import ServerError, Unreachable

DEFAULT_SERVER = "http://127.0.0.1:8080"
FINAL = frozenset({"succeeded", "failed", "timed_out", "cancelled", "skipped"})

_TIMEOUT = httpx2.Timeout(30.0, connect=5.0)
_PAGE = 1_000
_TRIES = 3
_BEFORE_RECONNECTING_SECONDS = 0.2
_BEFORE_ASKING_AGAIN_SECONDS = 2.0  # for what is being carried out
_ASKS = 300  # it may well take minutes: a flow of many thousand tasks that is applied


class Client:
    """One server. `server` defaults to TIDEMILL_SERVER, then to this machine."""

    def __init__(self, server: str | None = None, *, namespace: str = "default") -> None:
        self.server = (server or os.environ.get("TIDEMILL_SERVER") or DEFAULT_SERVER).rstrip("/")
        self.namespace = namespace
        self._http = httpx2.Client(base_url=self.server, timeout=_TIMEOUT, trust_env=False)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the connections."""
        self._http.close()

    # any call

    def call(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """Call `path` below the API's base; the decoded answer, or None where it has no body."""
        sent = dict(headers or {})
        if method == "POST":
            sent.setdefault("Idempotency-Key", uuid4().hex)
        response = self._send(method, f"/api/v1{path}", params, body, sent)
        if response.status_code >= 400:
            raise ServerError(response.status_code, self._problem_of(response))
        return self._read(response) if response.content else None

    def _send(
        self,
        method: str,
        path: str,
        params: dict[str, Any] | None,
        body: Any,
        headers: dict[str, str],
    ) -> httpx2.Response:
        given = {name: value for name, value in (params or {}).items() if value is not None}
        losses = asks = 0
        while True:
            try:
                response = self._http.request(
                    method, path, params=given, json=body, headers=headers
                )
            except httpx2.ConnectError as error:
                raise Unreachable(f"no server answers at {self.server}") from error
            except httpx2.TransportError as error:
                # The request may have been carried out; the key makes repeating it safe.
                losses += 1
                if losses == _TRIES or method == "PATCH":
                    raise Unreachable(f"{self.server} broke off: {error}") from error
                continue
            if losses == 0 or asks == _ASKS or not self._is_under_way(response):
                return response
            asks += 1
            time.sleep(_BEFORE_ASKING_AGAIN_SECONDS)

    def _is_under_way(self, response: httpx2.Response) -> bool:
        """Whether it is the call before this one, whose answer was lost, that is carried out."""
        is_conflict = response.status_code == 409
        return is_conflict and self._problem_of(response).get("code") == "idempotency_key_in_use"

    def _problem_of(self, response: httpx2.Response) -> dict[str, Any]:
        problem = self._read(response)
        return problem if isinstance(problem, dict) else {}

    def _read(self, response: httpx2.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            said = f"{response.status_code} {response.reason_phrase}"
            raise Unreachable(f"what answers at {self.server} is no Tidemill: {said}") from error

    def items(self, path: str, **params: Any) -> Iterator[dict[str, Any]]:
        """Every item of a list, page by page."""
        cursor = None
        while True:
            page = self.call("GET", path, params={"limit": _PAGE, **params, "cursor": cursor})
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def stream(
        self, path: str, *, last_event_id: str | None = None, timeout_seconds: float | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """The events of a stream as (name, data); goes on by itself where it is broken off.

        Raises TimeoutError once `timeout_seconds` have passed.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        last = last_event_id
        while True:
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"{path} has not ended within {timeout_seconds} seconds")
            headers = {"Accept": "text/event-stream"}
            if last is not None:
                headers["Last-Event-ID"] = last
            try:
                with (
                    self._http.stream(
                        "GET", f"/api/v1{path}", headers=headers, timeout=_STREAM_TIMEOUT
                    ) as response,
                    _cut_off_at(deadline, response),
                ):
                    if response.status_code >= 400:
                        response.read()
                        raise ServerError(response.status_code, self._problem_of(response))
                    for name, identity, data in _events(response.iter_lines()):
                        last = identity if identity is not None else last
                        yield name, data
                        if name == "end":
                            return
            except httpx2.ConnectError as error:
                raise Unreachable(f"no server answers at {self.server}") from error
            except httpx2.TransportError:
                pass  # broken off; what was not seen yet is asked for again
            time.sleep(_BEFORE_RECONNECTING_SECONDS)

    # what is asked for most

    def trigger(self, task: str, **wish: Any) -> dict[str, Any]:
        """Ask for a run of a task, by id or name; the run."""
        run: dict[str, Any] = self.call(
            "POST",
            f"/tasks/{task_key(task)}/trigger",
            params={"namespace": self.namespace},
            body=wish,
        )
        return run

    def run(self, run_id: int) -> dict[str, Any]:
        """One run."""
        run: dict[str, Any] = self.call("GET", f"/runs/{run_id}")
        return run

    def result(self, run_id: int) -> Iterator[bytes]:
        """What a run that has ended returned, as JSON, in pieces of bounded size."""
        try:
            with self._http.stream("GET", f"/api/v1/runs/{run_id}/result") as response:
                if response.status_code >= 400:
                    response.read()
                    raise ServerError(response.status_code, self._problem_of(response))
                yield from response.iter_bytes()
        except httpx2.ConnectError as error:
            raise Unreachable(f"no server answers at {self.server}") from error
        except httpx2.TransportError as error:
            raise Unreachable(f"{self.server} broke off: {error}") from error

    def wait(self, run_id: int, *, timeout_seconds: float | None = None) -> dict[str, Any]:
        """The run once it is final; raises TimeoutError."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        pause = 0.02
        while True:
            run = self.run(run_id)
            if run["status"] in FINAL:
                return run
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"run {run_id} is still {run['status']}")
            time.sleep(pause)
            pause = min(pause * 1.5, 1.0)


_STREAM_TIMEOUT = httpx2.Timeout(60.0, connect=5.0)


@contextmanager
def _cut_off_at(deadline: float | None, response: httpx2.Response) -> Iterator[None]:
    """End a response at an instant of the monotonic clock, also while nothing comes."""
    if deadline is None:
        yield
        return
    connection: socket.socket = response.extensions["network_stream"].get_extra_info("socket")
    timer = threading.Timer(deadline - time.monotonic(), connection.shutdown, [socket.SHUT_RDWR])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def task_key(task: str) -> str:
    """A task as it stands in a path: an id as it is, anything else as a name."""
    return task if task.isdecimal() else f"name:{quote(task.removeprefix('name:'), safe='')}"


def _events(lines: Iterator[str]) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    name, identity, data = "message", None, ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "id":
            identity = value
        elif field == "data":
            data = value
        elif not line and data:
            yield name, identity, json.loads(data)
            name, identity, data = "message", None, ""
