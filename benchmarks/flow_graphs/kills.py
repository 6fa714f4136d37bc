"""SIGKILL of one process after the other."""

import random
import time
from collections import Counter

from tidemill.testing.cluster import Cluster, Member

_LONGEST_ABSENCE_SECONDS = 1.0


def kill_one_every(
    every_seconds: float, cluster: Cluster, seconds: float, chance: random.Random
) -> Counter[str]:
    """Kill a process and start it again, so often for so long; how many of each role it were.

    The next one waits until the one before is ready again. None is killed a second time before
    all were killed.
    """
    killed: Counter[str] = Counter()
    turns: list[Member] = []
    until = time.monotonic() + seconds
    at = time.monotonic() + every_seconds
    while at < until:
        time.sleep(max(at - time.monotonic(), 0))
        at = max(at, time.monotonic()) + every_seconds
        _look_for_ended(cluster)
        turns = turns or chance.sample(cluster.members, len(cluster.members))
        member = turns.pop()
        member.process.kill()
        time.sleep(chance.uniform(0, _LONGEST_ABSENCE_SECONDS))
        member.process.start()
        killed[member.role] += 1
    time.sleep(max(until - time.monotonic(), 0))
    return killed


def _look_for_ended(cluster: Cluster) -> None:
    """SIGKILL of one is no reason for another to end."""
    for member in cluster.members:
        if not member.process.is_running:
            told = member.process.log[-2_000:]
            raise RuntimeError(f"{member.data_dir.name} ended by itself: {told}")
