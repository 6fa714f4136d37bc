"""Wake-ups go from process to process, and again after the link between them was dead."""

import asyncio
from contextlib import AsyncExitStack

import asyncpg
import pytest

from tidemill.foundation.wakeups import Topic
from tidemill.infrastructure import postgres_wakeups
from tidemill.infrastructure.postgres_wakeups import PostgresWakeups
from tidemill.testing.faults import Fault, FaultyLink
from tidemill.testing.services import Postgres


async def test_a_link_that_is_dead_is_noticed_though_nobody_announces_anything(
    shared_postgres: Postgres, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_wakeups, "_SIGN_OF_LIFE_SECONDS", 0.05)
    monkeypatch.setattr(postgres_wakeups, "_ANSWER_SECONDS", 0.5)
    with FaultyLink("127.0.0.1", shared_postgres.port) as link:
        async with AsyncExitStack() as stack:
            wakeups = PostgresWakeups(link.through(postgres_url))
            heard = wakeups.listen(Topic.READY)
            await wakeups.start()
            stack.push_async_callback(wakeups.stop)
            await heard.wait(60)  # it is connected: whatever was said before is to be looked at

            link.fault = Fault.BLACK_HOLE
            # What it asks, and a connection that it makes anew.
            await asyncio.to_thread(link.wait_for, Fault.BLACK_HOLE, 3)
            link.fault = None
            assert await heard.wait(60)


async def test_who_watches_is_told_of_a_burst_once_and_who_has_work_to_do_at_once(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_wakeups, "_WATCHED_SECONDS", 3_600)
    heard: asyncio.Queue[list[str]] = asyncio.Queue()
    listener = await asyncpg.connect(postgres_url)
    await listener.add_listener(
        "tidemill", lambda _connection, _pid, _channel, said: heard.put_nowait(said.split(" ")[1:])
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(listener.close)
        wakeups = PostgresWakeups(postgres_url)
        connected = wakeups.listen(Topic.READY)
        await wakeups.start()
        stack.push_async_callback(wakeups.stop)
        await connected.wait(60)

        wakeups.announce([Topic.EVENTS])
        assert await heard.get() == ["events"]
        wakeups.announce([Topic.EVENTS])
        wakeups.announce([Topic.OUTPUT])
        wakeups.announce([Topic.READY])

        assert await heard.get() == ["events", "output", "ready"]
        assert heard.empty()
