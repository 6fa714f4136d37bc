"""Procrastinate: one worker that has many jobs at once. Run by an interpreter of its own."""

import asyncio
import os
import subprocess
import sys

import loads
import procrastinate
import psycopg

_URL = os.environ["POSTGRES_URL"]
_AT_ONCE = 1_000
_CONCURRENCY = 32
_CONNECTIONS = 8

app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(conninfo=_URL, min_size=1, max_size=_CONNECTIONS)
)


@app.task(name="nothing")
async def nothing() -> None:
    pass


@app.task(name="note")
async def note(number: int) -> None:
    loads.note(number)


class Procrastinate(loads.AsyncLoad):
    _is_open = False

    async def enqueue(self) -> None:
        await self._open()
        await nothing.defer_async()

    async def enqueue_note(self, number: int) -> None:
        await self._open()
        await note.defer_async(number=number)

    async def enqueue_many(self, runs: int) -> None:
        await self._open()
        for begin in range(0, runs, _AT_ONCE):
            await nothing.batch_defer_async(*[{}] * min(_AT_ONCE, runs - begin))

    async def is_over(self) -> bool:
        left = "SELECT 1 FROM procrastinate_jobs WHERE status IN ('todo', 'doing') LIMIT 1"
        async with await psycopg.AsyncConnection.connect(_URL) as connection:
            return await (await connection.execute(left)).fetchone() is None

    async def _open(self) -> None:
        if not self._is_open:
            self._is_open = True
            await app.open_async()


async def install() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        app.run_worker(concurrency=_CONCURRENCY)
        sys.exit()
    asyncio.run(install())
    with subprocess.Popen([sys.executable, __file__, "work"], stdout=sys.stderr) as running:
        loads.obey(Procrastinate().kinds())
        running.terminate()
