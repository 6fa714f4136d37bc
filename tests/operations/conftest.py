"""File systems of a test's own."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Mount = Callable[[str], Path]


@pytest.fixture
def as_root() -> None:
    """What follows may mount; elsewhere than in CI, only where the tests run as root."""
    if os.geteuid() != 0:
        reason = "only root mounts file systems"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def mount(tmp_path: Path, as_root: None) -> Iterator[Mount]:
    """Mounts a file system in memory with the options given; gone after the test."""
    mounted: list[Path] = []

    def mount_one(options: str) -> Path:
        directory = tmp_path / f"mounted-{len(mounted)}"
        directory.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
        subprocess.run(command, check=True)
        mounted.append(directory)
        return directory

    yield mount_one
    for directory in mounted:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
