"""Which schema a database has, and the way to the one that this version needs."""

import logging
import sqlite3
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from tidemill.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from alembic.config import Config

_log = logging.getLogger("tidemill.database")

HEAD = "0012"  # the newest migration; a test holds it against the folder

# What a database says of itself, in tables that are not there before the first migration.
REVISION = "SELECT version_num FROM alembic_version"
FITS_FROM = "SELECT fits_from FROM schema_compatibility"

_MIGRATIONS = Path(__file__).parent / "migrations"


class Schema(NamedTuple):
    """What a database says of itself.

    `revision` is its newest migration, None where it is empty. `fits_from` is the oldest version,
    by its own newest migration, that may use it as well.
    """

    revision: str | None
    fits_from: str | None

    def is_behind(self) -> bool:
        """Whether it has to be migrated for this version.

        Raises Unavailable where a newer version did so and left nothing that fits this one.
        """
        if self.revision is None or self.revision < HEAD:
            return True
        if (self.fits_from or self.revision) > HEAD:
            raise Unavailable(
                "the database was written by a newer version of Tidemill; run that one, or name "
                f"another database: this is at schema {self.revision}, for versions from "
                f"{self.fits_from or self.revision} on, and this version has {HEAD}"
            )
        return False

    def log_where_newer(self) -> None:
        """Tell operators of a version that runs on a newer one's schema."""
        if self.revision is not None and self.revision > HEAD:
            _log.info("the schema is at %s: newer than %s, and it fits", self.revision, HEAD)


def prepare_sqlite(path: Path) -> None:
    """Create the database where there is none, and migrate it where it is older.

    Raises Unavailable where the file cannot be used, or a newer version left nothing that fits.
    """
    try:
        found = sqlite_schema(path)
        if not found.is_behind():
            found.log_where_newer()
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


def sqlite_schema(path: Path) -> Schema:
    """What a database file says of itself."""
    if not path.exists():
        return Schema(None, None)
    connection = sqlite3.connect(path)
    try:
        return Schema(
            _only_value(connection, "alembic_version", REVISION),
            _only_value(connection, "schema_compatibility", FITS_FROM),
        )
    finally:
        connection.close()


def _only_value(connection: sqlite3.Connection, table: str, statement: str) -> str | None:
    if not connection.execute(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)
    ).fetchone():
        return None
    row = connection.execute(statement).fetchone()
    return row[0] if row else None


def upgrade(connection: Connection) -> None:
    """Run the migrations that are missing; each is its own transaction and may be run again."""
    # Alembic takes long to import, and a database that is up to date does not need it.
    from alembic import command
    from alembic.util import CommandError

    try:
        command.upgrade(_config(connection), "head")
    except CommandError as error:
        raise Unavailable(
            f"the database is not one of Tidemill's; name another ({error})"
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
