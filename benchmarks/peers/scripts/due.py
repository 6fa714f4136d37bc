"""Programs that are started once it is known how many schedules are due, and when."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

import loads

TASKS = int(os.environ.get("PEER_TASKS", "0"))
AT = datetime.fromtimestamp(float(os.environ.get("PEER_DUE", "0")), UTC)
CRON = f"{AT.minute} {AT.hour} {AT.day} {AT.month} *"


def by(
    *commands: Sequence[str], instead_of: subprocess.Popen | None = None
) -> Callable[..., dict[str, list[float]]]:
    """What carries out schedules by these commands, which read the constants above.

    They run in place of a worker that does not know the schedules.
    """

    def schedules(tasks: int, due: float, patience_seconds: float) -> dict[str, list[float]]:
        if instead_of is not None:
            instead_of.terminate()
            instead_of.wait()
        with _running(commands, {"PEER_TASKS": str(tasks), "PEER_DUE": str(due)}):
            return loads.late(due, tasks, patience_seconds)

    return schedules


@contextlib.contextmanager
def _running(commands: Sequence[Sequence[str]], told: dict[str, str]) -> Iterator[None]:
    environment = {**os.environ, **told}
    with contextlib.ExitStack() as stack:
        for command in commands:
            program = stack.enter_context(
                subprocess.Popen([sys.executable, *command], stdout=sys.stderr, env=environment)
            )
            stack.callback(program.terminate)
        yield
