"""`tidemill worker …` and `tidemill queue …`."""

from tidemill.cli.output import Common, say, show_many, show_one

WORKER_COLUMNS = (
    "id", "status", "task_types", "current_task_count", "max_concurrent_tasks", "last_heartbeat",
)  # fmt: skip


def list_workers(*, status: str | None = None, common: Common | None = None) -> None:
    """List workers, those that left included."""
    common = common or Common()
    with common.client() as client:
        show_many(client.items("/workers", status=status), common.output, WORKER_COLUMNS)


def get(worker: str, /, *, common: Common | None = None) -> None:
    """Show a worker."""
    common = common or Common()
    with common.client() as client:
        show_one(client.call("GET", f"/workers/{worker}"), common.output)


def drain(worker: str, /, *, common: Common | None = None) -> None:
    """Give a worker nothing more; what it runs goes on."""
    common = common or Common()
    with common.client() as client:
        show_one(client.call("POST", f"/workers/{worker}/drain"), common.output, WORKER_COLUMNS)


def delete(worker: str, /, *, common: Common | None = None) -> None:
    """Forget a worker that is gone."""
    common = common or Common()
    with common.client() as client:
        client.call("DELETE", f"/workers/{worker}")
    say(f"deleted {worker}")


def list_queues(*, common: Common | None = None) -> None:
    """List queues: depth, age of the oldest, rate."""
    common = common or Common()
    columns = ("name", "depth", "running", "oldest_age_seconds", "started_per_second")
    with common.client() as client:
        show_many(client.call("GET", "/queues")["items"], common.output, columns)
