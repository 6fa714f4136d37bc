"""taskiq: two worker processes, as it has by default. Run by an interpreter of its own."""

import os
import subprocess
import sys

import loads
import redis.asyncio
from taskiq_redis import RedisStreamBroker

_URL = os.environ["REDIS_URL"]
_CALLERS = 64  # there is no way to ask for many in one call

broker = RedisStreamBroker(_URL)


@broker.task(task_name="nothing")
async def nothing() -> None:
    pass


@broker.task(task_name="note")
async def note(number: int) -> None:
    loads.note(number)


class Taskiq(loads.AsyncLoad):
    def __init__(self) -> None:
        self._redis = redis.asyncio.Redis.from_url(_URL)

    async def begin(self) -> None:
        """What is asked for before the worker has begun is not lost then."""
        await broker.startup()

    async def enqueue(self) -> None:
        await nothing.kiq()

    async def enqueue_note(self, number: int) -> None:
        await note.kiq(number)

    async def enqueue_many(self, runs: int) -> None:
        await self.enqueue_by(_CALLERS, runs)

    async def is_over(self) -> bool:
        [group] = await self._redis.xinfo_groups("taskiq")
        stream = await self._redis.xinfo_stream("taskiq")
        is_read = group["last-delivered-id"] == stream["last-generated-id"]
        return is_read and group["pending"] == 0


if __name__ == "__main__":
    worker = [sys.executable, "-m", "taskiq", "worker", "taskiq_load:broker", "--workers", "2"]
    with subprocess.Popen(worker, stdout=sys.stderr) as running:
        load = Taskiq()
        loads.obey(load.kinds(), load.begin)
        running.terminate()
