"""Whoever carries out a chain and a fan: this product, and its peers in processes of their own."""

import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from benchmarks.failover.stage import Stage
from benchmarks.peers.environments import Missing, interpreter_with
from tidemill.client.client import Client

_SCRIPTS = Path(__file__).parent / "scripts"
_ANSWERS_WITHIN_SECONDS = 900.0  # some need more than a second for each edge
_ENDS_WITHIN_SECONDS = 10.0


class Contender(Protocol):
    """Carries out a chain of so many edges, or one task before and one after so many."""

    def carry_out(self, kind: str, file: Path, number: int) -> None:
        """Return once all has ended; each task has appended its time to `file`. Raises Missing."""


class Tidemill:
    """This product: the tasks are defined once, each round is one flow run."""

    def __init__(self, stage: Stage, edges: int, width: int) -> None:
        self._client: Client = stage.client()
        self._files = {kind: stage.directory / f"times-of-{kind}" for kind in ("chain", "fan")}
        links = [(f"chain-{n}", [f"chain-{n - 1}"] if n else []) for n in range(edges + 1)]
        parts = [f"fan-{n}" for n in range(1, width + 1)]
        spread = [("fan-0", []), *((part, ["fan-0"]) for part in parts), ("fan-end", parts)]
        for name, upstream in [*links, *spread]:
            file = self._files[name.partition("-")[0]]
            self._client.call("POST", "/tasks", body={
                "name": name, "executor": "python", "command": "effects:stamp",
                "arguments": {"file": str(file)},
                "dependencies": [{"task": f"name:{each}"} for each in upstream],
            })  # fmt: skip

    def carry_out(self, kind: str, file: Path, number: int) -> None:
        run = self._client.trigger(f"{kind}-0")
        runs = self._client.call("GET", f"/flow-runs/{run['flow_run_id']}")["runs"]
        self._client.wait(runs[-1]["id"], timeout_seconds=_ANSWERS_WITHIN_SECONDS)
        self._files[kind].rename(file)

    def close(self) -> None:
        """Free the connections."""
        self._client.close()


class Peer(NamedTuple):
    """What a peer is made of, and what survives of its work when a machine is lost."""

    name: str
    script: str
    packages: tuple[str, ...]
    durability: str


class PeerProcess:
    """A script of `scripts/` in the peer's own environment; it is told line by line what to do."""

    def __init__(self, peer: Peer, environment: Mapping[str, str], directory: Path) -> None:
        """Raises Missing where it cannot be installed or started."""
        python = interpreter_with(peer.script, peer.packages)
        self._log = directory / f"{peer.name.replace(' ', '-')}.log"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TIDEMILL_")}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [str(python), str(_SCRIPTS / f"{peer.script}_peer.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=directory,
                env={**inherited, "PYTHONPATH": str(_SCRIPTS), **environment},
                start_new_session=True,
            )
        try:
            self._wait_for("ready")
        except Missing:
            self.close()
            raise

    def carry_out(self, kind: str, file: Path, number: int) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{kind} {file} {number}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Missing(f"ended by itself: {self._last_words()}") from None
        self._wait_for("done")

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

    def _wait_for(self, word: str) -> None:
        assert self._process.stdout is not None
        timer = threading.Timer(_ANSWERS_WITHIN_SECONDS, self._process.kill)
        timer.start()
        try:
            for line in self._process.stdout:
                if line.strip() == word:
                    return
        finally:
            timer.cancel()
        raise Missing(f"ended, or said nothing for too long: {self._last_words()}")

    def _last_words(self) -> str:
        return self._log.read_text().strip()[-500:]
