"""`tidemill apply`, `diff` and `export`: tasks as files."""

import difflib
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml
from cyclopts import Parameter

from tidemill.cli.output import Common, Flag, show_one
from tidemill.client.client import Client, task_key
from tidemill.client.errors import ServerError
from tidemill.domain.task import APPLIED_MARK, TaskDefinition, schedule_of
from tidemill.errors import InvalidInput, Problem

_READ_ONLY = {"id", "version", "created_at", "updated_at", "last_run_at", "next_run_at"}
_STDIN = Path("-")
_LARGEST = 10 * 1024 * 1024
_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)  # whether a schedule is right hangs on no time
_DEFAULTS = {
    field.name: field.default if field.default_factory is msgspec.NODEFAULT
    else field.default_factory()
    for field in msgspec.structs.fields(TaskDefinition)
    if field.name != "task_type"  # the same as the executor, as long as nobody can set it
}  # fmt: skip

_File = Annotated[
    Path,
    Parameter(
        name=["--file", "-f"],
        allow_leading_hyphen=True,
        help="a file, a directory, or - for what comes in",
    ),
]


def apply(
    *,
    file: _File,
    dry_run: Flag = False,
    prune: Flag = False,
    common: Common | None = None,
) -> None:
    """Make the server's tasks be those of a file or directory (YAML or JSON), all or none.

    Parameters
    ----------
    dry_run
        say what would be done and do nothing
    prune
        delete tasks that were applied before and are no longer there
    """
    common = common or Common()
    with common.client() as client:
        tasks = _read(file, client.namespace)
        for each in _applied(client, tasks, prune=prune, dry_run=dry_run):
            said = _SAID.get(each["fate"], each["fate"])
            sys.stdout.write(f"{said} {each['name']}{' (dry run)' if dry_run else ''}\n")


def diff(*, file: _File, common: Common | None = None) -> int:
    """Show what `apply` would change: 0 where nothing, 1 where something."""
    common = common or Common()
    is_different = False
    with common.client() as client:
        tasks = _read(file, client.namespace)
        fates = _applied(client, tasks, prune=False, dry_run=True)
        for task, applied in zip(tasks, fates, strict=True):
            if applied["fate"] == "unchanged":
                continue
            stored = _stored(client, task) if applied["fate"] == "updated" else None
            before = _text(_plain(stored)) if stored else []
            after = _text(_plain(_with_status(task, stored)))
            lines = difflib.unified_diff(
                before, after, f"server/{task['name']}", f"file/{task['name']}"
            )
            for line in lines:
                is_different = True
                sys.stdout.write(line)
    return int(is_different)


def export(*, common: Common | None = None) -> None:
    """Print all tasks as a file that `apply` takes: YAML, or with -o json as JSON."""
    common = common or Common()
    if common.output not in {"table", "yaml", "json"}:
        raise InvalidInput(f"export prints yaml or json, not {common.output}")
    with common.client() as client:
        tasks = [_plain(task) for task in client.items("/tasks", namespace=common.namespace)]
    show_one({"tasks": tasks}, "json" if common.output == "json" else "yaml")


_SAID = {"updated": "changed"}


def _applied(
    client: Client, tasks: list[dict[str, Any]], *, prune: bool, dry_run: bool
) -> list[dict[str, Any]]:
    """What became of each task, or would, and of those that are pruned."""
    wish = {"tasks": tasks, "namespace": client.namespace, "prune": prune, "dry_run": dry_run}
    items: list[dict[str, Any]] = client.call("POST", "/apply", body=wish)["items"]
    return items


def _stored(client: Client, task: dict[str, Any]) -> dict[str, Any] | None:
    path = f"/tasks/{task_key('name:' + task['name'])}"
    try:
        found: dict[str, Any] = client.call("GET", path, params={"namespace": task["namespace"]})
    except ServerError as error:
        if error.status == 404:
            return None
        raise
    return found


def _with_status(task: dict[str, Any], stored: dict[str, Any] | None) -> dict[str, Any]:
    """Whether a task is paused is changed only by a file that says so."""
    return task if stored is None else {"status": stored["status"], **task}


def _plain(task: dict[str, Any]) -> dict[str, Any]:
    """What a task says beyond its defaults, and nothing that only the server says."""
    definition = _definition(task)
    plain = {
        name: _built_in(value)
        for name, default in _DEFAULTS.items()
        if (value := getattr(definition, name)) != default
    }
    if task.get("status", "active") != "active":
        plain["status"] = task["status"]
    return plain


def _definition(task: dict[str, Any]) -> TaskDefinition:
    said = {name: value for name, value in task.items() if name not in _READ_ONLY | {"status"}}
    said.setdefault("task_type", said.get("executor", ""))
    definition = msgspec.convert(said, TaskDefinition)
    metadata = {key: value for key, value in definition.metadata.items() if key not in APPLIED_MARK}
    return msgspec.structs.replace(definition, metadata=metadata)


def _built_in(value: Any) -> Any:
    return msgspec.to_builtins(value.astimezone(UTC) if isinstance(value, datetime) else value)


def _text(plain: dict[str, Any]) -> list[str]:
    return yaml.safe_dump(plain, sort_keys=True, allow_unicode=True).splitlines(keepends=True)


def _read(path: Path, namespace: str) -> list[dict[str, Any]]:
    files = sorted(_files_of(path))
    if not files:
        raise InvalidInput(f"no .yaml, .yml or .json file in {path}")
    tasks = [task for file in files for task in _tasks_of(file, namespace)]
    if not tasks:
        raise InvalidInput(f"there is no task in {path}")
    seen: set[tuple[str, str]] = set()
    for task in tasks:
        key = (task["namespace"], task["name"])
        if key in seen:
            raise InvalidInput(f"task {task['name']!r} stands there twice")
        seen.add(key)
    return tasks


def _files_of(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (p for p in path.rglob("*") if p.suffix in {".yaml", ".yml", ".json"})
    else:
        yield path


def _tasks_of(file: Path, namespace: str) -> Iterator[dict[str, Any]]:
    for document in _documents(file):
        listed = document
        if isinstance(document, dict):
            listed = document.get("tasks", [document])
            if "tasks" in document and len(document) > 1:
                raise InvalidInput(f"{file}: nothing may stand beside `tasks`")
        if not isinstance(listed, list):
            raise InvalidInput(f"{file}: `tasks` must be a list")
        for index, task in enumerate(listed):
            yield _checked(file, index, task, namespace)


def _documents(file: Path) -> list[Any]:
    """What the file says, as JSON could say it: instants are text, and so are all keys."""
    try:
        text = sys.stdin.read(_LARGEST + 1) if file == _STDIN else _read_text(file)
        if len(text) > _LARGEST:
            raise InvalidInput(f"{file} is larger than {_LARGEST} bytes")
        documents = [each for each in yaml.safe_load_all(text) if each is not None]
        read: list[Any] = msgspec.json.decode(msgspec.json.encode(documents))
    except OSError as error:
        raise InvalidInput(f"cannot read {file}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        where = error.problem_mark
        at = f" in line {where.line + 1}, column {where.column + 1}" if where else ""
        raise InvalidInput(f"{file} is not YAML: {error.problem}{at}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidInput(f"{file} is not YAML: {str(error).splitlines()[0]}") from error
    except (RecursionError, TypeError) as error:
        raise InvalidInput(f"{file} holds what JSON cannot: {error}") from error
    return read


def _read_text(file: Path) -> str:
    with file.open() as opened:
        return opened.read(_LARGEST + 1)


def _checked(file: Path, index: int, task: Any, namespace: str) -> dict[str, Any]:
    if not isinstance(task, dict) or not isinstance(task.get("name"), str):
        raise InvalidInput(f"{file}: task {index + 1} is no mapping with a name")
    fields: dict[str, Any] = {n: value for n, value in task.items() if n not in _READ_ONLY}
    fields.setdefault("namespace", namespace)
    unknown = sorted(set(fields) - {*TaskDefinition.__struct_fields__, "status"})
    if unknown:
        raise InvalidInput(
            f"{file}: task {task['name']!r} has unknown fields",
            [Problem(f"/{name}", "is no field of a task") for name in unknown],
        )
    try:
        schedule_of(_definition(fields), _ANY_TIME)
    except (msgspec.ValidationError, InvalidInput) as error:
        raise InvalidInput(f"{file}: task {task['name']!r}: {error}") from error
    return fields
