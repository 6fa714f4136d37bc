"""`tidemill up`: everything in one process."""

import asyncio
import gc
import os
import signal
import sys
from pathlib import Path
from typing import Any, TextIO

import uvloop

from tidemill.cli.demo import add_demo_tasks
from tidemill.config.load import load_settings
from tidemill.container import AllInOne, run_all_in_one
from tidemill.observability.logging import configure_logging

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def up(flags: dict[str, Any], config_file: Path | None, workers: int, *, is_demo: bool) -> int:
    """Run until a signal; the exit code."""
    _fill_standard_streams()
    settings = load_settings(os.environ, config_file=config_file, flags=flags)
    configure_logging(settings.logging.level, settings.logging.format)

    async def serve() -> None:
        stop = _stop_on_signals()
        async with run_all_in_one(settings, workers) as running:
            if is_demo:
                await add_demo_tasks(running.store, running.registry)
            _collect_seldom()
            _say_ready(running, settings.data_dir)
            await stop.wait()
            _say(sys.stderr, "draining; press Ctrl-C again to be rid of it at once\n")

    uvloop.run(serve())
    return 0


def _fill_standard_streams() -> None:
    """A descriptor 0, 1 or 2 that is closed would become one of ours, and be written to."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.__stdout__ is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.__stderr__ is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _stop_on_signals() -> asyncio.Event:
    """An event that the first signal sets; the second one ends the process at once."""
    stop = asyncio.Event()

    def heed() -> None:
        if stop.is_set():
            # Task trees notice that their worker is gone and end; the next start recovers runs.
            os._exit(130)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in _STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` and `cmd &` want it
            loop.add_signal_handler(number, heed)
    return stop


def _collect_seldom() -> None:
    """Let the cyclic collector leave alone what was loaded, and look at the rest less often.

    What a run leaves behind has no cycles; looking through all there is took 8 % of the time under
    load, in stops of up to 80 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _say_ready(running: AllInOne, data_dir: str) -> None:
    _say(
        sys.stdout,
        f"Tidemill is ready at {running.url} (data in {data_dir}; this machine only, "
        "as nobody has to log in)\n",
    )


def _say(stream: TextIO, text: str) -> None:
    """Tell people; whoever closed the stream does not want to know, and need not stop the rest."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        with open(os.devnull, "w") as nowhere:  # what is still in the buffer goes there
            os.dup2(nowhere.fileno(), stream.fileno())
