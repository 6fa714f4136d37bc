"""Whoever carries out a chain and a fan: this product, and its peers in processes of their own."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from benchmarks.failover.stage import Stage
from benchmarks.peers.environments import interpreter_with
from benchmarks.peers.script_process import ScriptProcess
from tidemill.client.client import Client

_ANSWERS_WITHIN_SECONDS = 900.0


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
    """A peer in a process of its own, which is told line by line what to do."""

    def __init__(self, peer: Peer, environment: Mapping[str, str], directory: Path) -> None:
        """Raises Missing where it cannot be installed or started."""
        python = interpreter_with(peer.script, peer.packages)
        log = directory / f"{peer.name.replace(' ', '-')}.log"
        self._script = ScriptProcess(python, f"{peer.script}_peer", log, environment)

    def carry_out(self, kind: str, file: Path, number: int) -> None:
        self._script.ask(f"{kind} {file} {number}")

    def close(self) -> None:
        """End it, and all that it started."""
        self._script.close()
