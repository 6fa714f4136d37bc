"""An environment for each peer, so that none of them is a dependency of this project."""

import os
import subprocess
import sys
from pathlib import Path

_INSTALLS_WITHIN_SECONDS = 900


class Missing(Exception):
    """A peer cannot be installed or run; says why."""


def interpreter_with(name: str, packages: tuple[str, ...]) -> Path:
    """The Python of an environment below the user's cache that has these packages.

    It is made when it is first asked for. Raises Missing.
    """
    home = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidemill-peers" / name
    )
    python, stamp = home / "bin" / "python", home / "has"
    wanted = "\n".join(packages)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    try:
        for command in (
            [sys.executable, "-m", "venv", str(home)],
            [str(python), "-m", "pip", "install", "--quiet", *packages],
        ):
            subprocess.run(
                command, check=True, capture_output=True, text=True,
                timeout=_INSTALLS_WITHIN_SECONDS,
            )  # fmt: skip
    except subprocess.CalledProcessError as error:
        raise Missing(f"not installed: {_last_line(error.stderr)}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"not installed: {error}") from error
    stamp.write_text(wanted)
    return python


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "no reason was given"
