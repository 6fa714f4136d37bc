"""The life of a server that a test starts: the same for each kind."""

import contextlib
import shutil
import signal
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tidemill.testing.server import StartFailed
from tidemill.testing.services.kept_processes import KeptProcesses
from tidemill.testing.services.ports import ReservedPort
from tidemill.testing.services.programs import Command, Programs, find_programs, unprivileged_user

_ANSWER_SECONDS = 60


class Service(ABC):
    """A real server on a port of its own, with its data in a temporary directory.

        with Postgres() as postgres:
            connect(postgres.url)

    Port, URL and data stay the same from the first `start` to `close`. Nothing of it outlives the
    process that made it, however that ends. Raises ServiceMissing where the server cannot be run on
    this machine, StartFailed where it does not start. Every call blocks until it is done.
    """

    name: ClassVar[str]
    program: ClassVar[str]
    folders: ClassVar[tuple[str, ...]]  # where the program is when it is not on the PATH
    image: ClassVar[str]  # of a container
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    hello: ClassVar[bytes]  # what a client says first
    answers: ClassVar[tuple[bytes, ...]]  # how the server's answer may begin

    def __init__(self) -> None:
        self.programs: Programs = find_programs(self.program, self.folders, self.image)
        self._port = ReservedPort()
        directory = Path(tempfile.mkdtemp(prefix=f"tidemill-{self.name}-"))
        if user := unprivileged_user():
            shutil.chown(directory, *user)
        self._processes = KeptProcesses(directory)

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        return self._port.number

    @property
    @abstractmethod
    def url(self) -> str:
        """As the product's settings spell it."""

    @abstractmethod
    def fresh(self) -> AbstractContextManager[str]:
        """The URL of a place of its own on this server: empty now, and gone afterwards.

        Where the server is down by then, the place is left behind, and given to nobody again.
        """

    @property
    def log(self) -> str:
        """All that it wrote since it was made."""
        return self._processes.log

    @property
    def pids(self) -> list[int]:
        """Its processes."""
        return self._processes.pids

    @property
    def is_running(self) -> bool:
        """Whether it has processes, paused ones included."""
        return bool(self.pids)

    @property
    def data(self) -> Path:
        """Where its data is."""
        return self._processes.directory / "data"

    def start(self) -> Self:
        """Return once it answers a client, on the port and with the data that it had."""
        if not self.data.exists():
            self._make_data()
        self._processes.run(*self._start())
        with self._connection() as connection:
            connection.sendall(self.hello)
            answer = connection.recv(64)
        if not answer.startswith(self.answers):
            raise StartFailed(f"{self.program} greets with {answer!r}")
        return self

    def stop(self) -> None:
        """Ask it to end; returns when it did."""
        self._processes.stop(self.stop_signal)

    def kill(self) -> None:
        """SIGKILL for all of its processes at one instant; returns when all are gone."""
        self._processes.kill()

    def restart(self) -> None:
        """Stop it and start it."""
        self.stop()
        self.start()

    def settle(self) -> None:  # noqa: B027  most servers have nothing to do
        """From here on `kill` loses nothing of what clients were told is done."""

    def pause(self) -> None:
        """SIGSTOP for all of its processes; returns when all stand still. Clients hang."""
        self._processes.freeze()

    def resume(self) -> None:
        """SIGCONT: it goes on where it was."""
        self._processes.thaw()

    def wipe(self) -> None:
        """It dies, loses all that it ever stored, and starts anew. `fresh` places are lost too."""
        self.kill()
        shutil.rmtree(self.data)
        self.start()

    def close(self) -> None:
        """Nothing is left: no process, no file, no port."""
        self._processes.close()
        self._port.close()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def _make_data(self) -> None:
        """Make an empty `data`."""

    @abstractmethod
    def _start(self) -> tuple[Command, str]:
        """What to run, and the line of its output (a pattern) that says that it is ready."""

    def _command(self, program: str, *arguments: str, **environment: str) -> Command:
        return self.programs.command(program, arguments, self._processes.directory, environment)

    def _make_directory(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        if user := unprivileged_user():
            shutil.chown(directory, *user)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), _ANSWER_SECONDS) as connection:
            yield connection
