"""`tidemill apply`, `diff` and `export`: tasks as files."""

import difflib
import sys
from collections.abc import Iterator
from datetime import datetime
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml
from cyclopts import App, Parameter

from tidemill.cli.output import Common, say
from tidemill.client.client import Client, ServerError, task_key
from tidemill.domain.task import TaskDefinition
from tidemill.errors import InvalidInput, Problem

_MARK = {"managed_by": "tidemill apply"}  # in `metadata`: what --prune may delete
_READ_ONLY = {"id", "version", "created_at", "updated_at", "last_run_at", "next_run_at"}
_MANY = 10 * 1024 * 1024

_File = Annotated[Path, Parameter(name=["--file", "-f"])]


def register(app: App) -> None:
    """Add these commands."""
    app.command(apply)
    app.command(diff)
    app.command(export)


def apply(
    *,
    file: _File,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    prune: Annotated[bool, Parameter(negative=())] = False,
    common: Common | None = None,
) -> None:
    """Make the server's tasks be those of a file or directory (YAML or JSON).

    Parameters
    ----------
    dry_run
        say what would be done and do nothing
    prune
        delete tasks that were applied before and are no longer there
    """
    common = common or Common()
    with common.client() as client:
        wanted = _in_order(_read(file, client.namespace))
        for task in wanted:
            say(f"{_apply_one(client, task, dry_run=dry_run)} {task['name']}")
        if prune:
            for name in _surplus(client, wanted):
                if not dry_run:
                    path, params = _address(name, client.namespace)
                    client.call("DELETE", path, params=params)
                say(f"deleted {name}")


def diff(*, file: _File, common: Common | None = None) -> int:
    """Show what `apply` would change: 0 where nothing, 1 where something."""
    common = common or Common()
    is_different = False
    with common.client() as client:
        for task in _in_order(_read(file, client.namespace)):
            stored = _stored(client, task)
            before = _text(_plain(stored)) if stored else []
            lines = difflib.unified_diff(
                before, _text(_plain(task)), f"server/{task['name']}", f"file/{task['name']}"
            )
            for line in lines:
                is_different = True
                sys.stdout.write(line)
    return int(is_different)


def export(*, common: Common | None = None) -> None:
    """Print all tasks as a file that `apply` takes."""
    common = common or Common()
    with common.client() as client:
        tasks = [_plain(task) for task in client.items("/tasks", namespace=common.namespace)]
    yaml.safe_dump({"tasks": tasks}, sys.stdout, sort_keys=False, allow_unicode=True)


def _apply_one(client: Client, task: dict[str, Any], *, dry_run: bool) -> str:
    marked = task | {"metadata": {**task.get("metadata", {}), **_MARK}}
    stored = _stored(client, task)
    if stored is None:
        if not dry_run:
            client.call("POST", "/tasks", body=marked)
        return "created"
    if _plain(stored) == _plain(task) and stored["metadata"].get("managed_by"):
        return "unchanged"
    if not dry_run:
        path, params = _address(task["name"], task["namespace"])
        match = {"If-Match": f'"{stored["version"]}"'}
        client.call("PUT", path, params=params, body=marked, headers=match)
    return "changed"


def _address(name: str, namespace: str) -> tuple[str, dict[str, str]]:
    return f"/tasks/{task_key(f'name:{name}')}", {"namespace": namespace}


def _stored(client: Client, task: dict[str, Any]) -> dict[str, Any] | None:
    path, params = _address(task["name"], task["namespace"])
    try:
        found: dict[str, Any] = client.call("GET", path, params=params)
    except ServerError as error:
        if error.status == 404:
            return None
        raise
    return found


def _surplus(client: Client, wanted: list[dict[str, Any]]) -> list[str]:
    kept = {(task["namespace"], task["name"]) for task in wanted}
    return [
        task["name"]
        for task in client.items("/tasks", namespace=client.namespace)
        if task["metadata"].get("managed_by") == _MARK["managed_by"]
        and (task["namespace"], task["name"]) not in kept
    ]


def _plain(task: dict[str, Any]) -> dict[str, Any]:
    """What a task says beyond its defaults, and nothing that only the server says."""
    said = {name: value for name, value in task.items() if name not in _READ_ONLY | {"status"}}
    said["metadata"] = {k: v for k, v in (said.get("metadata") or {}).items() if k not in _MARK}
    said.setdefault("task_type", said.get("executor"))
    definition = msgspec.convert(said, TaskDefinition)
    plain: dict[str, Any] = msgspec.to_builtins(definition)
    plain.pop("task_type", None)
    if task.get("status", "active") != "active":
        plain["status"] = task["status"]
    return plain


def _text(plain: dict[str, Any]) -> list[str]:
    return yaml.safe_dump(plain, sort_keys=True, allow_unicode=True).splitlines(keepends=True)


def _read(path: Path, namespace: str) -> list[dict[str, Any]]:
    files = sorted(_files_of(path))
    if not files:
        raise InvalidInput(f"no .yaml, .yml or .json file in {path}")
    tasks = [task for file in files for task in _tasks_of(file, namespace)]
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
    try:
        if file.stat().st_size > _MANY:
            raise InvalidInput(f"{file} is larger than {_MANY} bytes")
        documents = [each for each in yaml.safe_load_all(file.read_text()) if each is not None]
    except OSError as error:
        raise InvalidInput(f"cannot read {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} is not YAML: {error}") from error
    for document in documents:
        listed = document.get("tasks", [document]) if isinstance(document, dict) else document
        if not isinstance(listed, list):
            raise InvalidInput(f"{file}: `tasks` must be a list")
        for index, task in enumerate(listed):
            yield _checked(file, index, task, namespace)


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
    for name in ("start_at", "end_at"):
        if isinstance(fields.get(name), datetime):  # YAML reads instants by itself
            fields[name] = fields[name].astimezone().isoformat()
    try:
        _plain(fields)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{file}: task {task['name']!r}: {error}") from error
    return fields


def _in_order(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Upstream tasks first, so that each finds what it depends on."""
    by_name = {task["name"]: task for task in tasks}
    graph = {
        name: {
            str(each.get("task", "")).removeprefix("name:")
            for each in task.get("dependencies") or []
        }
        & by_name.keys()
        for name, task in by_name.items()
    }
    try:
        return [by_name[name] for name in TopologicalSorter(graph).static_order()]
    except CycleError as error:
        raise InvalidInput(f"tasks depend on each other: {' → '.join(error.args[1])}") from error
