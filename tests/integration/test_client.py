"""The client where answers get lost."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tidemill.client import client as client_module
from tidemill.client.client import Client
from tidemill.client.errors import ServerError

UNDER_WAY = (409, {"code": "idempotency_key_in_use", "detail": "under way"})
DONE = (201, {"id": 7})


class Script:
    """What a server answers to one POST after the other; None cuts the connection."""

    def __init__(self, *answers: tuple[int, dict[str, object]] | None) -> None:
        self.answers = list(answers)
        self.keys: list[str | None] = []


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def client(script: Script) -> Iterator[Client]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            script.keys.append(self.headers["Idempotency-Key"])
            answer = script.answers.pop(0)
            if answer is None:
                self.close_connection = True
                return
            status, body = answer
            sent = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        with Client(f"http://127.0.0.1:{server.server_port}") as client:
            yield client
        server.shutdown()
        thread.join()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client waited; it does not."""
    waited: list[float] = []
    monkeypatch.setattr(client_module.time, "sleep", waited.append)
    return waited


def test_a_call_whose_answer_was_lost_while_it_is_carried_out_is_asked_for_again(
    script: Script, client: Client, pauses: list[float]
) -> None:
    script.answers = [None, *[UNDER_WAY] * 5, DONE]

    assert client.call("POST", "/tasks", body={}) == {"id": 7}
    assert len(set(script.keys)) == 1
    assert len(pauses) == 5


def test_a_call_that_stays_under_way_is_told_to_whoever_made_it(
    script: Script, client: Client, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_ASKS", 1)
    script.answers = [None, UNDER_WAY, UNDER_WAY]
    with pytest.raises(ServerError) as told:
        client.call("POST", "/tasks", body={})

    assert told.value.status == 409
    assert script.answers == []


def test_another_call_with_the_same_key_is_not_waited_for(
    script: Script, client: Client, pauses: list[float]
) -> None:
    script.answers = [UNDER_WAY]
    with pytest.raises(ServerError):
        client.call("POST", "/tasks", body={}, headers={"Idempotency-Key": "another's"})

    assert pauses == []
