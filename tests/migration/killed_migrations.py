"""Migrates databases, and kills each migration at a statement of its own.

Arguments: one `STATEMENT,DATABASE` for each; a DATABASE is a file or a URL of PostgreSQL. Prints a
line for each: how many statements were begun, or `whole` where there are not as many.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import alembic.command  # noqa: F401  once, for all of them
import asyncpg  # noqa: F401
from sqlalchemy import Engine, event

from tidemill.infrastructure.database.postgres_schema import upgrade_postgres
from tidemill.infrastructure.database.schema import prepare_sqlite


def main() -> None:
    for argument in sys.argv[1:]:
        statement, _, database = argument.partition(",")
        child = os.fork()
        if child == 0:
            _migrate(database, int(statement))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            print(statement)
        else:
            assert status == 0, argument
            print("whole")


def _migrate(database: str, killed_at: int) -> None:
    begun = 0

    @event.listens_for(Engine, "after_cursor_execute")
    def count(*_: Any) -> None:
        """The statement has had its effect: in a transaction that will never be committed."""
        nonlocal begun
        begun += 1
        if begun == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    if database.startswith("postgresql:"):
        asyncio.run(upgrade_postgres(database))
    else:
        prepare_sqlite(Path(database))


main()
