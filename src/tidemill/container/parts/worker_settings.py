"""What settings mean for a worker, wherever it runs. Imports nothing of a server."""

import socket

from tidemill import __version__
from tidemill.config.settings import Settings
from tidemill.foundation.registry import ExecutorRegistry
from tidemill.worker.executors.containment import Containment
from tidemill.worker.executors.http import HttpExecutor
from tidemill.worker.executors.python import PythonExecutor
from tidemill.worker.executors.shell import ShellExecutor
from tidemill.worker.worker import WorkerOptions


def build_registry(settings: Settings, containment: Containment) -> ExecutorRegistry:
    """Every kind of task that this version runs."""
    worker = settings.worker
    registry = ExecutorRegistry()
    registry.register("shell", lambda: ShellExecutor(containment))
    registry.register("http", lambda: HttpExecutor(worker.allowed_networks))
    registry.register(
        "python",
        lambda: PythonExecutor(
            containment,
            worker.python_paths,
            worker.max_concurrent_tasks,
            worker.max_artifact_bytes,
        ),
    )
    return registry


def worker_name(settings: Settings) -> str:
    """What a worker is called; the host's name where no other was given."""
    return settings.worker.name or socket.gethostname()


def worker_options(settings: Settings, name: str | None = None) -> WorkerOptions:
    """What a worker offers and how it behaves; `name` where there are several of one name."""
    worker = settings.worker
    return WorkerOptions(
        name=name or worker_name(settings),
        hostname=socket.gethostname(),
        version=__version__,
        queues=worker.queues,
        labels=worker.labels,
        max_concurrent_tasks=worker.max_concurrent_tasks,
        heartbeat_seconds=worker.heartbeat_seconds,
        lease_seconds=worker.lease_seconds,
        drain_seconds=worker.drain_seconds,
        kill_grace_seconds=worker.kill_grace_seconds,
        max_artifact_bytes=worker.max_artifact_bytes,
        max_upstream_bytes=worker.max_upstream_bytes,
    )
