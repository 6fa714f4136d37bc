"""One process at a time: a file that belongs to whoever holds it, until that process ends."""

import fcntl
from pathlib import Path
from typing import IO

from tidemill.errors import Unavailable


def lock_file(path: Path) -> IO[str]:
    """Hold `path` until it is closed, so that no two processes use what it stands for."""
    try:
        file = path.open("w")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Unavailable(f"another process uses {path.with_suffix('')}; stop it first") from None
    except OSError as error:
        raise Unavailable(f"cannot write to {path.parent}: {error.strerror}") from error
    return file
