"""For what leaves no record of a run that ended: each adds a byte to a file."""

import os
from pathlib import Path

_FILE = Path(f"{os.environ['PEER_FILE']}-count")
_descriptor = os.open(_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def count() -> None:
    """This run has ended."""
    os.write(_descriptor, b".")


def counted() -> int:
    """So many have."""
    return _FILE.stat().st_size
