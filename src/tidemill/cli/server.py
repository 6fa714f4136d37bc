"""Commands that start something: `up`, `serve`, `db`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from tidemill.cli.output import Flag
from tidemill.errors import InvalidSettings, NotFound, Problem

if TYPE_CHECKING:
    from tidemill.config.settings import Settings
    from tidemill.infrastructure.database.schema import Schema

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


def serve(
    role: Literal["api", "dispatcher", "worker"],
    /,
    *,
    host: str | None = None,
    port: int | None = None,
    name: str | None = None,
    server: str | None = None,
    data_dir: _DATA_DIR = None,
    config: Path | None = None,
) -> int:
    """Run one role of a cluster, whose roles share a PostgreSQL database.

    Any number of each may run; `tidemill db upgrade` prepares the database for them.

    Parameters
    ----------
    role
        api, dispatcher or worker
    host
        the address that an API listens on; loopback only, as long as nobody has to log in
    port
        0 takes a free one and prints it
    name
        what a worker is called; two on one machine need two names
    server
        the URL of an API (or TIDEMILL_SERVER): a worker reaches nothing else, and no database
    config
        a TOML file of settings
    """
    from tidemill.cli import up

    given = {"data_dir": data_dir, "api.host": host, "api.port": port, "worker.name": name}
    flags = {key: value for key, value in given.items() if value is not None}
    if role == "worker":
        server = server or os.environ.get("TIDEMILL_SERVER")
        if server is not None:
            return up.serve_remote_worker(flags, config, server)
        return up.serve_worker(flags, config)
    if server is not None:
        raise InvalidSettings([Problem("--server", "is for a worker")])
    return up.serve_api(flags, config) if role == "api" else up.serve_dispatcher(flags, config)


def db_upgrade(*, data_dir: _DATA_DIR = None) -> int:
    """Bring the schema up to date; `up` does so by itself."""
    import asyncio

    from tidemill.infrastructure.database.schema import HEAD, prepare_sqlite
    from tidemill.infrastructure.lock_file import lock_file

    settings = _settings(data_dir)
    if settings.database.is_postgres:
        from tidemill.infrastructure.database.postgres_schema import upgrade_postgres

        asyncio.run(upgrade_postgres(settings.database.url))
    else:
        path = settings.database_file
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(path.with_name(path.name + ".lock")):
            prepare_sqlite(path)
    sys.stdout.write(f"{HEAD}\n")
    return 0


def db_current(*, data_dir: _DATA_DIR = None) -> int:
    """Print the schema's revision."""
    sys.stdout.write(f"{_revision(_settings(data_dir)) or 'none'}\n")
    return 0


def db_check(*, data_dir: _DATA_DIR = None) -> int:
    """Exit with 0 where the schema fits this version, which a newer one may."""
    from tidemill.infrastructure.database.schema import HEAD

    found = _schema(_settings(data_dir))
    sys.stderr.write(f"found {found.revision or 'none'}, needed {HEAD}\n")
    return 1 if found.is_behind() else 0


def db_downgrade(revision: str, /, *, data_dir: _DATA_DIR = None) -> int:
    """Take the schema back to a revision (`base`: to nothing), for an older version of Tidemill.

    What the older schema has no place for is lost; stop the server and make a copy before.
    """
    import asyncio

    from tidemill.infrastructure.database.schema import downgrade_sqlite
    from tidemill.infrastructure.lock_file import lock_file

    settings = _settings(data_dir)
    if _revision(settings) is None:
        raise NotFound("database", settings.database_name)
    if settings.database.is_postgres:
        from tidemill.infrastructure.database.postgres_schema import downgrade_postgres

        asyncio.run(downgrade_postgres(settings.database.url, revision))
    else:
        path = settings.database_file
        with lock_file(path.with_name(path.name + ".lock")):
            downgrade_sqlite(path, revision)
    sys.stdout.write(f"{_revision(settings) or 'base'}\n")
    return 0


def db_sql() -> int:
    """Print the statements that `db upgrade` would run on an empty database."""
    from tidemill.infrastructure.database.schema import write_sql

    write_sql(sys.stdout)
    return 0


def _revision(settings: "Settings") -> str | None:
    return _schema(settings).revision


def _schema(settings: "Settings") -> "Schema":
    import asyncio

    from tidemill.infrastructure.database.schema import sqlite_schema

    if not settings.database.is_postgres:
        return sqlite_schema(settings.database_file)
    from tidemill.infrastructure.database.postgres_schema import postgres_schema

    return asyncio.run(postgres_schema(settings.database.url))


def _settings(data_dir: str | None) -> "Settings":
    from tidemill.config.load import load_settings

    return load_settings(os.environ, flags={"data_dir": data_dir} if data_dir else {})
