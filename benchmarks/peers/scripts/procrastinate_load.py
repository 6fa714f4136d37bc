"""Procrastinate: one worker that has many jobs at once; two for schedules.

Run by an interpreter of its own.
"""

import asyncio
import os
import subprocess
import sys

import due
import loads
import procrastinate
import psycopg

_URL = os.environ["POSTGRES_URL"]
_AT_ONCE = 1_000
_CONCURRENCY = 32
_CONNECTIONS = 8
_WORK = (__file__, "work")

app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(conninfo=_URL, min_size=1, max_size=_CONNECTIONS)
)


@app.task(name="nothing")
async def nothing() -> None:
    pass


@app.task(name="note")
async def note(number: int) -> None:
    loads.note(number)


@app.task(name="start")
async def start(timestamp: int) -> None:
    loads.note("started")


for _number in range(due.TASKS):
    app.periodic(cron=due.CRON, periodic_id=f"due-{_number}")(start)


class Procrastinate(loads.AsyncLoad):
    async def begin(self) -> None:
        await app.open_async()
        self._connection = await psycopg.AsyncConnection.connect(_URL, autocommit=True)

    async def enqueue(self) -> None:
        await nothing.defer_async()

    async def enqueue_note(self, number: int) -> None:
        await note.defer_async(number=number)

    async def enqueue_many(self, runs: int) -> None:
        for begin in range(0, runs, _AT_ONCE):
            await nothing.batch_defer_async(*[{}] * min(_AT_ONCE, runs - begin))

    async def is_over(self) -> bool:
        left = "SELECT 1 FROM procrastinate_jobs WHERE status IN ('todo', 'doing') LIMIT 1"
        return await (await self._connection.execute(left)).fetchone() is None


async def install() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        app.run_worker(concurrency=_CONCURRENCY)
        sys.exit()
    asyncio.run(install())
    with subprocess.Popen([sys.executable, *_WORK], stdout=sys.stderr) as running:
        load = Procrastinate()
        loads.obey(
            {**load.kinds(), "schedules": due.by(_WORK, _WORK, instead_of=running)}, load.begin
        )
        running.terminate()
