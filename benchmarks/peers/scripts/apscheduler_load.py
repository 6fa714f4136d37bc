"""APScheduler 3: one scheduler with ten threads, its jobs in PostgreSQL.

What is late is not dropped. Run by an interpreter of its own.
"""

import os
import sys

import due
import loads
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.cron import CronTrigger

_URL = os.environ["POSTGRES_URL"].replace("postgresql://", "postgresql+psycopg2://")


def work() -> None:
    scheduler = BlockingScheduler({"default": SQLAlchemyJobStore(_URL)}, timezone="UTC")
    trigger = CronTrigger.from_crontab(due.CRON, "UTC")
    for number in range(due.TASKS):
        scheduler.add_job(
            "loads:note", trigger, ["started"], id=f"due-{number}", misfire_grace_time=None
        )
    scheduler.start()


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        work()
    loads.obey({"schedules": due.by((__file__, "work"))})
