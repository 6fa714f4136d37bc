"""Where a server's programs come from: this machine, or an image of a container engine."""

import itertools
import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

_UNPRIVILEGED = "nobody"
_ENGINES = ("podman", "docker")
_ENGINE_PATIENCE_SECONDS = 10

_numbers = itertools.count(1)


class ServiceMissing(Exception):
    """A server can be run neither from this machine nor in a container; says why."""


@dataclass(frozen=True)
class Command:
    """What a keeper runs. `user` is the user and group where they are not this process's own.

    `outside` has the commands that `freeze`, `thaw` and `kill` what an engine runs.
    """

    argv: list[str]
    environment: dict[str, str]
    user: tuple[int, int] | None = None
    outside: dict[str, list[str]] = field(default_factory=dict)


class Programs(Protocol):
    """A place that has the programs of one server."""

    def command(
        self, program: str, arguments: Sequence[str], directory: Path, environment: dict[str, str]
    ) -> Command:
        """How to run one of them, with `directory` as all that it may write to."""


def find_programs(program: str, folders: Sequence[str], image: str) -> Programs:
    """Where `program` and those beside it are.

    In `folders` (patterns; of several matches the highest version) or on the PATH; else in `image`
    where an engine runs. Raises ServiceMissing.
    """
    for pattern in folders:
        found = [each for each in Path("/").glob(pattern.lstrip("/")) if (each / program).exists()]
        if found:
            return OnMachine(max(found, key=_version_in))
    if on_path := shutil.which(program):
        return OnMachine(Path(on_path).parent)
    if engine := _running_engine():
        return InContainer(engine, image)
    raise ServiceMissing(
        f"{program} is neither on this machine nor is there a container engine to run it; "
        "`make servers` installs it where it can"
    )


def _version_in(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in folder.parts if part.isdecimal())


def _running_engine() -> str | None:
    for name in _ENGINES:
        engine = shutil.which(name)
        if engine is None:
            continue
        try:
            asked = subprocess.run(
                [engine, "info"],
                check=False,
                capture_output=True,
                timeout=_ENGINE_PATIENCE_SECONDS,
            )
        except subprocess.TimeoutExpired:
            continue
        if asked.returncode == 0:
            return engine
    return None


@dataclass(frozen=True)
class OnMachine:
    """Programs in a folder of this machine. PostgreSQL refuses to be root, so none of them is."""

    folder: Path

    def command(
        self, program: str, arguments: Sequence[str], directory: Path, environment: dict[str, str]
    ) -> Command:
        return Command(
            [str(self.folder / program), *arguments],
            {"PATH": f"{self.folder}:/usr/local/bin:/usr/bin:/bin", **environment},
            unprivileged_user(),
        )


@dataclass(frozen=True)
class InContainer:
    """Programs of an image, on the machine's own network and with its paths."""

    engine: str
    image: str

    def command(
        self, program: str, arguments: Sequence[str], directory: Path, environment: dict[str, str]
    ) -> Command:
        name = f"tidemill-{os.getpid()}-{next(_numbers)}"
        user, group = unprivileged_user() or (os.getuid(), os.getgid())
        variables = [f"--env={key}={value}" for key, value in environment.items()]
        return Command(
            [
                self.engine, "run", "--rm", "--interactive", f"--name={name}", "--network=host",
                f"--user={user}:{group}", f"--volume={directory}:{directory}",
                "--volume=/etc/passwd:/etc/passwd:ro", f"--entrypoint={program}", *variables,
                self.image, *arguments,
            ],
            dict(os.environ),
            outside={
                "freeze": [self.engine, "pause", name],
                "thaw": [self.engine, "unpause", name],
                "kill": [self.engine, "rm", "--force", name],
            },
        )  # fmt: skip


def unprivileged_user() -> tuple[int, int] | None:
    """Whose the server's processes and files are when this process is root's; else None."""
    if os.geteuid() != 0:
        return None
    found = pwd.getpwnam(_UNPRIVILEGED)
    return found.pw_uid, found.pw_gid
