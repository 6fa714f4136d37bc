"""A script of `scripts/` in a peer's environment: a line in is an order, a line out its answer."""

import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from benchmarks.peers.environments import Missing

_SCRIPTS = Path(__file__).parent / "scripts"
_ANSWERS_WITHIN_SECONDS = 900.0  # some need more than a second for each edge
_ENDS_WITHIN_SECONDS = 10.0


class ScriptProcess:
    """One that said that it is ready, in a session of its own with all that it starts."""

    def __init__(
        self, python: Path, script: str, log: Path, environment: Mapping[str, str]
    ) -> None:
        """Raises Missing where it cannot be started."""
        self._log = log
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TIDEMILL_")}
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [str(python), str(_SCRIPTS / f"{script}.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                cwd=log.parent,
                env={**inherited, "PYTHONPATH": str(_SCRIPTS), **environment},
                start_new_session=True,
            )
        try:
            self._wait_for("ready")
        except Missing:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the script itself; what it started is below it."""
        return self._process.pid

    def ask(self, order: str) -> str:
        """What it answers when it has done that; empty where it only says that it has.

        Raises Missing where it ended instead.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{order}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Missing(f"ended by itself: {self._last_words()}") from None
        return self._wait_for("done")

    def close(self) -> None:
        """End it, and all that it started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(_ENDS_WITHIN_SECONDS)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def _wait_for(self, word: str) -> str:
        assert self._process.stdout is not None
        timer = threading.Timer(_ANSWERS_WITHIN_SECONDS, self._process.kill)
        timer.start()
        try:
            for line in self._process.stdout:
                said, _, answer = line.strip().partition(" ")
                if said == word:
                    return answer
        finally:
            timer.cancel()
        raise Missing(f"ended, or said nothing for too long: {self._last_words()}")

    def _last_words(self) -> str:
        return self._log.read_text().strip()[-500:]
