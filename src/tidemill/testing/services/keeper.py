"""Runs a server's processes for a test, and lets none of them outlive it.

    test ── keeper ── the server's main process ── …

The keeper adopts whatever detaches itself. When its stdin closes, however the test ended, it kills
them all and removes their directory. It is asked by `kept_processes.py`.

Started as `python -m tidemill.testing.services.keeper DIRECTORY`. A line of JSON in is a request, a
line of JSON out its answer; one at a time. What the processes write goes to `DIRECTORY/log`.
"""

import contextlib
import ctypes
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from tidemill.worker.executors.process_tree import (
    become_subreaper,
    children_of,
    descendants_of,
    signal_all,
)

_PR_SET_PDEATHSIG = 1
_LOOK_SECONDS = 0.001  # between looks at processes that were told to stand still


def main() -> None:
    """Serve until the test hangs up."""
    become_subreaper()
    directory = Path(sys.argv[1])
    with (directory / "log").open("ab", buffering=0) as log:
        keeper = _Keeper(log)
        try:
            keeper.serve()
        finally:
            keeper.kill()
            shutil.rmtree(directory, ignore_errors=True)


class _Keeper:
    def __init__(self, log: IO[bytes]) -> None:
        self._log = log
        self._selector = selectors.DefaultSelector()
        self._selector.register(sys.stdin.buffer, selectors.EVENT_READ, self._heed)
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(woken, selectors.EVENT_READ, lambda: self._bury_orphans(woken))
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._requests = b""
        self._is_done = False
        self._process: subprocess.Popen[bytes] | None = None
        self._outside: dict[str, list[str]] = {}
        self._line = b""  # of its output, up to now
        self._until: re.Pattern[str] | None = None  # the line that answers the request
        self._answers_its_end = False

    def serve(self) -> None:
        while not self._is_done:
            key, _ = self._selector.select()[0]  # what it does may be the end of the others
            key.data()

    def _bury_orphans(self, woken: int) -> None:
        os.read(woken, 4096)
        for pid in children_of(os.getpid()):
            if self._process is None or pid != self._process.pid:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def _heed(self) -> None:
        data = os.read(0, 65_536)
        if not data:
            self._is_done = True
        *lines, self._requests = (self._requests + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            getattr(self, request.pop("verb"))(**request)

    # Each of these is a request.

    def run(
        self,
        argv: list[str],
        environment: dict[str, str],
        user: list[int] | None,
        until: str | None,
        outside: dict[str, list[str]],
    ) -> None:
        """Start a process; answered by the first line of its output like `until`, or by its end."""
        as_user: dict[str, Any] = {}
        if user is not None:
            as_user = {"user": user[0], "group": user[1], "extra_groups": []}
        try:
            process = subprocess.Popen(
                argv,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_the_keeper,  # noqa: PLW1509  one thread
                cwd="/",
                **as_user,
            )
        except OSError as error:
            self._answer(refused=str(error))
            return
        assert process.stdout is not None
        self._process, self._outside = process, outside
        self._until = None if until is None else re.compile(until)
        self._answers_its_end = True
        self._line = b""
        self._selector.register(
            process.stdout, selectors.EVENT_READ, lambda: self._hear_output(process)
        )
        end = os.pidfd_open(process.pid)
        self._selector.register(end, selectors.EVENT_READ, lambda: self._hear_end(process, end))

    def tell(self, text: str, until: str) -> None:
        """Write to its stdin; answered by the first line that is like `until`, or by its end."""
        if self._process is None:
            self._answer(ended=None)
            return
        assert self._process.stdin is not None
        self._until, self._answers_its_end = re.compile(until), True
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(text.encode())
            self._process.stdin.flush()

    def stop(self, number: int) -> None:
        """Ask the process to end; answered when it did, and all that it left behind."""
        self._thaw()
        if self._process is None:
            self._answer(ended=None)
            return
        self._until, self._answers_its_end = None, True
        self._process.send_signal(number)

    def freeze(self) -> None:
        """Answered when every process stands still."""
        self._call_outside("freeze")
        _freeze(os.getpid())
        self._answer()

    def thaw(self) -> None:
        """The processes go on."""
        self._thaw()
        self._answer()

    def end(self) -> None:
        """Kill them all; answered when all are gone."""
        self.kill()
        self._answer()

    def _thaw(self) -> None:
        signal_all(descendants_of(os.getpid()), signal.SIGCONT)
        self._call_outside("thaw")

    def _hear_output(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        data = os.read(process.stdout.fileno(), 65_536)
        if not data:
            self._selector.unregister(process.stdout)
            process.stdout.close()
        self._log.write(data)
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace")
            if self._until is not None and self._until.search(text):
                self._until, self._answers_its_end = None, False
                self._answer(said=text)

    def _hear_end(self, process: "subprocess.Popen[bytes]", end: int) -> None:
        self._selector.unregister(end)
        os.close(end)
        code = process.wait()
        if self._process is process:
            self.kill()
            if self._answers_its_end:
                self._answers_its_end = False
                self._answer(ended=code)

    def kill(self) -> None:
        """All stand still first, so that none acts on another's end: as when power fails."""
        self._call_outside("kill")
        _freeze(os.getpid())
        signal_all(descendants_of(os.getpid()), signal.SIGKILL)
        process, self._process, self._outside = self._process, None, {}
        if process is not None:
            process.wait()
        with contextlib.suppress(ChildProcessError):
            while True:  # orphans come to the keeper, so that the last child is the last of all
                os.waitpid(-1, 0)
        if process is not None:
            self._hang_up(process)

    def _hang_up(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        while not process.stdout.closed:  # what it wrote last
            self._hear_output(process)

    def _call_outside(self, verb: str) -> None:
        """Where a container engine runs the processes, they are not the keeper's own."""
        if argv := self._outside.get(verb):
            subprocess.run(
                argv, check=False, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
            )

    def _answer(self, **answer: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # the test died; the next read says so
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


def _die_with_the_keeper() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _freeze(root: int) -> None:
    """Return once every process below `root` stands still."""
    stopped: set[int] = set()
    while new := set(descendants_of(root)) - stopped:
        signal_all(list(new), signal.SIGSTOP)
        for pid in new:
            _until_so(lambda pid=pid: _stands_still(pid))  # type: ignore[misc]
        stopped |= new


def _stands_still(pid: int) -> bool:
    try:
        states = [
            stat.read_text(errors="replace").rpartition(")")[2].split()[0]
            for stat in Path(f"/proc/{pid}/task").glob("*/stat")
        ]
    except (FileNotFoundError, ProcessLookupError):
        return False  # a thread ended while it was looked at
    return set(states) <= set("TtZX")


def _until_so(is_so: Callable[[], bool]) -> None:
    while not is_so():
        time.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    main()
