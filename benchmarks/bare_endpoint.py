"""The least that an endpoint of the same framework can do for the same rows: no checks, no views.

`python -m benchmarks.bare_endpoint DATABASE_URL` serves until its stdin ends; it prints its URL.
Reads are the same SELECT; a trigger is the same rows in one transaction: the task is looked up, a
run and its first event are inserted, the task is told when it last ran.
"""

import asyncio
import json
import sys
from typing import Any
from uuid import uuid4

import asyncpg
import uvloop
from fastapi import FastAPI
from pydantic import BaseModel

from tidemill.container.serving import listen, serve, url_of

_CONNECTIONS = 10

_TASK = """
SELECT id, version, name, executor FROM tasks
WHERE namespace = 'default' AND name = $1 AND deleted_at IS NULL FOR NO KEY UPDATE
"""
_RUN = """
INSERT INTO task_runs (
  namespace, task_id, task_name, task_version, task_type, lane, trigger, trigger_key,
  scheduled_for, not_before, priority, rank, status, parameters, attempt, max_attempts, losses,
  hand_backs, fence, timeout_seconds, missed_count, event_seq, log_seq, created_at
) VALUES (
  'default', $1, $2, $3, $4, $5, 'manual', $6, now(), now(), 1, now(), 'pending', $7, 0, 1, 0,
  0, 0, 3600, 0, 1, 0, now()
) RETURNING id, task_id, task_name, task_version, status, trigger, priority, parameters, created_at
"""
_EVENT = """
INSERT INTO run_events (run_id, seq, type, at, data, namespace)
VALUES ($1, 1, 'RunCreated', now(), '{"to":"pending","trigger":"manual"}', 'default')
"""
_LAST_RUN = "UPDATE tasks SET last_run_at = now() WHERE id = $1"


class Wish(BaseModel):
    """What a trigger is asked with."""

    parameters: dict[str, Any] = {}


def bare_app(pool: asyncpg.Pool) -> FastAPI:
    """The three endpoints."""
    app = FastAPI()

    @app.get("/runs/{id}")
    async def one(id: int) -> dict[str, Any]:
        found = await pool.fetchrow("SELECT * FROM task_runs WHERE id = $1", id)
        assert found is not None
        return dict(found)

    @app.get("/runs")
    async def some(limit: int = 100) -> list[dict[str, Any]]:
        found = await pool.fetch("SELECT * FROM task_runs ORDER BY id DESC LIMIT $1", limit)
        return [dict(row) for row in found]

    @app.post("/tasks/{name}/trigger", status_code=202)
    async def trigger(name: str, wish: Wish) -> dict[str, Any]:
        async with pool.acquire() as connection, connection.transaction():
            task = await connection.fetchrow(_TASK, name)
            assert task is not None
            run = await connection.fetchrow(
                _RUN, task["id"], task["name"], task["version"], task["executor"],
                f"default/{task['executor']}", f"manual:{uuid4().hex}", json.dumps(wish.parameters),
            )  # fmt: skip
            assert run is not None
            await connection.execute(_EVENT, run["id"])
            await connection.execute(_LAST_RUN, task["id"])
        return dict(run)

    return app


async def main(database_url: str) -> None:
    """Serve until stdin ends."""
    listener = listen("127.0.0.1", 0, "port")
    async with (
        asyncpg.create_pool(database_url, min_size=1, max_size=_CONNECTIONS) as pool,
        serve(bare_app(pool), listener),
    ):
        print(url_of(listener), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
