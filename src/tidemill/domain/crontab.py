"""Crontabs, as crontab(5) of Debian's cron describes them, turned into tasks line by line."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

import msgspec

from tidemill.domain.cron_fields import NICKNAMES
from tidemill.domain.schedule import ScheduleSpec, compile_schedule
from tidemill.errors import InvalidInput

Fate = Literal["blank", "comment", "setting", "task", "refused"]

_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)  # a cron expression counts from nowhere

_SETTING = re.compile(r"""[ \t]*("[^"]*"|'[^']*'|[^\s="'*@]+)[ \t]*=[ \t]*(.*)""")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_PERCENT = re.compile(r"(\\.)|%", re.DOTALL)
_MAIL = {"MAILTO", "MAILFROM", "CONTENT_TYPE", "CONTENT_TRANSFER_ENCODING"}
_UNREADABLE = "\N{REPLACEMENT CHARACTER}"  # what decoding leaves of a byte that is no UTF-8


class CrontabLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line and what became of it; `task` are the fields of a task, `reason` says why not."""

    number: int = 0  # from 1
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

    `name` begins the tasks' names, which stay the same when other lines come or go; `has_users`
    says that a sixth field names a user, as in /etc/crontab; lines of another user than `run_as`
    are refused, where it is given.
    """
    prefix = _NOT_IN_NAMES.sub("-", name).strip("-.") or "crontab"
    settings = _Settings({}, timezone)
    named: Counter[str] = Counter()
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        read = _line(line.removesuffix("\r"), settings, has_users=has_users, run_as=run_as)
        if read.task is not None:
            read.task["name"] = f"{prefix}-{read.task['name']}"
            named[read.task["name"]] += 1
            if (count := named[read.task["name"]]) > 1:
                read.task["name"] += f"-{count}"
        yield msgspec.structs.replace(read, number=number)


def _line(line: str, settings: _Settings, *, has_users: bool, run_as: str | None) -> CrontabLine:
    stripped = line.strip(" \t")
    if not stripped:
        return CrontabLine(text=line, fate="blank")
    if stripped.startswith("#"):
        return CrontabLine(text=line, fate="comment")
    if _UNREADABLE in line:
        return _refused(line, "holds bytes that are not UTF-8")
    if found := _SETTING.fullmatch(stripped):
        return _setting(line, _unquoted(found[1]), _unquoted(found[2]), settings)
    return _entry(line, stripped, settings, has_users=has_users, run_as=run_as)


def _setting(line: str, name: str, value: str, settings: _Settings) -> CrontabLine:
    if not _VARIABLE.fullmatch(name):
        return _refused(line, f"{name!r} is no name of a variable")
    match name:
        case "CRON_TZ":
            settings.timezone = value
        case "SHELL":
            settings.shell = value
        case "HOME":
            settings.directory = value
    if name not in {*_MAIL, "CRON_TZ"}:
        settings.environment[name] = value
    return CrontabLine(text=line, fate="setting")


def _refused(line: str, reason: str) -> CrontabLine:
    return CrontabLine(text=line, fate="refused", reason=reason)


def _entry(
    line: str, entry: str, settings: _Settings, *, has_users: bool, run_as: str | None
) -> CrontabLine:
    refused = partial(_refused, line)
    words = 1 if entry.startswith("@") else 5
    fields = re.split(r"[ \t]+", entry, maxsplit=words + has_users)
    if len(fields) <= words + has_users:
        wanted = "a schedule, a user and a command" if has_users else "a schedule and a command"
        return refused(f"is no entry: it needs {wanted}")
    schedule = " ".join(fields[:words])
    user = fields[words] if has_users else None
    if user is not None and run_as is not None and user != run_as:
        return refused(f"runs as {user}; the worker runs as {run_as}")
    if schedule.lower() == "@reboot":
        return refused("@reboot is no time; start it with the machine's own service manager")
    if words == 1 and schedule.lower() not in NICKNAMES:
        return refused(f"{schedule} is no time of crontab's: {', '.join(NICKNAMES)}")
    try:
        compile_schedule(
            ScheduleSpec(schedule, settings.timezone, "run_after", "first", anchor_at=_ANY_TIME)
        )
    except InvalidInput as error:
        return refused(str(error))
    command, stdin = _command_of(fields[-1])
    if not command:
        return refused("has no command before the percent sign")
    return CrontabLine(text=line, fate="task", task=_task(schedule, command, stdin, settings))


def _task(schedule: str, command: str, stdin: str | None, settings: _Settings) -> dict[str, Any]:
    arguments: dict[str, Any] = {"shell": settings.shell}
    if settings.environment:
        arguments["environment"] = dict(settings.environment)
    if settings.directory is not None:
        arguments["working_directory"] = settings.directory
    if stdin is not None:
        arguments["stdin"] = stdin
    return {
        "name": _name_of(schedule, command, stdin),
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
    """The command, and its standard input: what stands behind the first bare percent sign.

    Further bare ones are line ends, and the last line is given one where it has none.
    """
    plain = _PERCENT.sub(_percent, text)
    command, sign, stdin = plain.partition("\n")
    if stdin and not stdin.endswith("\n"):
        stdin += "\n"
    return command.strip(" \t"), stdin if sign else None


def _percent(found: re.Match[str]) -> str:
    return {None: "\n", "\\%": "%"}.get(found[1], found[0])


def _name_of(schedule: str, command: str, stdin: str | None) -> str:
    """A word of the command, and a hash that tells it from others with this word."""
    words = (word.rpartition("/")[2] for word in command.split())
    word = next((word for word in words if word[:1].isalpha() and "=" not in word), "")
    slug = _NOT_IN_NAMES.sub("-", word).strip("-.")[:60] or "command"
    entry = "\n".join((schedule, command, stdin or ""))
    return f"{slug}-{hashlib.blake2b(entry.encode(), digest_size=3).hexdigest()}"


def _unquoted(text: str) -> str:
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if is_quoted else text
