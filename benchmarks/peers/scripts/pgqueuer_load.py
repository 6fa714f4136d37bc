"""PGQueuer: one worker, on a loop of uvloop. Run by an interpreter of its own."""

import asyncio
import os
import subprocess
import sys
from datetime import timedelta

import asyncpg
import loads
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.queries import Queries

_URL = os.environ["POSTGRES_URL"]
_BATCH = int(os.environ.get("PEER_BATCH", "200"))
_AT_ONCE = int(os.environ.get("PEER_AT_ONCE", "1000"))
_CONNECTIONS = 8


class Pgqueuer(loads.AsyncLoad):
    async def begin(self) -> None:
        self._pool = await asyncpg.create_pool(_URL, min_size=1, max_size=_CONNECTIONS)
        self._queries = Queries.from_asyncpg_pool(self._pool)

    async def enqueue(self) -> None:
        await self._queries.enqueue("nothing", None)

    async def enqueue_note(self, number: int) -> None:
        await self._queries.enqueue("note", str(number).encode())

    async def enqueue_many(self, runs: int) -> None:
        for begin in range(0, runs, _AT_ONCE):
            some = min(_AT_ONCE, runs - begin)
            await self._queries.enqueue(["nothing"] * some, [None] * some, [0] * some)

    async def is_over(self) -> bool:
        return await self._pool.fetchval("SELECT 1 FROM pgqueuer LIMIT 1") is None


async def install() -> None:
    connection = await asyncpg.connect(_URL)
    await Queries.from_asyncpg_connection(connection).install()
    await connection.close()


async def work() -> None:
    queuer = PgQueuer.from_asyncpg_connection(await asyncpg.connect(_URL))

    @queuer.entrypoint("nothing")
    async def nothing(job: object) -> None:
        pass

    @queuer.entrypoint("note")
    async def note(job: object) -> None:
        loads.note(job.payload.decode())

    await queuer.run(batch_size=_BATCH, dequeue_timeout=timedelta(seconds=30))


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        uvloop.run(work())
    asyncio.run(install())
    with subprocess.Popen([sys.executable, __file__, "work"], stdout=sys.stderr) as running:
        load = Pgqueuer()
        loads.obey(load.kinds(), load.begin)
        running.terminate()
