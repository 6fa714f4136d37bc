"""The test's end of a keeper: processes that are started, stopped still, and killed as one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tidemill.testing.server import StartFailed
from tidemill.testing.services.programs import Command
from tidemill.worker.executors.process_tree import descendants_of

_TOLD_LINES = 20  # of the log, when something fails


class KeptProcesses:
    """Processes with `directory` as their place; gone with it on `close`, or with this process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._asking = threading.Lock()
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "tidemill.testing.services.keeper", str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def pids(self) -> list[int]:
        """Every process that is there now; in a container, those of the engine's client."""
        return descendants_of(self._keeper.pid)

    @property
    def log(self) -> str:
        """All that they wrote."""
        return (self.directory / "log").read_text(errors="replace")

    def run(self, command: Command, until: str | None = None) -> None:
        """Start a process.

        Returns at the first line of its output that is like `until`; without `until`, when it has
        ended with exit code 0. Raises StartFailed where it ends otherwise.
        """
        answer = self._ask(
            "run",
            argv=command.argv,
            environment=command.environment,
            user=command.user,
            until=until,
            outside=command.outside,
        )
        if "said" in answer or (until is None and answer.get("ended") == 0):
            return
        why = answer.get("refused") or f"exit code {answer['ended']}"
        told = "\n".join(self.log.splitlines()[-_TOLD_LINES:])
        raise StartFailed(f"{command.argv[0]}: {why}\n{told}")

    def tell(self, text: str, until: str) -> str:
        """Write to the stdin of what was run; the first line after it that is like `until`."""
        answer = self._ask("tell", text=text, until=until)
        if "said" not in answer:
            raise StartFailed(f"it ended with exit code {answer['ended']}")
        return str(answer["said"])

    def stop(self, number: signal.Signals) -> None:
        """Send a signal to what was run; returns when it and all it started are gone."""
        self._ask("stop", number=number)

    def freeze(self) -> None:
        """SIGSTOP; returns when every process stands still."""
        self._ask("freeze")

    def thaw(self) -> None:
        """SIGCONT."""
        self._ask("thaw")

    def kill(self) -> None:
        """SIGKILL for all at once; returns when all are gone."""
        self._ask("end")

    def close(self) -> None:
        """Kill what is left, and remove the directory."""
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._keeper.stdin.close()
        self._keeper.wait()
        self._keeper.stdout.close()

    def _ask(self, verb: str, **arguments: Any) -> Mapping[str, Any]:
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        with self._asking:
            self._keeper.stdin.write(json.dumps({"verb": verb, **arguments}) + os.linesep)
            self._keeper.stdin.flush()
            answer = self._keeper.stdout.readline()
        if not answer:
            raise StartFailed(f"the keeper of {self.directory} died")
        found: Mapping[str, Any] = json.loads(answer)
        return found
