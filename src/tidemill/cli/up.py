"""`tidemill up` and `tidemill serve`: everything in one process, or one role."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TextIO

import uvloop

from tidemill.config.load import load_settings
from tidemill.config.settings import Settings
from tidemill.observability.logging import configure_logging

_OPEN = "this machine only, as nobody has to log in"
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def up(flags: dict[str, Any], config_file: Path | None, workers: int, *, is_demo: bool) -> int:
    """Run everything until a signal; the exit code."""
    from tidemill.cli.demo import add_demo_tasks
    from tidemill.container.roles.all_in_one import run_all_in_one

    settings = _begin(flags, config_file)

    @asynccontextmanager
    async def everything() -> AsyncIterator[str]:
        async with run_all_in_one(settings, workers) as running:
            if is_demo:
                await add_demo_tasks(running.store, running.registry)
            said = f"Tidemill is ready at {running.url} ({_kept_in(settings)}; {_OPEN})"
            yield said + _asked_at(running.probes_url)

    return _until_a_signal(everything())


def serve_api(flags: dict[str, Any], config_file: Path | None) -> int:
    """Run an API until a signal; the exit code."""
    from tidemill.container.roles.api import run_api

    settings = _begin(flags, config_file)

    @asynccontextmanager
    async def api() -> AsyncIterator[str]:
        async with run_api(settings) as addresses:
            said = f"Tidemill's API is ready at {addresses.url} ({_OPEN})"
            yield said + _asked_at(addresses.probes_url)

    return _until_a_signal(api())


def serve_dispatcher(flags: dict[str, Any], config_file: Path | None) -> int:
    """Run a dispatcher until a signal; the exit code."""
    from tidemill.container.roles.dispatcher import run_dispatcher

    settings = _begin(flags, config_file)

    @asynccontextmanager
    async def dispatcher() -> AsyncIterator[str]:
        async with run_dispatcher(settings) as probes_url:
            yield "Tidemill's dispatcher is ready" + _asked_at(probes_url)

    return _until_a_signal(dispatcher())


def serve_worker(flags: dict[str, Any], config_file: Path | None) -> int:
    """Run a worker that shares the database until a signal; the exit code."""
    from tidemill.container.roles.worker import run_worker

    settings = _begin(flags, config_file)

    @asynccontextmanager
    async def worker() -> AsyncIterator[str]:
        async with run_worker(settings) as probes_url:
            yield "Tidemill's worker is ready" + _asked_at(probes_url)

    return _until_a_signal(worker())


def serve_remote_worker(flags: dict[str, Any], config_file: Path | None, server: str) -> int:
    """Run a worker that reaches an API alone until a signal; the exit code."""
    from tidemill.container.roles.remote_worker import run_remote_worker

    settings = _begin(flags, config_file)

    @asynccontextmanager
    async def worker() -> AsyncIterator[str]:
        key = os.environ.get("TIDEMILL_API_KEY")
        async with run_remote_worker(settings, server, key) as probes_url:
            yield f"Tidemill's worker is ready, and works for {server}" + _asked_at(probes_url)

    return _until_a_signal(worker())


def _begin(flags: dict[str, Any], config_file: Path | None) -> Settings:
    _fill_standard_streams()
    settings = load_settings(os.environ, config_file=config_file, flags=flags)
    configure_logging(settings.logging.level, settings.logging.format)
    return settings


def _kept_in(settings: Settings) -> str:
    return "data in PostgreSQL" if settings.database.is_postgres else f"data in {settings.data_dir}"


def _asked_at(probes_url: str | None) -> str:
    return "" if probes_url is None else f"; probes at {probes_url}"


def _until_a_signal(running: AbstractAsyncContextManager[str]) -> int:
    """Run what says that it is ready, and drain it after a signal."""

    async def run() -> None:
        stop = _stop_on_signals()
        async with running as ready:
            _collect_seldom()
            _say(sys.stdout, f"{ready}\n")
            await stop.wait()
            _say(sys.stderr, "draining; press Ctrl-C again to be rid of it at once\n")

    uvloop.run(run())
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


def _say(stream: TextIO, text: str) -> None:
    """Tell people; whoever closed the stream does not want to know, and need not stop the rest."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        with open(os.devnull, "w") as nowhere:  # what is still in the buffer goes there
            os.dup2(nowhere.fileno(), stream.fileno())
