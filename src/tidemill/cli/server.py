"""Commands that start something: `up`, `serve`, `db`."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from tidemill.cli.output import Flag
from tidemill.errors import InvalidSettings, NotFound, Problem

_DATA_DIR = Annotated[str | None, Parameter(help="where everything is kept (default: ./data)")]


def up(
    *,
    data_dir: _DATA_DIR = None,
    host: str | None = None,
    port: int | None = None,
    workers: int = 1,
    demo: Flag = False,
    config: Path | None = None,
) -> int:
    """Run everything in one process: API, dispatcher, workers, on SQLite.

    Parameters
    ----------
    host
        the address to listen on; loopback only, as long as nobody has to log in
    port
        0 takes a free one and prints it
    workers
        how many workers this process is; 0 where they all are elsewhere
    demo
        define some tasks to look at
    config
        a TOML file of settings
    """
    from tidemill.cli.up import up as run_up

    if workers < 0:
        raise InvalidSettings([Problem("--workers", "must be at least 0")])
    given = {"data_dir": data_dir, "api.host": host, "api.port": port}
    flags = {key: value for key, value in given.items() if value is not None}
    return run_up(flags, config, workers, is_demo=demo)


def serve(role: Literal["api", "dispatcher", "worker"]) -> int:
    """Run one role of a cluster."""
    raise InvalidSettings(
        [
            Problem(
                "database.url",
                f"`serve {role}` shares a PostgreSQL database with the other roles, which this "
                "version does not have yet; `tidemill up` runs everything in one process",
            )
        ]
    )


def db_upgrade(*, data_dir: _DATA_DIR = None) -> int:
    """Bring the schema up to date; `up` does so by itself."""
    from tidemill.infrastructure.database.schema import HEAD, prepare_sqlite
    from tidemill.infrastructure.lock_file import lock_file

    path = _database(data_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock_file(path.with_name(path.name + ".lock")):
        prepare_sqlite(path)
    sys.stdout.write(f"{HEAD}\n")
    return 0


def db_current(*, data_dir: _DATA_DIR = None) -> int:
    """Print the schema's revision."""
    from tidemill.infrastructure.database.schema import sqlite_revision

    sys.stdout.write(f"{sqlite_revision(_database(data_dir)) or 'none'}\n")
    return 0


def db_check(*, data_dir: _DATA_DIR = None) -> int:
    """Exit with 0 where the schema is the one that this version needs."""
    from tidemill.infrastructure.database.schema import HEAD, sqlite_revision

    found = sqlite_revision(_database(data_dir))
    sys.stderr.write(f"found {found or 'none'}, needed {HEAD}\n")
    return 0 if found == HEAD else 1


def db_downgrade(revision: str, /, *, data_dir: _DATA_DIR = None) -> int:
    """Take the schema back to a revision (`base`: to nothing), for an older version of Tidemill.

    What the older schema has no place for is lost; stop the server and copy the file before.
    """
    from tidemill.infrastructure.database.schema import downgrade_sqlite, sqlite_revision
    from tidemill.infrastructure.lock_file import lock_file

    path = _database(data_dir)
    if sqlite_revision(path) is None:
        raise NotFound("database", path.name)
    with lock_file(path.with_name(path.name + ".lock")):
        downgrade_sqlite(path, revision)
    sys.stdout.write(f"{sqlite_revision(path) or 'base'}\n")
    return 0


def db_sql() -> int:
    """Print the statements that `db upgrade` would run on an empty database."""
    from tidemill.infrastructure.database.schema import write_sql

    write_sql(sys.stdout)
    return 0


def _database(data_dir: str | None) -> Path:
    from tidemill.config.load import load_settings

    flags = {"data_dir": data_dir} if data_dir else {}
    return load_settings(os.environ, flags=flags).database_file
