"""What the house rules say and no linter knows."""

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy import inspect as inspect_engine

import tidemill
from tidemill import errors
from tidemill.infrastructure.database import schema, tables

SOURCE = Path(tidemill.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
# Where the machine's own clock is read: the one adapter of it, and what stands beside the process
# tree of a task, without a loop or a clock handed in.
MAY_READ_THE_TIME = (
    "foundation/clock.py", "worker/executors/", "client/", "cli/", "testing/server.py",
    "testing/services/",
    "api/routes/system.py",  # measures how long the database takes to answer
)  # fmt: skip

NOT_FOR_READERS = "infrastructure/database/migrations/"  # they are read in their order


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def is_public(name: str) -> bool:
    return not name.startswith("_")


def public_definitions(module: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """Public functions and classes of a module, and the classes' own."""
    for node in module.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and is_public(
            node.name
        ):
            yield node  # type: ignore[misc]


def test_every_module_and_all_that_it_offers_says_what_it_is_for() -> None:
    silent = []
    for path in MODULES:
        module = parsed(path)
        if name_of(path).startswith(NOT_FOR_READERS):
            continue
        if path.name != "__init__.py" and not ast.get_docstring(module):
            silent.append(name_of(path))
        silent += [
            f"{name_of(path)}: {node.name}"
            for node in public_definitions(module)
            if not ast.get_docstring(node)
        ]

    assert silent == []


def calls_of_the_clock(module: ast.Module) -> list[str]:
    found = []
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            said = ast.unparse(node.func)
            if re.fullmatch(r"(datetime\.)?(datetime|date)\.(now|utcnow|today)", said):
                found.append(f"{node.lineno}: {said}")
            if re.fullmatch(r"time\.(time|monotonic|perf_counter|sleep)(_ns)?", said):
                found.append(f"{node.lineno}: {said}")
    return found


def test_nobody_reads_the_time_but_the_clock() -> None:
    found = {
        name_of(path): calls
        for path in MODULES
        if not name_of(path).startswith(MAY_READ_THE_TIME)
        and (calls := calls_of_the_clock(parsed(path)))
    }

    assert found == {}


SQL = re.compile(r"\b(SELECT\b.*\bFROM|INSERT INTO|UPDATE\b.*\bSET|DELETE FROM)\b", re.DOTALL)


# What these join are words of the compiler, and names of tables and columns; values are bound.
JOIN_NO_VALUES = {
    "infrastructure/database/prepared.py",
    "infrastructure/database/many_rows.py",
}


def test_no_value_is_written_into_a_statement() -> None:
    # Only constants of the module are joined: conditions that an index and a statement share.
    assert [each for path in MODULES for each in joined_into_sql(path)] == []


def joined_into_sql(path: Path) -> Iterator[str]:
    if name_of(path) in JOIN_NO_VALUES:
        return
    for node in ast.walk(parsed(path)):
        if not isinstance(node, ast.JoinedStr):
            continue
        words = "".join(str(each.value) for each in node.values if isinstance(each, ast.Constant))
        if SQL.search(words):
            for each in node.values:
                if isinstance(each, ast.FormattedValue) and not _is_constant(each.value):
                    yield f"{name_of(path)}:{node.lineno}: {ast.unparse(each.value)}"


def _is_constant(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id.isupper()


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    assert errors.__doc__ is not None
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        found = re.match(r"^([\s│├└─]*)([A-Z]\w+)(\s{2,}|$)", line)
        if found is None or (" " in line.strip() and "──" not in line and above):
            continue
        depth, name = len(found[1]), found[2]
        while above and above[-1][0] >= depth:
            above.pop()
        if above:
            drawn[name] = above[-1][1]
        above.append((depth, name))
    classes = {
        name: each.__bases__[0].__name__
        for name, each in inspect.getmembers(errors, inspect.isclass)
        if issubclass(each, errors.SchedulerError) and each is not errors.SchedulerError
    }

    assert drawn == classes


def test_every_error_has_a_code_of_its_own() -> None:
    classes = [
        each
        for _, each in inspect.getmembers(errors, inspect.isclass)
        if issubclass(each, errors.SchedulerError)
    ]

    assert len({each.code for each in classes}) == len(classes)


def test_the_newest_migration_is_the_one_that_the_code_expects() -> None:
    versions = Path(schema.__file__).parent / "migrations" / "versions"
    revisions: dict[str, str | None] = {}
    for path in versions.glob("[0-9]*.py"):
        text = path.read_text()
        down = re.search(r"^down_revision = (?:\"(\w+)\"|None)$", text, re.MULTILINE)
        revision = re.search(r"^revision = \"(\w+)\"$", text, re.MULTILINE)
        assert down is not None
        assert revision is not None
        assert path.name.startswith(revision[1] + "_")
        revisions[revision[1]] = down[1]

    assert set(revisions) - set(revisions.values()) == {schema.HEAD}


def described(url: str) -> dict[str, object]:
    """Tables, columns, keys, constraints and indexes as the database knows them."""
    engine = create_engine(url)
    found = inspect_engine(engine)
    described: dict[str, object] = {}
    with engine.connect() as connection:
        for kind, name, sql in connection.exec_driver_sql(
            "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND type = 'index'"
        ):
            described[f"{kind} {name}"] = " ".join(sql.replace('"', "").split())
        for table in found.get_table_names():
            if table in {"alembic_version", "schema_compatibility"}:
                continue
            columns = [
                (each["name"], str(each["type"]), each["nullable"])
                for each in found.get_columns(table)
            ]
            described[table] = (
                columns,
                found.get_pk_constraint(table)["constrained_columns"],
                sorted(found.get_unique_constraints(table), key=str),
                sorted(found.get_foreign_keys(table), key=str),
            )
            [(sql,)] = connection.exec_driver_sql(
                "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)
            ).fetchall()
            options = (sql.rstrip().endswith("WITHOUT ROWID"), "AUTOINCREMENT" in sql)
            described[f"{table} options"] = options
    engine.dispose()
    return described


def test_a_migrated_database_is_the_one_that_the_tables_describe(tmp_path: Path) -> None:
    migrated, created = tmp_path / "migrated.db", tmp_path / "created.db"
    schema.prepare_sqlite(migrated)
    engine = create_engine(f"sqlite:///{created}")
    tables.metadata.create_all(engine)
    engine.dispose()

    assert described(f"sqlite:///{migrated}") == described(f"sqlite:///{created}")


def test_every_module_can_be_imported_by_itself() -> None:
    for found in pkgutil.walk_packages(tidemill.__path__, "tidemill."):
        if not found.name.endswith(("__main__", ".env")):
            importlib.import_module(found.name)
