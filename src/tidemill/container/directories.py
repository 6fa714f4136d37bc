"""The directories of a process; nobody else on the machine may look into them."""

from pathlib import Path

from tidemill.errors import InvalidSettings, Problem


def make_directory(directory: Path) -> None:
    """Make it where it is not there yet; raises InvalidSettings."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        said = f"cannot use {directory}: {_said(error)}"
        raise InvalidSettings([Problem("data_dir", said)]) from error


def _said(error: OSError) -> str:
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "it is no directory"
    return error.strerror or str(error)
