"""arq: one worker; two for schedules. Run by an interpreter of its own."""

import os
import subprocess
import sys
from typing import Any

import arq
import due
import loads
import redis.asyncio
from arq.connections import RedisSettings

_URL = os.environ["REDIS_URL"]
_SETTINGS = RedisSettings.from_dsn(_URL)
_CALLERS = 64  # there is no way to ask for many in one call
_WORK = (__file__, "work")


async def nothing(_: dict[Any, Any]) -> None:
    pass


async def note(_: dict[Any, Any], number: int) -> None:
    loads.note(number)


async def start(_: dict[Any, Any]) -> None:
    loads.note("started")


class Arq(loads.AsyncLoad):
    async def begin(self) -> None:
        self._arq = await arq.create_pool(_SETTINGS)
        self._redis = redis.asyncio.Redis.from_url(_URL)

    async def enqueue(self) -> None:
        await self._arq.enqueue_job("nothing")

    async def enqueue_note(self, number: int) -> None:
        await self._arq.enqueue_job("note", number)

    async def enqueue_many(self, runs: int) -> None:
        await self.enqueue_by(_CALLERS, runs)

    async def is_over(self) -> bool:
        return await self._redis.zcard("arq:queue") == 0


def work() -> None:
    at = due.AT
    when = {"month": at.month, "day": at.day, "hour": at.hour, "minute": at.minute}
    jobs = [
        arq.cron(start, name=f"due-{number}", **when, second=0, microsecond=0)
        for number in range(due.TASKS)
    ]
    worker = arq.Worker([nothing, note], cron_jobs=jobs, redis_settings=_SETTINGS, timezone=_UTC)
    worker.run()


_UTC = due.AT.tzinfo

if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        work()
        sys.exit()
    with subprocess.Popen([sys.executable, *_WORK], stdout=sys.stderr) as running:
        load = Arq()
        schedules = due.by(_WORK, _WORK, instead_of=running)
        loads.obey({**load.kinds(), "schedules": schedules}, load.begin)
        running.terminate()
