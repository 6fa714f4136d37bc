"""A call with an idempotency key while the first one with that key is under way."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import httpx2
import pytest
from tests.conformance.test_control_planes import api_over

from tidemill.api.app import create_app
from tidemill.domain.task import TaskDefinition
from tidemill.errors import Problem
from tidemill.infrastructure.database.postgres import PostgresStore
from tidemill.infrastructure.database.postgres_pool import open_pool
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.infrastructure.queues.memory import MemoryQueue
from tidemill.testing.clock import FakeClock

TASK = {"name": "once", "executor": "shell", "command": "true"}


class Api:
    """An API on PostgreSQL, and when it checked a definition."""

    def __init__(self, store: PostgresStore) -> None:
        self.has_checked = asyncio.Event()
        context = api_over(store, MemoryQueue(), MemoryWakeups(), FakeClock())
        context.check_task = self._check
        transport = httpx2.ASGITransport(app=create_app(context))
        self.client = httpx2.AsyncClient(transport=transport, base_url="http://server/api/v1")

    def _check(self, _: TaskDefinition) -> list[Problem]:
        self.has_checked.set()
        return []

    async def create(self, key: str, **fields: str) -> httpx2.Response:
        return await self.client.post(
            "/tasks", json=TASK | fields, headers={"Idempotency-Key": key}
        )


@pytest.fixture
async def api(migrated_postgres_url: str) -> AsyncIterator[Api]:
    async with open_pool(migrated_postgres_url, 4) as pool:
        store = PostgresStore(pool, MemoryWakeups())
        api = Api(store)
        yield api
        await api.client.aclose()
        await store.close()


async def test_a_second_call_is_told_at_once_that_the_first_is_under_way(
    api: Api, migrated_postgres_url: str
) -> None:
    gate = await asyncpg.connect(migrated_postgres_url)
    await gate.execute("BEGIN")
    await gate.execute("LOCK TABLE tasks IN EXCLUSIVE MODE")
    first = asyncio.create_task(api.create("k"))
    await api.has_checked.wait()
    second = await api.create("k")
    assert not first.done()
    await gate.execute("ROLLBACK")
    made = await first
    third = await api.create("k")
    await gate.close()

    assert second.status_code == 409
    assert second.headers["Content-Type"] == "application/problem+json"
    assert second.json()["code"] == "idempotency_key_in_use"
    assert made.status_code == third.status_code == 201
    assert third.json() == made.json()


async def test_a_key_whose_first_call_failed_is_free(api: Api) -> None:
    assert (await api.create("k1")).status_code == 201
    assert (await api.create("k2")).status_code == 409  # the name is taken
    created = await api.create("k2", name="another")

    assert (created.status_code, created.json()["name"]) == (201, "another")


async def test_all_who_ask_again_get_the_answer_at_once(api: Api) -> None:
    first = await api.create("k")
    again = await asyncio.gather(*(api.create("k") for _ in range(20)))

    assert [each.json() for each in again] == [first.json()] * 20
