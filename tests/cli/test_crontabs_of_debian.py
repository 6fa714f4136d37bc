"""The crontabs that Debian's packages ship, and those of its manuals, taken over line by line.

They are fetched from the distribution while the test runs; nothing of them is kept.
"""

import gzip
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.oracle import next_fires

from tidemill.domain.cron_fields import NICKNAMES
from tidemill.domain.crontab import CrontabLine, parse_crontab
from tidemill.domain.schedule import ScheduleSpec, compile_schedule

pytestmark = pytest.mark.slow

PACKAGES = (
    "amavisd-new", "anacron", "atop", "awstats", "certbot", "cron", "cron-daemon-common",
    "dirvish", "dma", "e2fsprogs", "leafnode", "logcheck", "mailman3", "mdadm", "munin",
    "munin-node", "ntpsec", "ntpsec-ntpviz", "php-common", "rsnapshot", "sysstat",
    "systemd-cron", "tiger",
)  # fmt: skip
ZONES = ("UTC", "Europe/Berlin")
BEGINNINGS = (  # just before the clock of Berlin goes forward, and back
    datetime(2026, 3, 28, 12, tzinfo=UTC),
    datetime(2026, 10, 24, 12, tzinfo=UTC),
)
FATES = {"blank", "comment", "setting", "task", "refused"}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the packages, below a directory."""
    place = tmp_path_factory.mktemp("debian")
    try:
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise LookupError("this is no Debian: there is no apt-get")
        fetch(place)
    except LookupError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
    for package in place.glob("*.deb"):
        call("dpkg-deb", "-x", str(package), str(place / "root"))
    return place / "root"


def fetch(place: Path) -> None:
    """Download the packages; the lists that say where they are may be missing or old."""
    download = ("apt-get", "download", "-qq", *PACKAGES)
    try:
        call(*download, directory=place)
    except LookupError:
        call("apt-get", "update", "-qq")
        call(*download, directory=place)


def call(*command: str, directory: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory)
    if done.returncode and command[0] == "apt-get":
        raise LookupError(f"{' '.join(command[:2])}: {done.stderr.strip()}")
    return done.stdout


def system_crontabs(root: Path) -> list[Path]:
    """Files whose entries name a user."""
    found = [*root.glob("etc/cron.d/*"), root / "etc" / "crontab"]
    return sorted(path for path in found if not path.name.startswith("."))


def read(path: Path) -> list[CrontabLine]:
    text = path.read_text()
    lines = list(parse_crontab(text, name=path.name, timezone="UTC", has_users=True))
    assert [line.text for line in lines] == text.removesuffix("\n").split("\n"), path
    return lines


def entries(root: Path) -> Iterator[CrontabLine]:
    """Every entry: of crontabs, of examples in their comments, of manuals and documentation."""
    for path in system_crontabs(root):
        for line in read(path):
            yield line
            if line.fate == "comment":
                yield from examples(line.text.strip("# \t"), has_users=True)
    for page in sorted(root.glob("usr/share/man/man5/crontab*.gz")):
        source = gzip.decompress(page.read_bytes()).decode()
        yield from examples(re.sub(r"\\(.)", r"\1", source), has_users=False)
    for path in sorted(root.glob("usr/share/doc/*/examples/crontab")):
        yield from examples(path.read_text(), has_users=False)


def examples(text: str, *, has_users: bool) -> Iterator[CrontabLine]:
    lines = parse_crontab(text, name="example", timezone="UTC", has_users=has_users)
    yield from (line for line in lines if line.fate == "task")


def test_every_line_is_accounted_for_and_only_what_has_no_time_is_refused(unpacked: Path) -> None:
    crontabs = {path.name: read(path) for path in system_crontabs(unpacked)}
    lines = [line for read in crontabs.values() for line in read]

    assert len(crontabs) >= 20
    assert {line.fate for line in lines} <= FATES
    refused = [line for line in lines if line.fate == "refused"]
    assert all(line.text.startswith("@reboot") for line in refused), refused
    assert all((line.reason or "").startswith("@reboot is no time") for line in refused)


def test_commands_are_what_stands_behind_the_user(unpacked: Path) -> None:
    plain = [
        line
        for path in system_crontabs(unpacked)
        for line in read(path)
        if line.task is not None and "%" not in line.text
    ]

    assert len(plain) >= 25
    for line in plain:
        assert line.task is not None
        fields = 2 if line.text.startswith("@") else 6
        assert line.task["command"] == line.text.split(None, fields)[fields].strip()


def test_fire_times_equal_those_of_the_oracle(unpacked: Path) -> None:
    tasks = [line.task for line in entries(unpacked) if line.task is not None]
    schedules = {task["schedule"].lower() for task in tasks}

    assert len(tasks) >= 50
    assert len(schedules) >= 40
    for schedule in sorted(schedules):
        for zone in ZONES:
            for begin in BEGINNINGS:
                expected = next_fires(NICKNAMES.get(schedule, schedule), zone, begin, 20)
                spec = ScheduleSpec(schedule, zone, "run_after", "first", anchor_at=begin)
                far = begin + timedelta(days=366 * 25)
                found = compile_schedule(spec).fires_between(begin, far, 20)
                assert found == expected, (schedule, zone, begin)
