"""Celery: `chain`, and a group whose end a chord waits for. Run by an interpreter of its own."""

import os
import subprocess
import sys
from typing import Any

import ordered
from celery import Celery, chain, group

_WAIT_SECONDS = 120

app = Celery("celery_peer", broker=os.environ["BROKER_URL"], backend=os.environ["RESULTS_URL"])
app.conf.task_acks_late = True
if os.environ["BROKER_URL"].startswith("amqp"):
    app.conf.broker_transport_options = {"confirm_publish": True}


@app.task
def stamp(file: str) -> None:
    ordered.stamp(file)


def one_after_the_other(file: str, edges: int) -> Any:
    return chain(stamp.si(file) for _ in range(edges + 1))().get(timeout=_WAIT_SECONDS)


def all_at_once(file: str, width: int) -> Any:
    middle = group(stamp.si(file) for _ in range(width))
    return (stamp.si(file) | middle | stamp.si(file))().get(timeout=_WAIT_SECONDS)


if __name__ == "__main__":
    worker = [sys.executable, "-m", "celery", "-A", "celery_peer", "worker", "--loglevel=ERROR"]
    with subprocess.Popen(worker, stdout=sys.stderr) as running:
        ordered.obey(one_after_the_other, all_at_once)
        running.terminate()
