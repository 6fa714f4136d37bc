"""A link that fails as it is told, and can prove that it did."""

import asyncio
import gc
import socket
import threading
from collections.abc import Iterator

import asyncpg
import pytest

from tidemill.testing.faults import Fault, FaultyLink
from tidemill.testing.services import Postgres
from tidemill.testing.services.ports import ReservedPort

ALL = 8_000_000  # bytes: far more than what is under way at once


class EchoServer:
    """Says what it hears, connection by connection, and remembers it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._changed = threading.Condition()
        self._heard: list[bytes] = []
        self._ends: list[str] = []
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        end = "closed"
        with connection:
            try:
                while data := connection.recv(65_536):
                    self._note(self._heard, data)
                    connection.sendall(data)
            except ConnectionError:
                end = "broken"
        self._note(self._ends, end)

    def _note(self, notes: list[bytes] | list[str], what: bytes | str) -> None:
        with self._changed:
            notes.append(what)  # type: ignore[arg-type]
            self._changed.notify_all()

    @property
    def heard(self) -> bytes:
        return b"".join(self._heard)

    def ends(self, count: int) -> list[str]:
        """How the first so many connections ended, once they did."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._ends) >= count)
            return self._ends[:count]

    def wait_until_heard(self, what: bytes) -> None:
        with self._changed:
            self._changed.wait_for(lambda: what in self.heard)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def server() -> Iterator[EchoServer]:
    server = EchoServer()
    yield server
    server.close()


@pytest.fixture
def link(server: EchoServer) -> Iterator[FaultyLink]:
    with FaultyLink("127.0.0.1", server.port) as link:
        yield link


def connect(link: FaultyLink) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port))


def echo(client: socket.socket, what: bytes) -> bytes:
    """Send, and receive as much."""
    client.sendall(what)
    return receive(client, len(what))


def receive(client: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        data = client.recv(65_536)
        assert data, "the link ended"
        found += data
    return found


def is_reset(client: socket.socket) -> bool:
    """Whether the next that the client hears is that the connection was reset."""
    try:
        client.recv(1)
    except ConnectionResetError:
        return True
    return False


def test_a_link_without_a_fault_carries_everything_both_ways(link: FaultyLink) -> None:
    sent = bytes(range(256)) * (ALL // 256)
    with connect(link) as client:
        sending = threading.Thread(target=client.sendall, args=[sent])
        sending.start()
        received = receive(client, len(sent))
        sending.join()

    assert received == sent
    assert not any(link.effects(fault) for fault in Fault)


def test_the_end_of_one_side_is_the_end_that_the_other_hears(
    link: FaultyLink, server: EchoServer
) -> None:
    with connect(link) as client:
        client.sendall(b"last words")
        client.shutdown(socket.SHUT_WR)
        received = receive(client, 10)
        end = client.recv(1)

    assert received == b"last words"
    assert end == b""
    assert server.ends(1) == ["closed"]


def test_a_black_hole_takes_connections_and_swallows_what_is_said(
    link: FaultyLink, server: EchoServer
) -> None:
    with connect(link) as before:
        echo(before, b"heard")
        link.fault = Fault.BLACK_HOLE
        before.sendall(b"swallowed")
        link.wait_for(Fault.BLACK_HOLE)
        with connect(link) as during:
            during.sendall(b"swallowed too")
            link.wait_for(Fault.BLACK_HOLE, 3)
            link.fault = None
            resets = [is_reset(before), is_reset(during)]
        with connect(link) as after:
            assert echo(after, b"again") == b"again"

    assert resets == [True, True]
    assert server.heard == b"heardagain"


def test_dropped_replies_are_lost_after_the_server_did_what_was_asked(
    link: FaultyLink, server: EchoServer
) -> None:
    link.fault = Fault.DROP_REPLIES
    with connect(link) as client:
        client.sendall(b"do it")
        server.wait_until_heard(b"do it")
        link.wait_for(Fault.DROP_REPLIES)
        link.fault = None
        assert is_reset(client)

    assert link.effects(Fault.DROP_REQUESTS) == 0


def test_dropped_requests_never_reach_the_server(link: FaultyLink, server: EchoServer) -> None:
    link.fault = Fault.DROP_REQUESTS
    with connect(link) as client:
        client.sendall(b"do it")
        link.wait_for(Fault.DROP_REQUESTS)
        link.fault = None
        assert is_reset(client)
    with connect(link) as after:
        echo(after, b"and this")

    assert server.heard == b"and this"


def test_a_server_that_dies_behind_a_black_hole_is_not_missed(
    link: FaultyLink, server: EchoServer
) -> None:
    with connect(link) as client:
        echo(client, b"x")
        link.fault = Fault.DROP_REPLIES
        client.shutdown(socket.SHUT_WR)
        assert server.ends(1) == ["closed"]
        link.wait_for(Fault.DROP_REPLIES)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)


def test_delayed_bytes_come_late_and_in_order(link: FaultyLink, server: EchoServer) -> None:
    link.delay_seconds = 0.05
    link.fault = Fault.DELAY
    with connect(link) as client:
        assert echo(client, b"1234" * 50_000) == b"1234" * 50_000
        effects = link.effects(Fault.DELAY)
    link.delay_seconds = 3600
    with connect(link) as late:
        late.sendall(b"in an hour")
        link.wait_for(Fault.DELAY, effects + 1)
        link.fault = None
        with connect(link) as after:
            echo(after, b"now")

    assert effects >= 2  # there, and back
    assert server.heard.endswith(b"4now")


def test_doubled_bytes_arrive_twice_on_both_sides_until_the_connection_is_reset(
    link: FaultyLink, server: EchoServer
) -> None:
    with connect(link) as client:
        echo(client, b"once")
        link.fault = Fault.DOUBLE
        client.sendall(b"twice")
        link.wait_for(Fault.DOUBLE)
        received = receive(client, 4 * len(b"twice"))
        link.fault = None
        assert is_reset(client)

    assert server.heard == b"oncetwicetwice"
    assert received == b"twice" * 4
    assert server.ends(1) == ["broken"]


def test_reordered_bytes_arrive_with_their_halves_swapped_until_the_connection_is_reset(
    link: FaultyLink, server: EchoServer
) -> None:
    with connect(link) as client:
        echo(client, b"before")
        link.fault = Fault.REORDER
        client.sendall(b"first second")
        link.wait_for(Fault.REORDER)
        server.wait_until_heard(b"secondfirst ")
        link.fault = None
        while not is_reset(client):
            pass

    assert server.heard == b"beforesecondfirst "
    assert server.ends(1) == ["broken"]


def test_a_refused_connection_is_reset_and_others_go_on(link: FaultyLink) -> None:
    with connect(link) as before:
        echo(before, b"x")
        link.fault = Fault.REFUSE
        with connect(link) as refused:
            assert is_reset(refused)
        assert echo(before, b"still here") == b"still here"

    assert link.effects(Fault.REFUSE) == 1


def test_all_connections_are_reset_on_both_sides(link: FaultyLink, server: EchoServer) -> None:
    with connect(link) as first, connect(link) as second:
        echo(first, b"x")
        echo(second, b"x")
        count = link.reset_connections()
        assert [is_reset(first), is_reset(second)] == [True, True]

    assert count == 2
    assert link.effects(Fault.RESET) == 2
    assert link.connections == 0
    assert server.ends(2) == ["broken", "broken"]


def test_a_link_that_closes_leaves_no_connection_open_that_it_is_just_accepting(
    server: EchoServer,
) -> None:
    for _ in range(20):
        with FaultyLink("127.0.0.1", server.port) as link:
            client = connect(link)
        with client:
            gc.collect()  # what is still open warns, and a warning fails the test


def test_a_client_whose_server_is_not_there_is_reset() -> None:
    nobody = ReservedPort()
    with FaultyLink("127.0.0.1", nobody.number) as link, connect(link) as client:
        assert is_reset(client)
    nobody.close()


async def test_a_commit_whose_reply_is_dropped_is_there_and_nobody_was_told(
    shared_postgres: Postgres, postgres_url: str
) -> None:
    direct = await asyncpg.connect(postgres_url)
    await direct.execute("CREATE TABLE effects (name text)")
    with FaultyLink("127.0.0.1", shared_postgres.port) as link:
        client = await asyncpg.connect(link.through(postgres_url))
        link.fault = Fault.DROP_REPLIES
        asked = asyncio.create_task(client.execute("INSERT INTO effects VALUES ('once')"))
        await asyncio.to_thread(link.wait_for, Fault.DROP_REPLIES)
        committed = await direct.fetchval("SELECT count(*) FROM effects")
        was_told = asked.done()
        link.fault = None
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await asked
    await direct.close()

    assert committed == 1
    assert not was_told
