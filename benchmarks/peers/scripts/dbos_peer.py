"""DBOS: steps of one workflow, and workflows on a queue. Run by an interpreter of its own."""

import os

import ordered
from dbos import DBOS

DBOS(
    config={
        "name": "dbos-peer",
        "system_database_url": os.environ["DATABASE_URL"],
        "log_level": "ERROR",
    }
)


@DBOS.step()
def stamp(file: str) -> None:
    ordered.stamp(file)


@DBOS.workflow()
def part(file: str) -> None:
    stamp(file)


@DBOS.workflow()
def one_after_the_other(file: str, edges: int) -> None:
    for _ in range(edges + 1):
        stamp(file)


@DBOS.workflow()
def all_at_once(file: str, width: int) -> None:
    stamp(file)
    for handle in [DBOS.enqueue_workflow("middle", part, file) for _ in range(width)]:
        handle.get_result()
    stamp(file)


if __name__ == "__main__":
    DBOS.launch()
    DBOS.register_queue("middle")
    ordered.obey(one_after_the_other, all_at_once)
    DBOS.destroy()
