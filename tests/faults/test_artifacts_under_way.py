"""A large result on its way from a worker elsewhere, while the worker or its network fails."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.remote_workers import LEASES, RemoteWorker, first_line, outcomes, start

from tidemill.client.client import Client
from tidemill.testing.faults import Fault, FaultyLink
from tidemill.testing.server import Server

pytestmark = pytest.mark.slow

BYTES = 4_000_000
PIECES = 16
ENOUGH = 40  # chunks on the link: some pieces, while all of them are more than a hundred
RETURNS = f"""
    echo here; [ $TIDEMILL_ATTEMPT -ge 2 ] || cat GATE
    (printf '"'; head -c {BYTES - 2} /dev/zero | tr '\\0' x; printf '"') > "$TIDEMILL_RESULT_FILE"
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "data"


@pytest.fixture(scope="module")
def server(data_dir: Path) -> Iterator[Server]:
    """A server without a worker of its own."""
    with Server(data_dir, "--workers", "0", environment=LEASES) as found:
        yield found


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with server.client() as found:
        yield found


@pytest.fixture
def link(server: Server) -> Iterator[FaultyLink]:
    """What is between the server and a worker."""
    port = urlsplit(server.url).port
    assert port is not None
    with FaultyLink("127.0.0.1", port) as found:
        yield found


def in_the_middle(client: Client, link: FaultyLink, place: str, gate: Path) -> dict[str, Any]:
    """A run whose worker, at this place behind the link, is sending its result now."""
    os.mkfifo(gate)
    run = start(client, place, command=RETURNS.replace("GATE", str(gate)))
    first_line(client, run)
    link.fault = Fault.DELAY
    begun = link.effects(Fault.DELAY)
    gate.write_text("go\n")
    link.wait_for(Fault.DELAY, begun + ENOUGH)
    return run


def kept(data_dir: Path, run: dict[str, Any]) -> dict[int, int]:
    """How many pieces there are of what each attempt returned, by its fence."""
    with closing(sqlite3.connect(data_dir / "tidemill.db")) as database:
        rows = database.execute(
            "SELECT fence, count(*) FROM artifact_chunks WHERE run_id = ? GROUP BY fence",
            (run["id"],),
        )
        return dict(rows.fetchall())


def test_a_result_arrives_whole_though_its_connection_is_cut_in_the_middle(
    client: Client, server: Server, link: FaultyLink, data_dir: Path, tmp_path: Path
) -> None:
    with RemoteWorker(link.through(server.url), tmp_path, "cut", place="cut"):
        run = in_the_middle(client, link, "cut", tmp_path / "gate")
        assert link.reset_connections() > 0
        at_the_cut = kept(data_dir, run)
        link.fault = None
        final = client.wait(run["id"], timeout_seconds=60)

    assert 0 < at_the_cut[final["fence"]] < PIECES
    assert (final["status"], final["attempt"]) == ("succeeded", 1)
    assert final["result"]["$artifact"]["bytes"] == BYTES
    assert b"".join(client.result(run["id"])) == b'"%b"' % (b"x" * (BYTES - 2))
    assert kept(data_dir, run) == {final["fence"]: PIECES}


def test_what_returned_is_run_again_when_its_worker_is_killed_while_it_sends(
    client: Client, server: Server, link: FaultyLink, data_dir: Path, tmp_path: Path
) -> None:
    killed = RemoteWorker(link.through(server.url), tmp_path, "killed", place="killed")
    killed.start()
    run = in_the_middle(client, link, "killed", tmp_path / "gate")
    killed.kill()
    with RemoteWorker(server.url, tmp_path, "heir", place="killed"):
        final = client.wait(run["id"], timeout_seconds=60)

    assert (final["status"], final["attempt"]) == ("succeeded", 2)
    assert outcomes(client, run) == ["lost", "succeeded"]
    assert final["result"]["$artifact"]["id"] == f"{run['id']}-{final['fence']}"
    assert b"".join(client.result(run["id"])) == b'"%b"' % (b"x" * (BYTES - 2))
    pieces = kept(data_dir, run)
    assert pieces.pop(final["fence"]) == PIECES
    [left] = pieces.values()
    assert 0 < left < PIECES
