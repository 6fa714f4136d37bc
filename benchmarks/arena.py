"""This product, running on the servers of a benchmark; it is asked by its API."""

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.calls import call_again_and_again, call_each, request
from benchmarks.effects import read_effects
from benchmarks.processes import cpu_seconds
from benchmarks.servers import Servers
from tidemill.client.client import Client
from tidemill.testing.cluster import Cluster
from tidemill.testing.server import Server

QUEUES = ("postgres", "rabbitmq", "redis", "sqlite")
TASKS = Path(__file__).parent / "tasks"

_AT_ONCE = 1_000  # triggers in one call, at most
_APPLIED_AT_ONCE = 10_000  # tasks in one call, at most
_LOOKS_EACH_SECONDS = 0.25
_PATIENCE_SECONDS = 600.0
_SETTLING_SECONDS = 1.0
_WARM_UP_RUNS = 2_000
_DURABILITY = {
    "postgres": "every change of every run is in PostgreSQL, and its commit is waited for",
    "rabbitmq": "the same; persistent messages in a durable queue of RabbitMQ, confirmed",
    "redis": "the same; messages in a stream of Redis, which syncs its file every second",
    "sqlite": "every change of every run is in SQLite, and its commit is waited for",
}


class Tidemill:
    """This product with one API, one dispatcher and so many workers; with SQLite all in one."""

    def __init__(self, queue: str, workers: int, most_runs: int) -> None:
        self.name = f"tidemill, {queue}"
        self.durability = _DURABILITY[queue]
        self.most_runs = most_runs
        self._queue = queue
        self._workers = workers

    @contextmanager
    def running(self, servers: Servers, directory: Path) -> Iterator["Arena"]:
        """One on an empty database."""
        with arena(self._queue, servers, directory, workers=self._workers) as found:
            yield found


_NOTHING = {"name": "nothing", "executor": "python", "command": "effects:nothing_async"}


class Arena:
    """What runs: how it is called, and what its processes take."""

    def __init__(
        self,
        server: Server,
        directory: Path,
        cpu: Callable[[], dict[str, float]],
        database_url: str | None = None,
    ) -> None:
        self.client: Callable[[], Client] = server.client
        self.server = server
        self.directory = directory
        self.database_url = database_url  # of PostgreSQL
        self._cpu = cpu
        with self.client() as client:
            client.call("POST", "/apply", body={"tasks": [_NOTHING, self._noting()]})

    def carry_out(self, kind: str, **options: Any) -> dict[str, Any]:
        """One of `bulk`, `callers`, `pick_up` and `schedules`."""
        kinds: dict[str, Callable[..., dict[str, Any]]] = {
            "bulk": self.bulk,
            "callers": self.callers,
            "pick_up": self.pick_up,
            "schedules": self.schedules,
        }
        return kinds[kind](**options)

    def bulk(self, runs: int) -> dict[str, Any]:
        """Ask for runs of a no-op by the thousand."""

        def ask() -> None:
            with self.client() as client:
                for begin in range(0, runs, _AT_ONCE):
                    items = [{"task": "name:nothing"}] * min(_AT_ONCE, runs - begin)
                    client.call("POST", "/runs", body={"items": items})

        return self.load(ask, runs)

    def callers(self, runs: int, callers: int) -> dict[str, Any]:
        """Ask for them one by one: each caller awaits the answer before it asks again."""
        asked = request("POST", "/api/v1/tasks/name:nothing/trigger", b"{}")
        return self.load(
            lambda: call_again_and_again(self.server.url, asked, callers, runs, 202), runs
        )

    def load(self, ask: Callable[[], None], runs: int) -> dict[str, Any]:
        """From the first call to the last record of so many runs: seconds, and those of CPU."""
        with self.client() as client:
            before, begun = self.cpu(), time.time()
            ask()
            asked = time.time()
            self._wait_for_the_end(client)
            after = self.cpu()
            done = list(itertools.islice(client.items("/runs"), runs))
        assert {run["status"] for run in done} == {"succeeded"}
        last = max(datetime.fromisoformat(run["completed_at"]) for run in done)
        return {
            "seconds": last.timestamp() - begun,
            "asked_seconds": asked - begun,
            "cpu_seconds": {name: after[name] - before[name] for name in before},
        }

    def pick_up(self, calls: int, every_seconds: float) -> dict[str, Any]:
        """From each call to the first line of its task, in seconds."""
        file = self.directory / "picked-up"
        file.unlink(missing_ok=True)
        asked = request("POST", "/api/v1/tasks/name:noting/trigger", b"{}")
        answers = call_each(self.server.url, asked, calls, every_seconds)
        called = {json.loads(each.answer.body)["id"]: each.called_at for each in answers}
        with self.client() as client:
            self._wait_for_the_end(client)
        begun = {}
        for line in file.read_text().splitlines():
            run_id, instant = line.split()
            begun[int(run_id)] = float(instant)
        return {"seconds": [begun[run_id] - instant for run_id, instant in called.items()]}

    def schedules(self, tasks: int, due: float, patience_seconds: float) -> dict[str, Any]:
        """How late each of so many cron tasks starts that are due at one instant, in seconds.

        Workers have done something before: they have read the module of the tasks.
        """
        self.bulk(_WARM_UP_RUNS)
        file = self.directory / "started"
        at = datetime.fromtimestamp(due, UTC)
        wished = [
            {
                "name": f"due-{number}",
                "executor": "python",
                "command": "effects:note_async",
                "arguments": {"file": str(file)},
                "schedule": f"{at.second} {at.minute} {at.hour} {at.day} {at.month} *",
            }
            for number in range(tasks)
        ]
        with self.client() as client:
            for begin in range(0, tasks, _APPLIED_AT_ONCE):
                wish = {"tasks": wished[begin : begin + _APPLIED_AT_ONCE]}
                client.call("POST", "/apply", body=wish)
        if time.time() > due - _SETTLING_SECONDS:
            raise RuntimeError("defining the tasks took longer than was planned for")
        time.sleep(max(due - time.time(), 0))
        until = time.monotonic() + patience_seconds
        while _lines_in(file) < tasks and time.monotonic() < until:
            time.sleep(_LOOKS_EACH_SECONDS)
        effects = read_effects(file)
        return {"late": [each.started_at - due for each in effects]}

    def cpu(self) -> dict[str, float]:
        """Seconds of processor time until now, by process; the caller is who asks."""
        return {"caller": time.process_time(), **self._cpu()}

    def _noting(self) -> dict[str, Any]:
        return {
            "name": "noting",
            "executor": "python",
            "command": "effects:stamp_run",
            "arguments": {"file": str(self.directory / "picked-up")},
        }

    def _wait_for_the_end(self, client: Client) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while client.call("GET", "/system/stats")["unfinished"]:
            if time.monotonic() > deadline:
                raise RuntimeError("runs stay unfinished")
            time.sleep(_LOOKS_EACH_SECONDS)


@contextmanager
def arena(
    queue: str, servers: Servers, directory: Path, *, dispatchers: int = 1, workers: int = 1
) -> Iterator[Arena]:
    """One API and so many others, whose messages go through `queue`; with SQLite all in one."""
    settings = {"TIDEMILL_WORKER__PYTHON_PATHS": f'["{TASKS}"]'}
    with contextlib.ExitStack() as stack:
        if queue == "sqlite":
            server = stack.enter_context(Server(directory / "data", environment=settings))
            yield Arena(server, directory, lambda: {"up": cpu_seconds(server.pid)})
            return
        database_url = stack.enter_context(servers.fresh("postgres"))
        queue_url = None if queue == "postgres" else stack.enter_context(servers.fresh(queue))
        cluster = stack.enter_context(
            Cluster(directory, database_url, settings, queue_url=queue_url)
        )
        server = cluster.api()
        for _ in range(dispatchers):
            cluster.dispatcher()
        for _ in range(workers):
            cluster.worker()

        def cpu() -> dict[str, float]:
            members = {
                f"{member.role} {number}": cpu_seconds(member.process.pid)
                for number, member in enumerate(cluster.members)
            }
            return members | servers.cpu(dict.fromkeys(("postgres", queue)))

        yield Arena(server, directory, cpu, database_url)


def _lines_in(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0
