"""A real `tidemill up` in a process of its own, for tests and benchmarks from outside."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO

from tidemill.client.client import Client


class StartFailed(Exception):
    """The server ended before it was ready; says what it wrote."""


class Server:
    """One server with its data in `data_dir`, on a free port unless `port` names one.

    `environment` holds settings (`TIDEMILL_WORKER__PYTHON_PATHS`, …); those of the caller's own
    environment are left out, so that tests do not depend on the machine.
    """

    def __init__(
        self,
        data_dir: Path,
        *arguments: str,
        port: int = 0,
        environment: dict[str, str] | None = None,
        command: tuple[str, ...] = (sys.executable, "-m", "tidemill"),
    ) -> None:
        self.data_dir = data_dir
        self.url = ""
        self._arguments = ("--port", str(port), *arguments)
        self._command = command
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TIDEMILL_")}
        self._environment = inherited | (environment or {})
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[str] | None = None

    @property
    def pid(self) -> int:
        """The server's main process."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it wrote to stderr since it was first started."""
        return (self.data_dir.parent / f"{self.data_dir.name}.log").read_text()

    def start(self) -> "Server":
        """Return once it says that it is ready."""
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        self._log = (self.data_dir.parent / f"{self.data_dir.name}.log").open("a")
        self._process = subprocess.Popen(
            [*self._command, "up", "--data-dir", str(self.data_dir), *self._arguments],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=self._environment,
            start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if " ready at " not in line:
            self._process.wait()
            raise StartFailed(f"exit code {self._process.returncode}: {self.log}")
        self.url = line.split(" ready at ", 1)[1].split()[0]
        return self

    def client(self) -> Client:
        """A client of this server."""
        return Client(self.url)

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone (what it contained may take a moment more)."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; its exit code once it has drained."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        code = process.wait()
        assert process.stdout is not None
        process.stdout.close()
        assert self._log is not None
        self._log.close()
        return code

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
