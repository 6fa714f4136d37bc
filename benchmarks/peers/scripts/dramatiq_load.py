"""Dramatiq: as many processes as the machine, eight threads in each, as it does by default."""

import os
import subprocess
import sys

import dramatiq
import loads
import redis
from dramatiq.brokers.redis import RedisBroker

_URL = os.environ["REDIS_URL"]
dramatiq.set_broker(RedisBroker(url=_URL))


@dramatiq.actor
def nothing() -> None:
    pass


@dramatiq.actor
def note(number: int) -> None:
    loads.note(number)


class Dramatiq(loads.Load):
    def __init__(self) -> None:
        self._redis = redis.Redis.from_url(_URL)

    def enqueue(self) -> None:
        nothing.send()

    def enqueue_note(self, number: int) -> None:
        note.send(number)

    def is_over(self) -> bool:
        return self._redis.hlen("dramatiq:default.msgs") == 0


if __name__ == "__main__":
    worker = [sys.executable, "-m", "dramatiq", "dramatiq_load"]
    with subprocess.Popen(worker, stdout=sys.stderr) as running:
        loads.obey(Dramatiq().kinds())
        running.terminate()
