"""A real `tidemill up` in a process of its own, for tests and benchmarks from outside."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tidemill.client.client import Client


class StartFailed(Exception):
    """The server ended before it was ready; says what it wrote."""


class Process:
    """`tidemill ARGUMENTS` in a process of its own, which says on stdout when it is ready.

    `environment` holds settings (`TIDEMILL_WORKER__PYTHON_PATHS`, …); those of the caller's own
    environment are left out, so that tests do not depend on the machine.
    """

    def __init__(
        self,
        log_file: Path,
        *arguments: str,
        environment: dict[str, str] | None = None,
        command: tuple[str, ...] = (sys.executable, "-m", "tidemill"),
    ) -> None:
        self._log_file = log_file
        self._arguments = arguments
        self._command = command
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TIDEMILL_")}
        self._environment = inherited | (environment or {})
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[str] | None = None
        self.greeting = ""

    @property
    def pid(self) -> int:
        """Its main process."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What it wrote to stderr since it was first started."""
        return self._log_file.read_text()

    @property
    def probes_url(self) -> str:
        """Where it is asked how it is; `observability.port` has to be set."""
        return self.greeting.split("; probes at ", 1)[1].rstrip()

    def start(self, command: tuple[str, ...] | None = None) -> Self:
        """Return once it says that it is ready; raises StartFailed.

        `command` starts it this time, in place of the one that it was made with.
        """
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        self._log = self._log_file.open("a")
        self._process = subprocess.Popen(
            [*(command or self._command), *self._arguments],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=self._environment,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.greeting = self._process.stdout.readline()
        if " ready" not in self.greeting:
            self._process.wait()
            raise StartFailed(f"exit code {self._end(signal.SIGTERM)}: {self.log}")
        return self

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone (what it contained may take a moment more)."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; its exit code once it has drained."""
        return self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: it stands still, and so does all that it would have done by the clock."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: it goes on where it was."""
        os.kill(self.pid, signal.SIGCONT)

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

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class Server(Process):
    """A server with its data in `data_dir`, on a free port unless `port` names one.

    It is `up`, or another role that has an API.
    """

    def __init__(
        self,
        data_dir: Path,
        *arguments: str,
        port: int = 0,
        serves: tuple[str, ...] = ("up",),
        environment: dict[str, str] | None = None,
        command: tuple[str, ...] = (sys.executable, "-m", "tidemill"),
    ) -> None:
        super().__init__(
            data_dir.parent / f"{data_dir.name}.log",
            *serves, "--data-dir", str(data_dir), "--port", str(port), *arguments,
            environment=environment,
            command=command,
        )  # fmt: skip
        self.data_dir = data_dir

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.greeting.split(" ready at ", 1)[1].split()[0]

    def client(self) -> Client:
        """A client of this server."""
        return Client(self.url)
