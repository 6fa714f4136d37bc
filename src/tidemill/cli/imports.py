"""`tidemill import …`."""

import getpass
import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tidemill.cli.output import Common, Flag, say, show_many
from tidemill.client.client import Client
from tidemill.client.errors import ServerError
from tidemill.domain.crontab import CrontabLine, parse_crontab
from tidemill.errors import InvalidInput

_COLUMNS = ("line", "fate", "task", "schedule", "reason")


def crontab(
    file: Path,
    /,
    *,
    tz: str | None = None,
    has_users: Annotated[bool | None, Parameter(negative="--no-users", name="--users")] = None,
    run_as: str | None = None,
    name: str | None = None,
    dry_run: Flag = False,
    common: Common | None = None,
) -> None:
    """Import a crontab: each entry becomes a paused task, or is refused with a reason.

    Parameters
    ----------
    tz
        the zone of its times (default: this machine's)
    has_users
        a user stands before each command (default: as the path says: /etc/crontab, /etc/cron.d)
    run_as
        the user the worker runs as; entries of others are refused (default: you)
    name
        begins the names of the tasks (default: the file's)
    dry_run
        show what would become of each line and change nothing
    """
    common = common or Common()
    lines = list(
        parse_crontab(
            _read(file),
            name=name or file.stem.lstrip(".") or "crontab",
            timezone=tz or local_zone(),
            has_users=_is_system(file) if has_users is None else has_users,
            run_as=run_as or getpass.getuser(),
        )
    )
    with common.client() as client:
        rows = [_row(line, client, dry_run=dry_run) for line in lines]
    shown = [row for row in rows if row["fate"] not in {"blank", "comment", "setting"}]
    show_many(shown, common.output, _COLUMNS)
    counts = {fate: sum(row["fate"] == fate for row in rows) for fate in _FATES}
    said = ", ".join(f"{count} {fate}" for fate, count in counts.items() if count)
    say(f"{len(rows)} lines: {said}; imported tasks are paused: tidemill task resume NAME")


_FATES = ("imported", "exists", "refused", "setting", "comment", "blank")


def _row(line: CrontabLine, client: Client, *, dry_run: bool) -> dict[str, object]:
    fate, reason = line.fate, line.reason
    shown_fate: str = fate
    if line.task is not None:
        shown_fate = "imported"
        if not dry_run:
            shown_fate, reason = _create(client, line.task)
    task = line.task or {}
    return {
        "line": line.number,
        "fate": shown_fate,
        "task": task.get("name"),
        "schedule": task.get("schedule"),
        "reason": reason,
        "text": line.text,
    }


def _create(client: Client, task: dict[str, object]) -> tuple[str, str | None]:
    try:
        client.call("POST", "/tasks", body=task | {"namespace": client.namespace})
    except ServerError as error:
        return ("exists" if error.status == 409 else "refused"), str(error)
    return "imported", None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InvalidInput(f"cannot read {file}: {error.strerror}") from error


def _is_system(file: Path) -> bool:
    path = file.absolute()
    return path == Path("/etc/crontab") or path.parent.name == "cron.d"


def local_zone() -> str:
    """The IANA name of this machine's zone, or UTC where it does not say."""
    if named := os.environ.get("TZ", "").removeprefix(":"):
        return named
    _, _, name = os.path.realpath("/etc/localtime").partition("/zoneinfo/")
    return name if name and name != "Etc/UTC" else "UTC"
