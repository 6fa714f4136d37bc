"""Tasks that fail by a coin, and write down themselves when each attempt began and ended.

The coin is the same for every attempt, and for whoever knows the seed: what should come of a flow
run can be told from outside.
"""

import hashlib
import os
import time

from tidemill.task_context import RunContext


class Tails(Exception):
    """The coin fell on the wrong side."""


def fails(seed: int, share: float, flow_run_id: str | None, task: str, item: int) -> bool:
    """Whether this run, or this item of one, fails; `share` of all do."""
    told = f"{seed} {flow_run_id} {task} {item}"
    number = int.from_bytes(hashlib.sha256(told.encode()).digest()[:8])
    return number < share * 2**64


def toss(
    file: str, seed: int, share: float, seconds: float, items: int | None, run: RunContext
) -> list[int] | None:
    """Take so many seconds, then fail or return a list of so many items, if any are asked for."""
    _append(file, "begin", run)
    time.sleep(seconds)
    _append(file, "end", run)
    if fails(seed, share, run.flow_run_id, run.task_name, run.shard_index):
        raise Tails
    return None if items is None else list(range(items))


def _append(file: str, word: str, run: RunContext) -> None:
    """By a clock that only goes forward, and is the same for all processes of the machine."""
    whose = f"{run.flow_run_id} {run.task_name} {run.shard_index} {run.run_id} {run.attempt}"
    told = f"{word} {whose} {time.monotonic():.6f}\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, told.encode())
    os.close(descriptor)
