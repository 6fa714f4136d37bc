"""Which schema a database has, and the way to the one that this version needs."""

import sqlite3
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from tidemill.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0007"  # the newest migration; a test holds it against the folder

_MIGRATIONS = Path(__file__).parent / "migrations"


def prepare_sqlite(path: Path) -> None:
    """Create the database where there is none, and migrate it where it is older.

    Raises Unavailable where the file cannot be used, or was written by a newer version.
    """
    try:
        found = sqlite_revision(path)
        if found == HEAD:
            return
        engine = _engine(path)
        with engine.connect() as connection:
            upgrade(connection)
    except (sqlite3.Error, DBAPIError) as error:
        said = error.orig if isinstance(error, DBAPIError) else error
        raise Unavailable(f"the database {path} cannot be used: {said}") from error


def _engine(path: Path) -> Engine:
    """An engine whose transactions hold DDL as well: the driver's own begin too late for it."""
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def leave_transactions_to_us(driver: sqlite3.Connection, _: object) -> None:
        driver.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def sqlite_revision(path: Path) -> str | None:
    """The revision that a database file is at; None where it is empty or missing."""
    if not path.exists():
        return None
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute(
            "SELECT name FROM sqlite_master WHERE name = 'alembic_version'"
        ).fetchall()
        if not rows:
            return None
        versions = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        return versions[0][0] if versions else None
    finally:
        connection.close()


def upgrade(connection: Connection) -> None:
    """Run the migrations that are missing; each is its own transaction and may be run again."""
    # Alembic takes long to import, and a database that is up to date does not need it.
    from alembic import command
    from alembic.util import CommandError

    try:
        command.upgrade(_config(connection), "head")
    except CommandError as error:
        raise Unavailable(
            "the database was written by a newer version of Tidemill; run that one, or name "
            f"another data directory ({error})"
        ) from error


def downgrade_sqlite(path: Path, revision: str) -> None:
    """Take the schema back to a revision, `base` being nothing at all; raises InvalidInput."""
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    with engine.connect() as connection:
        downgrade(connection, revision)


def downgrade(connection: Connection, revision: str) -> None:
    """Undo the migrations after a revision; raises InvalidInput."""
    from alembic import command
    from alembic.util import CommandError

    try:
        command.downgrade(_config(connection), revision)
    except CommandError as error:
        raise InvalidInput(f"no revision {revision!r}: {error}") from error


def write_sql(to: TextIO) -> None:
    """Write the statements that lead from an empty SQLite database to `HEAD`."""
    from alembic import command

    engine = create_engine("sqlite://", poolclass=NullPool)
    with engine.connect() as connection:
        command.upgrade(_config(connection, to), "head", sql=True)


def _config(connection: Connection, output: TextIO | None = None) -> "Config":
    from alembic.config import Config

    config = Config(output_buffer=output)
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config


@cache
def empty_schema() -> bytes:
    """An empty SQLite database with all tables, as its file would be: a copy costs nothing."""
    from sqlalchemy.pool import StaticPool

    from tidemill.infrastructure.database.tables import metadata

    connection = sqlite3.connect(":memory:", check_same_thread=False)
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)
    metadata.create_all(engine)
    connection.commit()
    copied = connection.serialize()
    engine.dispose()
    connection.close()
    return copied
