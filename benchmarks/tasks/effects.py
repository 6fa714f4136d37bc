"""Tasks whose effect is recorded by themselves, outside of the product."""

import asyncio
import os
import time

from tidemill.task_context import RunContext


def note(file: str, run: RunContext) -> None:
    """Append which firing this is and when it really started."""
    line = f"{run.task_name} {run.scheduled_for.timestamp():.6f} {time.time():.6f}\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def note_attempt(file: str, run: RunContext) -> int:
    """Append which attempt of which firing this is; returns its fence."""
    firing = f"{run.task_name} {run.scheduled_for.isoformat()}"
    told = f"{firing} {run.attempt} {run.run_id} {run.fence}\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, told.encode())
    os.close(descriptor)
    return run.fence


async def note_async(file: str, run: RunContext) -> None:
    """The same, on the loop that async tasks share."""
    note(file, run)


def hold(file: str, seconds: float, run: RunContext) -> int:
    """Append when this attempt begins and ends what it holds for so long; returns its fence."""
    for word in ("begin", "end"):
        told = f"{word} {run.task_name} {run.run_id} {run.attempt} {time.time():.6f}\n"
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, told.encode())
        os.close(descriptor)
        if word == "begin":
            time.sleep(seconds)
    return run.fence


async def hold_first(file: str, seconds: float, run: RunContext) -> int:
    """Append when this attempt began; the first one lasts for so long. Returns the attempt."""
    told = f"{run.run_id} {run.attempt} {time.time():.6f}\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, told.encode())
    os.close(descriptor)
    if run.attempt == 1:
        await asyncio.sleep(seconds)
    return run.attempt


def nothing() -> None:
    """What a run costs that does nothing."""


async def nothing_async() -> None:
    """The same, on the loop that async tasks share."""


def stamp(file: str) -> None:
    """Append the time, by a clock that all processes share; peers do the same (`peers/scripts`)."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{time.monotonic():.6f}\n".encode())
    os.close(descriptor)


async def stamp_run(file: str, run: RunContext) -> None:
    """The same, and which run it is."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{run.run_id} {time.monotonic():.6f}\n".encode())
    os.close(descriptor)
