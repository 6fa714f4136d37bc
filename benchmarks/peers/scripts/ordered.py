"""What every peer's script shares: it is told on stdin what to do, and each task notes its time."""

import os
import sys
import time
from collections.abc import Callable

Kind = Callable[[str, int], object]  # a file for the notes, and how many


def stamp(file: str) -> None:
    """The work of every task: append the time, by a clock that all processes share."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{time.monotonic():.6f}\n".encode())
    os.close(descriptor)


def obey(chain: Kind, fan: Kind) -> None:
    """Carry out `chain FILE EDGES` and `fan FILE WIDTH`; each returns once all has ended."""
    print("ready", flush=True)
    for line in sys.stdin:
        kind, file, number = line.split()
        {"chain": chain, "fan": fan}[kind](file, int(number))
        print("done", flush=True)
