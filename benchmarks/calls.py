"""Calls of an HTTP server that cost the caller next to nothing: what is measured is the server.

A caller has a connection of its own and awaits the answer to each call before it makes the next.
"""

import asyncio
import itertools
import time
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import uvloop


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes


class Call(NamedTuple):
    """A call, when it began by the monotonic clock, and its answer."""

    called_at: float
    answer: Answer


class Connection(asyncio.Protocol):
    """One connection, kept open; one call at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._answer: asyncio.Future[Answer] | None = None

    async def call(self, request: bytes) -> Answer:
        """Send a whole request; its answer has to tell its length."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Hang up."""
        assert self._transport is not None
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if end and len(body) >= _length_in(head) and self._answer is not None:
            self._received = b""
            self._answer.set_result(Answer(int(head[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the server hung up"))


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """A request as it goes over the wire; `body` is JSON."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def call_again_and_again(url: str, asked: bytes, callers: int, count: int, expected: int) -> None:
    """Make `count` calls in all, by so many callers at once; each has to have this status."""
    numbers = itertools.count()

    async def make_calls(connection: Connection) -> None:
        while next(numbers) < count:
            answer = await connection.call(asked)
            if answer.status != expected:
                raise RuntimeError(f"{answer.status}: {answer.body[:500]!r}")

    async def run() -> None:
        connections = [await connect(url) for _ in range(callers)]
        await asyncio.gather(*map(make_calls, connections))
        for connection in connections:
            connection.close()

    uvloop.run(run())


def call_each(url: str, asked: bytes, count: int, every_seconds: float) -> list[Call]:
    """Make one call after the other, each so long after the answer to the one before."""

    async def run() -> list[Call]:
        connection = await connect(url)
        calls = []
        for _ in range(count):
            called_at = time.monotonic()
            calls.append(Call(called_at, await connection.call(asked)))
            await asyncio.sleep(every_seconds)
        connection.close()
        return calls

    return uvloop.run(run())


async def connect(url: str) -> Connection:
    """A connection to the server of this URL."""
    where = urlsplit(url)
    assert where.hostname is not None
    assert where.port is not None
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, where.hostname, where.port)
    return connection


def _length_in(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise RuntimeError("an answer that does not tell its length")
