"""`tidemill up`: everything in one process."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import uvloop

from tidemill.cli.demo import add_demo_tasks
from tidemill.config.load import load_settings
from tidemill.container import AllInOne, run_all_in_one
from tidemill.observability.logging import configure_logging


def up(flags: dict[str, Any], config_file: Path | None, workers: int, *, is_demo: bool) -> int:
    """Run until a signal; the exit code."""
    settings = load_settings(os.environ, config_file=config_file, flags=flags)
    configure_logging(settings.logging.level, settings.logging.format)

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        async with run_all_in_one(settings, workers) as running:
            if is_demo:
                await add_demo_tasks(running.store, running.registry)
            _say_ready(running, settings.data_dir)
            await stop.wait()
            sys.stderr.write("draining; press Ctrl-C again to be rid of it at once\n")
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, _leave_at_once)

    uvloop.run(serve())
    return 0


def _say_ready(running: AllInOne, data_dir: str) -> None:
    sys.stdout.write(
        f"Tidemill is ready at {running.url} (data in {data_dir}; this machine only, "
        "as nobody has to log in)\n"
    )
    sys.stdout.flush()


def _leave_at_once() -> None:
    """Task trees notice that their worker is gone and end; the next start recovers their runs."""
    os._exit(130)
