"""DBOS: one process that takes workflows from a queue. Run by an interpreter of its own."""

import os
import subprocess
import sys

import loads
import psycopg
from dbos import DBOS, DBOSClient

_URL = os.environ["POSTGRES_URL"]
_QUEUE = "load"


class Dbos(loads.Load):
    def __init__(self) -> None:
        self._client = DBOSClient(system_database_url=_URL)
        self._connection = psycopg.connect(_URL, autocommit=True)

    def enqueue(self) -> None:
        self._client.enqueue({"queue_name": _QUEUE, "workflow_name": "nothing"})

    def enqueue_note(self, number: int) -> None:
        self._client.enqueue({"queue_name": _QUEUE, "workflow_name": "note"}, number)

    def is_over(self) -> bool:
        left = "SELECT 1 FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING') LIMIT 1"
        return self._connection.execute(left).fetchone() is None


def work() -> None:
    DBOS(config={"name": "dbos-load", "system_database_url": _URL, "log_level": "ERROR"})

    @DBOS.workflow(name="nothing")
    def nothing() -> None:
        pass

    @DBOS.workflow(name="note")
    def note(number: int) -> None:
        loads.note(number)

    DBOS.launch()
    DBOS.register_queue(_QUEUE)
    print("launched", flush=True)
    sys.stdin.read()
    DBOS.destroy()


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        work()
        sys.exit()
    with subprocess.Popen(
        [sys.executable, __file__, "work"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        while running.stdout.readline().strip() not in {b"launched", b""}:
            pass
        loads.obey(Dbos().kinds())
        running.terminate()
