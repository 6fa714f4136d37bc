"""Workers that reach the database themselves, and the executors that they share."""

import contextlib
from pathlib import Path
from urllib.parse import quote

from tidemill.application.recover_lost_runs import recover_after_restart
from tidemill.config.settings import Settings
from tidemill.container.directories import make_directory
from tidemill.container.grounds.ground import Ground
from tidemill.container.parts.worker_settings import worker_name, worker_options
from tidemill.domain.strategies.registry import StrategyRegistry
from tidemill.foundation.executor import Executor
from tidemill.infrastructure.lock_file import lock_file
from tidemill.infrastructure.store_control_plane import StoreControlPlane
from tidemill.worker.executors.containment import Containment
from tidemill.worker.worker import WorkerService


def containment_of(stack: contextlib.AsyncExitStack, settings: Settings) -> Containment:
    """Of what this process runs: whoever holds its lock owns the task trees of that name, and
    nobody else's. Raises InvalidSettings and Unavailable."""
    if not settings.database.is_postgres:  # the database's file has a lock already
        database = settings.database_file
        return Containment(database.with_name(f"{database.name}.run"), owner=str(database))
    name = quote(worker_name(settings), safe="")
    directory = Path(settings.data_dir).expanduser().resolve() / f"worker-{name}"
    make_directory(directory.parent)
    stack.enter_context(lock_file(directory.with_suffix(".lock")))
    return Containment(directory, owner=str(directory))


async def start_workers(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    ground: Ground,
    containment: Containment,
    executors: dict[str, Executor],
    strategies: StrategyRegistry,
    workers: int = 1,
) -> None:
    """Claim and execute until the stack is closed, which drains."""
    await containment.start()
    stack.push_async_callback(containment.close)
    if not settings.database.is_postgres:
        await ground.store.transact(recover_after_restart)
    for executor in executors.values():
        await executor.start()
        stack.push_async_callback(executor.close)
    for number in range(workers):
        name = f"{worker_name(settings)}-{number + 1}" if workers > 1 else None
        options = worker_options(settings, name)
        control_plane = StoreControlPlane(
            ground.store, ground.queue, ground.wakeups, ground.clock, strategies, options.lease
        )
        worker = WorkerService(
            control_plane,
            ground.wakeups,
            ground.clock,
            executors,
            options,
            containment.directory,
        )
        await worker.start()
        stack.push_async_callback(worker.stop)
