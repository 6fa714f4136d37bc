"""Crontabs, as crontab(5) of Debian's cron describes them, turned into tasks line by line."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from tidemill.domain.schedule import ScheduleSpec, compile_schedule
from tidemill.errors import InvalidInput

Fate = Literal["blank", "comment", "setting", "task", "refused"]

_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)  # a cron expression counts from nowhere

_SETTING = re.compile(r"""^\s*("[^"]*"|'[^']*'|[A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*$""")
_WORD = re.compile(r"[^A-Za-z0-9._-]+")
_ZONES = {"CRON_TZ"}
_NOT_FOR_TASKS = {"MAILTO", "MAILFROM", "CONTENT_TYPE", "CONTENT_TRANSFER_ENCODING", "SHELL"}


class CrontabLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line and what became of it; `task` are the fields of a task, `reason` says why not."""

    number: int
    text: str
    fate: Fate
    task: dict[str, Any] | None = None
    reason: str | None = None


class _Settings(msgspec.Struct):
    environment: dict[str, str]
    timezone: str
    shell: str = "/bin/sh"
    directory: str | None = None


def parse_crontab(
    text: str,
    *,
    name: str,
    timezone: str,
    has_users: bool = False,
    run_as: str | None = None,
) -> Iterator[CrontabLine]:
    """Every line of a crontab, in order; none is left out.

    `name` begins the tasks' names; `has_users` says that a sixth field names a user, as in
    /etc/crontab; lines of another user than `run_as` are refused, where it is given.
    """
    settings = _Settings({}, timezone)
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped:
            yield CrontabLine(number=number, text=line, fate="blank")
        elif stripped.startswith("#"):
            yield CrontabLine(number=number, text=line, fate="comment")
        elif found := _SETTING.match(line):
            _set(settings, _unquoted(found[1]), _unquoted(found[2]))
            yield CrontabLine(number=number, text=line, fate="setting")
        else:
            yield _entry(number, line, name, settings, has_users=has_users, run_as=run_as)


def _set(settings: _Settings, name: str, value: str) -> None:
    if name == "SHELL":
        settings.shell = value
    elif name in _ZONES:
        settings.timezone = value
    elif name == "HOME":
        settings.directory = value
    if name not in _NOT_FOR_TASKS | _ZONES:
        settings.environment[name] = value


def _entry(
    number: int,
    line: str,
    name: str,
    settings: _Settings,
    *,
    has_users: bool,
    run_as: str | None,
) -> CrontabLine:
    def refused(reason: str) -> CrontabLine:
        return CrontabLine(number=number, text=line, fate="refused", reason=reason)

    words = 1 if line.lstrip().startswith("@") else 5
    fields = line.split(None, words + has_users)
    if len(fields) <= words + has_users:
        wanted = "a schedule, a user and a command" if has_users else "a schedule and a command"
        return refused(f"is no entry: it needs {wanted}")
    schedule = " ".join(fields[:words])
    user = fields[words] if has_users else None
    if user is not None and run_as is not None and user != run_as:
        return refused(f"runs as {user}; the worker runs as {run_as}")
    if schedule.lower() == "@reboot":
        return refused("@reboot is no time; start it with the machine's own service manager")
    try:
        compile_schedule(
            ScheduleSpec(schedule, settings.timezone, "run_after", "first", anchor_at=_ANY_TIME)
        )
    except InvalidInput as error:
        return refused(str(error))
    command, stdin = _command_of(fields[-1])
    task = _task(f"{name}-{number}-{_slug(command)}", schedule, command, stdin, settings)
    return CrontabLine(number=number, text=line, fate="task", task=task)


def _task(
    name: str, schedule: str, command: str, stdin: str | None, settings: _Settings
) -> dict[str, Any]:
    arguments: dict[str, Any] = {"shell": settings.shell}
    if settings.environment:
        arguments["environment"] = dict(settings.environment)
    if settings.directory is not None:
        arguments["working_directory"] = settings.directory
    if stdin is not None:
        arguments["stdin"] = stdin
    return {
        "name": name,
        "executor": "shell",
        "command": command,
        "arguments": arguments,
        "schedule": schedule,
        "timezone": settings.timezone,
        "overlap": "allow",  # as cron does
        "timeout_seconds": None,
        "status": "paused",
        "tags": ["crontab"],
    }


def _command_of(text: str) -> tuple[str, str | None]:
    """The command, and what stands behind the first bare percent sign: its standard input."""
    parts = [part.replace("\\%", "%") for part in re.split(r"(?<!\\)%", text.rstrip())]
    command, *lines = parts
    return command.strip(), "\n".join(lines) + "\n" if lines else None


def _slug(command: str) -> str:
    words = (word.rpartition("/")[2] for word in command.split())
    word = next((word for word in words if word[:1].isalpha() and "=" not in word), "command")
    return _WORD.sub("-", word).strip("-")[:60] or "command"


def _unquoted(text: str) -> str:
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if is_quoted else text
