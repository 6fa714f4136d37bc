"""Crontabs of odd shapes: every line is accounted for, and commands mean what cron made of them."""

from typing import Any

import pytest

from tidemill.domain.crontab import CrontabLine, parse_crontab


def read(text: str, **given: Any) -> list[CrontabLine]:
    return list(parse_crontab(text, **{"name": "tab", "timezone": "UTC", **given}))


def task_of(text: str, **given: Any) -> dict[str, Any]:
    """The one task that a crontab comes to."""
    [task] = [line.task for line in read(text, **given) if line.task is not None]
    return task


def test_every_line_has_a_fate_and_its_number() -> None:
    lines = read("# c\n\n \t\nSHELL=/bin/sh\n* * * * * true\n61 * * * * true\nnonsense\n  # c\n")

    assert [(line.number, line.fate) for line in lines] == [
        (1, "comment"), (2, "blank"), (3, "blank"), (4, "setting"), (5, "task"),
        (6, "refused"), (7, "refused"), (8, "comment"),
    ]  # fmt: skip
    assert all(line.reason for line in lines if line.fate == "refused")


def test_an_entry_becomes_a_paused_task_that_runs_as_cron_would() -> None:
    task = task_of("15 14 1 * * $HOME/bin/monthly --all")

    assert (task["schedule"], task["command"]) == ("15 14 1 * *", "$HOME/bin/monthly --all")
    assert (task["status"], task["overlap"], task["timeout_seconds"]) == ("paused", "allow", None)
    assert task["arguments"] == {"shell": "/bin/sh"}


@pytest.mark.parametrize(
    ("written", "command", "stdin"),
    [
        ("mail joe%Joe,%%Where are you?%", "mail joe", "Joe,\n\nWhere are you?\n"),
        ("cat%one", "cat", "one\n"),
        ("cat%", "cat", ""),
        (r"date +\%s", "date +%s", None),
        (r"date +\%H:\%M%in \% put", "date +%H:%M", "in % put\n"),
        (r"echo \\%two", r"echo \\", "two\n"),
        (r"echo \n", r"echo \n", None),
        ('echo "a  b"\t', 'echo "a  b"', None),
    ],
)
def test_percent_signs_are_line_ends_unless_escaped(
    written: str, command: str, stdin: str | None
) -> None:
    task = task_of(f"0 0 * * * {written}")

    assert task["command"] == command
    assert task["arguments"].get("stdin") == stdin


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("A=b", "A", "b"),
        ("  A  =  b c  ", "A", "b c"),
        ("A='b c '", "A", "b c "),
        ('"A" = "b=c"', "A", "b=c"),
        ("A=", "A", ""),
        ('A="b', "A", '"b'),
        ("A=b # no comment", "A", "b # no comment"),
        ("A=größe", "A", "größe"),
        ("TZ=Asia/Tokyo", "TZ", "Asia/Tokyo"),
    ],
)
def test_a_variable_is_set_for_the_entries_below_it(line: str, name: str, value: str) -> None:
    before, setting, after = read(f"@daily one\n{line}\n@daily two\n")

    assert setting.fate == "setting"
    assert before.task is not None
    assert after.task is not None
    assert "environment" not in before.task["arguments"]
    assert after.task["arguments"]["environment"] == {name: value}


def test_some_variables_steer_the_entries_below_them() -> None:
    task = task_of("SHELL=/bin/bash\nHOME=/srv\nCRON_TZ=Asia/Tokyo\nMAILTO=joe\n@daily one")

    assert task["timezone"] == "Asia/Tokyo"
    assert task["arguments"] == {
        "shell": "/bin/bash",
        "working_directory": "/srv",
        "environment": {"SHELL": "/bin/bash", "HOME": "/srv"},
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("@reboot start", "@reboot is no time"),
        ("@every 5m x", "@every is no time of crontab's"),
        ("@fortnightly x", "@fortnightly is no time"),
        ("* * * * *", "needs a schedule and a command"),
        ("* * * * * %input", "no command before the percent sign"),
        ("0 0 30 2 * x", "never fires"),
        ("* * * foo * x", "'FOO' in month"),
        ("1 2 3", "is no entry"),
        ("my-variable=1", "is no name of a variable"),
        ("0\N{NO-BREAK SPACE}0 * * * x", "is no entry"),
        ("0 0 * * * \N{REPLACEMENT CHARACTER}", "not UTF-8"),
    ],
)
def test_a_line_that_cannot_be_taken_over_is_refused_with_a_reason(line: str, reason: str) -> None:
    [refused] = read(line)

    assert refused.fate == "refused"
    assert reason in (refused.reason or "")


def test_an_unknown_zone_is_the_reason_of_each_entry_below_it() -> None:
    _, entry = read("CRON_TZ=Mars/Olympus\n@daily x")

    assert entry.fate == "refused"
    assert "Mars/Olympus" in (entry.reason or "")


@pytest.mark.parametrize(
    "line",
    ["5\t4  * \t* sun\tx", "  5 4 * * SUN x", "05 04 * * 7 x", "5 4 * * Sun x\r"],
)
def test_white_space_case_and_line_ends_do_not_matter(line: str) -> None:
    task = task_of(line)

    assert len(task["schedule"].split(" ")) == 5
    assert task["command"] == "x"


def test_a_range_may_run_over_the_end_of_the_field() -> None:
    assert task_of("0 22-2 * * fri-mon x")["schedule"] == "0 22-2 * * fri-mon"


def test_a_last_line_without_an_end_counts() -> None:
    assert [line.fate for line in read("@daily one\n@daily two")] == ["task", "task"]
    assert [line.fate for line in read("@daily one\n\N{LINE SEPARATOR}\x0b")][1:] == ["refused"]


def test_a_system_crontab_names_users() -> None:
    text = "17 * * * * root run-parts\n@daily\twww-data\tclean up\n* * * * * root\n"
    ours, theirs, short = read(text, has_users=True, run_as="www-data")
    anybody = read(text, has_users=True)

    assert ours.reason == "runs as root; the worker runs as www-data"
    assert theirs.task is not None
    assert theirs.task["command"] == "clean up"
    assert short.reason == "is no entry: it needs a schedule, a user and a command"
    assert [line.fate for line in anybody] == ["task", "task", "refused"]


def test_names_come_from_the_command_and_differ_between_entries() -> None:
    text = "0 1 * * * /usr/bin/backup.sh\n0 2 * * * backup.sh\n0 1 * * * /usr/bin/backup.sh\n"
    names = [line.task["name"] for line in read(text, name="my tab") if line.task]

    assert all(name.startswith("my-tab-backup.sh-") for name in names)
    assert names[2] == f"{names[0]}-2"
    assert len(set(names)) == 3


def test_a_name_stays_when_lines_are_put_before_it() -> None:
    alone = task_of("0 1 * * * backup.sh")["name"]
    below = [
        line.task["name"] for line in read("# new\n@daily x\n0 1 * * * backup.sh") if line.task
    ]

    assert below[1] == alone


@pytest.mark.parametrize("command", ["[ -x a ]", "été", "A=1 B=2", "\N{CHECK MARK}", "..."])
def test_a_command_without_a_plain_word_has_a_name_as_well(command: str) -> None:
    name = task_of(f"@daily {command}", name=".")["name"]

    assert name.startswith("crontab-")
    assert name.isascii()
    assert " " not in name
