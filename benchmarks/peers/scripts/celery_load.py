"""Celery: a worker with as many processes as the machine; for schedules, beat beside it.

Run by an interpreter of its own.
"""

import os
import subprocess
import sys

import count
import due
import loads
import psycopg2
import redis
from celery import Celery
from celery.schedules import crontab

_DATABASE, _REDIS = os.environ.get("POSTGRES_URL"), os.environ.get("REDIS_URL")
_BROKER = os.environ.get("RABBITMQ_URL") or _REDIS
_RESULTS = _DATABASE.replace("postgresql://", "db+postgresql+psycopg2://") if _DATABASE else _REDIS

app = Celery("celery_load", broker=_BROKER, backend=_RESULTS)
app.conf.task_acks_late = True
app.conf.task_ignore_result = _RESULTS is None
app.conf.worker_prefetch_multiplier = 100  # of no-ops, many at once
if "RABBITMQ_URL" in os.environ:
    app.conf.broker_transport_options = {"confirm_publish": True}
app.conf.beat_schedule = {
    f"due-{number}": {
        "task": "celery_load.note",
        "schedule": crontab(minute=due.AT.minute, hour=due.AT.hour),
        "args": ("started",),
    }
    for number in range(due.TASKS)
}


@app.task
def nothing() -> None:
    if _RESULTS is None:
        count.count()


@app.task(ignore_result=True)
def note(number: int | str) -> None:
    loads.note(number)


class CeleryLoad(loads.Load):
    def __init__(self) -> None:
        self._database = psycopg2.connect(_DATABASE) if _DATABASE else None
        self._redis = redis.Redis.from_url(_REDIS) if _REDIS else None

    def enqueue(self) -> None:
        nothing.apply_async()

    def enqueue_note(self, number: int) -> None:
        note.apply_async((number,))

    def is_over(self) -> bool:
        return self._ended() >= self.asked

    def _ended(self) -> int:
        """No-ops that have their last record."""
        if self._database:
            with self._database, self._database.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM celery_taskmeta")
                return cursor.fetchone()[0]
        if self._redis:
            return sum(1 for _ in self._redis.scan_iter("celery-task-meta-*", count=1_000))
        return count.counted()


if __name__ == "__main__":
    worker = [sys.executable, "-m", "celery", "-A", "celery_load", "worker", "--loglevel=ERROR"]
    with subprocess.Popen(worker, stdout=sys.stderr) as running:
        nothing.delay()
        load = CeleryLoad()
        load.asked = 1
        beat = ("-m", "celery", "-A", "celery_load", "beat", "--loglevel=ERROR")
        loads.obey({**load.kinds(), "schedules": due.by(beat)})
        running.terminate()
