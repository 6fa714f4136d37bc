"""What commands print: data on stdout, in the format that was asked for; messages on stderr."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from tidemill.client.client import Client

Format = Literal["table", "json", "jsonl", "yaml", "name"]
Flag = Annotated[bool, Parameter(show_default=False)]
Output = Annotated[Format, Parameter(name=["--output", "-o"], help="how to print")]


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """What every command that talks to a server takes."""

    server: Annotated[str | None, Parameter(name="--server", help="URL of the server")] = None
    output: Output = "table"
    namespace: Annotated[
        str | None, Parameter(name=["--namespace", "-n"], help="where names are looked up")
    ] = None

    def client(self) -> "Client":
        """A client of the server that is meant: by flag, environment, context, or this machine."""
        from tidemill.cli.contexts import check_url, current_server
        from tidemill.client.client import Client

        server = self.server or os.environ.get("TIDEMILL_SERVER") or current_server()
        namespace = self.namespace or os.environ.get("TIDEMILL_NAMESPACE") or "default"
        return Client(check_url(server) if server else None, namespace=namespace)


def say(message: str) -> None:
    """A message for people."""
    sys.stderr.write(f"{message}\n")


def show_many(items: Iterable[dict[str, Any]], format: Format, columns: Sequence[str]) -> None:
    """Print a list; `name` is the first column, which is what other commands take."""
    if format == "jsonl":
        for item in items:
            sys.stdout.write(json.dumps(item, ensure_ascii=False) + "\n")
        return
    listed = list(items)
    match format:
        case "json":
            _write_json(listed)
        case "yaml":
            _write_yaml(listed)
        case "name":
            sys.stdout.writelines(f"{item[columns[0]]}\n" for item in listed)
        case _:
            _write_table(listed, columns)


def show_one(item: dict[str, Any], format: Format, columns: Sequence[str] = ()) -> None:
    """Print one thing; as a table, a line per field."""
    match format:
        case "json":
            _write_json(item)
        case "jsonl":
            sys.stdout.write(json.dumps(item, ensure_ascii=False) + "\n")
        case "yaml":
            _write_yaml(item)
        case "name":
            name = columns[0] if columns else next(k for k in ("name", "id") if k in item)
            sys.stdout.write(f"{item[name]}\n")
        case _:
            shown = {name: item.get(name) for name in columns} if columns else item
            width = max(map(len, shown), default=0)
            sys.stdout.writelines(
                f"{name:<{width}}  {_cell(value)}\n" for name, value in shown.items()
            )


def _write_json(data: Any) -> None:
    json.dump(data, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def _write_yaml(data: Any) -> None:
    import yaml

    yaml.safe_dump(data, sys.stdout, sort_keys=False, allow_unicode=True)


def _write_table(items: list[dict[str, Any]], columns: Sequence[str]) -> None:
    rows = [[_cell(item.get(name)) for name in columns] for item in items]
    heads = [name.replace("_", " ").upper() for name in columns]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in [heads, *rows]:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    return str(value).replace("\n", "\\n")
