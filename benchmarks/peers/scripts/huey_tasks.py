"""The tasks of Huey, which finds them by the name of their module."""

import os

import count
import loads
from huey import RedisHuey

huey = RedisHuey("load", url=os.environ["REDIS_URL"])


@huey.task()
def nothing() -> None:
    count.count()


@huey.task()
def note(number: int) -> None:
    loads.note(number)
