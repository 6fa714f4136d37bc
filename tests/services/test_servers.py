"""PostgreSQL, Redis and RabbitMQ as tests start them: real, and gone when the test is."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import aio_pika
import aio_pika.exceptions
import asyncpg
import pytest
import redis.asyncio

from tidemill.testing.pytest_plugin import Services
from tidemill.testing.services import Postgres, RabbitMq, Redis, Service
from tidemill.testing.services.kept_processes import KeptProcesses
from tidemill.testing.services.programs import Command


class Client(Protocol):
    """Commits lines to a server, and reads what is there."""

    async def keep(self, url: str, line: str) -> None: ...

    async def kept(self, url: str) -> list[str]: ...


class PostgresClient:
    async def keep(self, url: str, line: str) -> None:
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE IF NOT EXISTS kept (line text)")
        await connection.execute("INSERT INTO kept VALUES ($1)", line)
        await connection.close()

    async def kept(self, url: str) -> list[str]:
        connection = await asyncpg.connect(url)
        lines = []
        if await connection.fetchval("SELECT to_regclass('kept')") is not None:
            lines = [row["line"] for row in await connection.fetch("SELECT line FROM kept")]
        await connection.close()
        return lines


class RedisClient:
    async def keep(self, url: str, line: str) -> None:
        async with redis.asyncio.from_url(url) as connection:
            await connection.xadd("kept", {"line": line})

    async def kept(self, url: str) -> list[str]:
        async with redis.asyncio.from_url(url, decode_responses=True) as connection:
            return [fields["line"] for _, fields in await connection.xrange("kept")]


class RabbitMqClient:
    async def keep(self, url: str, line: str) -> None:
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel(publisher_confirms=True)
            arguments = {"x-queue-type": "quorum"}
            await channel.declare_queue("kept", durable=True, arguments=arguments)
            message = aio_pika.Message(
                line.encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT
            )
            await channel.default_exchange.publish(message, "kept")

    async def kept(self, url: str) -> list[str]:
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel()
            try:
                queue = await channel.get_queue("kept")
            except aio_pika.exceptions.ChannelNotFoundEntity:
                return []
            lines = []
            while (message := await queue.get(fail=False)) is not None:
                lines.append(message.body.decode())
            return lines  # what was not acknowledged goes back when the connection closes


@dataclass
class Case:
    """A running server and its client."""

    server: Service
    client: Client

    async def keep(self, line: str) -> None:
        await self.client.keep(self.server.url, line)

    async def kept(self) -> list[str]:
        return await self.client.kept(self.server.url)


KINDS: dict[str, tuple[type[Service], Client]] = {
    "postgres": (Postgres, PostgresClient()),
    "redis": (Redis, RedisClient()),
    "rabbitmq": (RabbitMq, RabbitMqClient()),
}
EACH_KIND = [pytest.param(name, marks=pytest.mark.slow) for name in KINDS]


@pytest.fixture(scope="module", params=EACH_KIND)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    """A server of each kind, which each test empties and leaves running."""
    kind, client = KINDS[request.param]
    with ExitStack() as stack:
        yield Case(Services(stack).get(kind), client)


async def test_a_killed_server_comes_back_where_it_was_with_what_was_committed(case: Case) -> None:
    await case.keep("before")
    case.server.settle()
    url, pids = case.server.url, case.server.pids
    case.server.kill()
    survivors = still_there(pids)
    with pytest.raises((OSError, redis.ConnectionError)):
        await case.kept()
    case.server.start()
    await case.keep("after")

    assert pids
    assert survivors == []
    assert case.server.url == url
    assert (await case.kept())[-2:] == ["before", "after"]


async def test_a_wiped_server_is_empty_and_takes_anew(case: Case) -> None:
    await case.keep("lost")
    case.server.wipe()
    found = await case.kept()
    await case.keep("new")

    assert found == []
    assert await case.kept() == ["new"]


async def test_a_paused_server_stands_still_and_goes_on_as_if_nothing_had_been(case: Case) -> None:
    await case.keep("before the pause")
    case.server.pause()
    states = {state_of(pid) for pid in case.server.pids} - {"Z"}
    case.server.resume()

    assert states == {"T"}
    assert (await case.kept())[-1] == "before the pause"


async def test_a_fresh_place_is_empty_and_nobody_elses(case: Case) -> None:
    with case.server.fresh() as first, case.server.fresh() as second:
        await case.client.keep(first, "mine")
        found = [await case.client.kept(url) for url in (first, second)]
    with case.server.fresh() as third:
        assert await case.client.kept(third) == []

    assert found == [["mine"], []]


async def test_a_fresh_place_ends_quietly_when_its_server_was_wiped_or_is_down(
    case: Case,
) -> None:
    with case.server.fresh():
        case.server.wipe()
    with case.server.fresh() as lost:
        await case.client.keep(lost, "left behind")
        case.server.settle()
        case.server.kill()
    case.server.start()
    with case.server.fresh() as next_one:
        assert await case.client.kept(next_one) == []


TALKER = """
import signal
signal.signal(signal.SIGUSR1, lambda *_: print("more", flush=True))
print("ready", flush=True)
while True:
    signal.pause()
"""


def test_a_keeper_survives_output_that_comes_while_it_kills(tmp_path: Path) -> None:
    processes = KeptProcesses(tmp_path / "kept")
    processes.directory.mkdir()
    talk = Command([sys.executable, "-S", "-c", TALKER], {})
    killed = set()
    for _ in range(6):  # it sees the output before the request or after it, as it happens
        processes.run(talk, until="ready")
        [talker] = processes.pids
        kill_while_it_talks(processes, talker)
        killed.add(talker)
    processes.close()

    assert len(killed) == 6


def kill_while_it_talks(processes: KeptProcesses, talker: int) -> None:
    keeper = parent_of(talker)
    os.kill(keeper, signal.SIGSTOP)
    os.waitid(os.P_PID, keeper, os.WSTOPPED)
    with ThreadPoolExecutor(1) as thread:
        killed = thread.submit(processes.kill)
        wait_until_readable(Path(f"/proc/{keeper}/fd/0"))
        os.kill(talker, signal.SIGUSR1)
        wait_until_readable(Path(f"/proc/{talker}/fd/1"))
        os.kill(keeper, signal.SIGCONT)
        killed.result()


def wait_until_readable(pipe: Path) -> None:
    with pipe.open("rb", buffering=0) as end:
        select.select([end], [], [])


def still_there(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


HOLDER = """
import sys
from tidemill.testing import services
server = getattr(services, sys.argv[1])().start()
print(server.data.parent, *server.pids, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kind", EACH_KIND)
def test_nothing_of_a_server_outlives_the_test_that_is_killed(
    kind: str, services: Services
) -> None:
    services.get(Redis)  # the machine can run servers, or this is not run
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, KINDS[kind][0].__name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        directory, *pids = holder.stdout.readline().split()
        held = [os.pidfd_open(int(pid)) for pid in pids if Path("/proc", pid).exists()]
        keeper = os.pidfd_open(parent_of(int(pids[0])))
        was_there = Path(directory, "data").exists()
        holder.send_signal(signal.SIGKILL)
    for each in (*held, keeper):
        select.select([each], [], [])
        os.close(each)

    assert len(held) >= 1
    assert was_there
    assert not Path(directory).exists()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_closed_server_leaves_neither_process_nor_file(services: Services) -> None:
    server = services.get(Redis)
    pids, directory = server.pids, server.data.parent
    was_there = directory.exists()
    server.close()

    assert was_there
    assert not directory.exists()
    assert still_there(pids) == []


async def test_what_a_redis_without_a_disk_had_is_gone_with_its_process(
    services: Services,
) -> None:
    server, client = services.get(lambda: Redis(durable=False)), RedisClient()
    await client.keep(server.url, "in memory")
    server.kill()
    server.start()

    assert await client.kept(server.url) == []
