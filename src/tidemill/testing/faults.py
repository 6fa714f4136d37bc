"""A network that fails as a test tells it: a TCP proxy between clients and their server.

with FaultyLink("127.0.0.1", postgres.port) as link:
    connect(link.through(postgres.url))
    link.fault = Fault.DROP_REPLIES     # the server commits, and nobody hears of it
    link.wait_for(Fault.DROP_REPLIES)   # it had an effect
    link.fault = None
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Coroutine
from enum import StrEnum
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

T = TypeVar("T")

_CHUNK = 65_536
_CHUNKS_UNDER_WAY = 64  # in each direction, before the sender has to wait
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Fault(StrEnum):
    """What a link does wrong, and what counts as one effect of it."""

    BLACK_HOLE = "black_hole"  # swallows the bytes of both sides: a chunk, or a new connection
    DROP_REQUESTS = "drop_requests"  # swallows what clients send: a chunk
    DROP_REPLIES = "drop_replies"  # swallows what the server sends: a chunk
    DELAY = "delay"  # bytes of both sides come late, in their order: a chunk
    DOUBLE = "double"  # bytes of both sides come twice: a chunk
    REORDER = "reorder"  # the second half of a chunk comes before the first: a chunk
    REFUSE = "refuse"  # resets new connections before their first byte: a connection
    RESET = "reset"  # `reset_connections` was called: a connection


_LOSE_REQUESTS = frozenset({Fault.BLACK_HOLE, Fault.DROP_REQUESTS})
_LOSE_REPLIES = frozenset({Fault.BLACK_HOLE, Fault.DROP_REPLIES})

_UnderWay = asyncio.Queue[tuple[float, bytes]]  # when it is due, and what; b"" is the end


class FaultyLink:
    """A port of this machine that leads to `host:port`, unless `fault` says otherwise.

    A chunk is what the link reads at once: one or more messages of the client or the server. TCP
    delivers every byte once and in its order, or breaks: a connection that lost, doubled or swapped
    some is reset when the fault changes, and one that lost some hears nothing until then, not even
    that the other side is gone.

    It works in a thread of its own, and goes on when its test blocks. Its methods may be called
    from any thread or event loop; those that change something return when it is so.
    """

    def __init__(self, host: str, port: int) -> None:
        self.delay_seconds = 0.1  # of Fault.DELAY
        self._server = (host, port)
        self._fault: Fault | None = None
        self._effects: Counter[Fault] = Counter()
        self._had_effect = threading.Condition()
        self._connections: set[_Connection] = set()
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def port(self) -> int:
        """Where clients connect to, on 127.0.0.1."""
        assert self._listener is not None
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    def through(self, url: str) -> str:
        """A URL of the server, changed so that it leads through this link."""
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{self.port}"))

    @property
    def fault(self) -> Fault | None:
        """What it does wrong now; None: nothing."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        self._on_loop(self._change(fault))

    def reset_connections(self) -> int:
        """Reset every connection, on both of its sides; how many there were."""
        return self._on_loop(self._reset())

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    def effects(self, fault: Fault) -> int:
        """How often this fault did something since the link was made."""
        return self._effects[fault]

    def wait_for(self, fault: Fault, effects: int = 1) -> None:
        """Block until this fault did something so many times."""
        with self._had_effect:
            self._had_effect.wait_for(lambda: self._effects[fault] >= effects)

    def start(self) -> "FaultyLink":
        """Return once clients may connect."""
        self._thread.start()
        self._listener = self._on_loop(asyncio.start_server(self._serve, "127.0.0.1", 0))
        return self

    def close(self) -> None:
        """Reset every connection, and listen no more."""
        self._on_loop(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> "FaultyLink":
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _on_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    # The rest runs on the link's own loop.

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        if self._fault is Fault.REFUSE:
            connection.reset()
            self.count(Fault.REFUSE)
            return
        self._connections.add(connection)
        try:
            with contextlib.suppress(asyncio.CancelledError):  # it was reset
                await connection.serve(*self._server)
        finally:
            self._connections.discard(connection)

    def count(self, fault: Fault) -> None:
        """It did something. Called on the link's loop."""
        with self._had_effect:
            self._effects[fault] += 1
            self._had_effect.notify_all()

    async def _change(self, fault: Fault | None) -> None:
        self._fault = fault
        for connection in list(self._connections):
            if connection.has_lost_bytes or connection.has_spoilt_bytes:
                connection.reset()

    async def _reset(self) -> int:
        connections = list(self._connections)
        for connection in connections:
            connection.reset()
            self.count(Fault.RESET)
        self._connections.clear()
        return len(connections)

    async def _end(self) -> None:
        assert self._listener is not None
        for listening in self._listener.sockets:
            self._loop.remove_reader(listening)
        await asyncio.sleep(0)  # a connection accepted just now joins the listener before it closes
        self._listener.close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for connection in list(self._connections):
                connection.reset()
            await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)


class _Connection:
    """One client, and what the server is to it."""

    def __init__(
        self, link: FaultyLink, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.has_lost_bytes = False
        self.has_spoilt_bytes = False
        self._link = link
        self._reader = reader
        self._writer = writer
        self._writers = [writer]
        self._serving: asyncio.Task[None] | None = None

    async def serve(self, host: str, port: int) -> None:
        """Carry bytes to and fro until both sides have said all, or the connection breaks."""
        self._serving = asyncio.current_task()
        if self._link.fault is Fault.BLACK_HOLE:
            self._lose(Fault.BLACK_HOLE)
            await self._swallow_all()
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError:
            self._break()
            return
        self._writers.append(writer)
        try:
            async with asyncio.TaskGroup() as group:
                for source, sink, lossy in (
                    (self._reader, writer, _LOSE_REQUESTS),
                    (reader, self._writer, _LOSE_REPLIES),
                ):
                    under_way = _UnderWay(_CHUNKS_UNDER_WAY)
                    group.create_task(self._take(source, under_way, lossy))
                    group.create_task(self._deliver(under_way, sink))
        except* OSError:  # one side broke, so the other does
            self._break()
        for each in self._writers:
            each.close()
        for each in self._writers:
            with contextlib.suppress(OSError):
                await each.wait_closed()

    async def _swallow_all(self) -> None:
        """A client whose server was never asked; until it is reset."""
        while await self._reader.read(_CHUNK):
            self._lose(Fault.BLACK_HOLE)
        await _for_ever()

    async def _take(
        self, source: asyncio.StreamReader, under_way: "_UnderWay", lossy: frozenset[Fault]
    ) -> None:
        """Read one side to its end, and say when each chunk is due on the other."""
        loop = asyncio.get_running_loop()
        is_open = True
        while is_open:
            try:
                data = await source.read(_CHUNK)
            except ConnectionError:
                if self._link.fault not in lossy:
                    raise
                data = b""
            is_open = bool(data)
            fault = self._link.fault
            if fault is not None and fault in lossy:
                self._lose(fault)
            elif data and fault is Fault.DELAY:
                self._link.count(fault)
                await under_way.put((loop.time() + self._link.delay_seconds, data))
            else:
                for part in self._spoil(data, fault):
                    await under_way.put((loop.time(), part))
        if self.has_lost_bytes:
            await _for_ever()  # the other side does not hear of the end

    async def _deliver(self, under_way: "_UnderWay", sink: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                sink.write_eof()
                return
            sink.write(data)
            await sink.drain()

    def _spoil(self, data: bytes, fault: Fault | None) -> tuple[bytes, ...]:
        """What the other side is given instead."""
        half = len(data) // 2
        if data and fault is Fault.DOUBLE:
            given = data, data
        elif half and fault is Fault.REORDER:
            given = data[half:], data[:half]
        else:
            return (data,)
        self.has_spoilt_bytes = True
        self._link.count(fault)
        return given

    def _lose(self, fault: Fault) -> None:
        self.has_lost_bytes = True
        self._link.count(fault)

    def reset(self) -> None:
        """Break it on both sides, now."""
        self._break()
        if self._serving is not None:
            self._serving.cancel()

    def _break(self) -> None:
        for writer in self._writers:
            if not writer.transport.is_closing():
                tcp: socket.socket = writer.get_extra_info("socket")
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()
