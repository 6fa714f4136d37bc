"""Requests of HTTP tasks against servers that answer well, badly, or never."""

import asyncio
import contextlib
import gzip
import ipaddress
import json
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tidemill.domain.outcome import Outcome
from tidemill.foundation.executor import StopRequest
from tidemill.testing.builders import execution
from tidemill.testing.executors import CollectedReports
from tidemill.worker.executors.guarded_transport import GuardedTransport
from tidemill.worker.executors.http import HttpExecutor

MEBIBYTE = 1024 * 1024
CERTIFICATE = Path(__file__).with_name("self_signed.pem")  # with its key; for localhost


class Request(NamedTuple):
    method: str
    path: str
    headers: list[tuple[str, str]]  # names in lower case
    body: bytes

    def header(self, name: str) -> list[str]:
        return [value for found, value in self.headers if found == name]


Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Site:
    """A server that answers by path, byte for byte as a test says, and keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.port = 0
        self._answers: dict[str, Answer] = {}
        self._came = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self._server = await asyncio.start_server(self._accept, host, 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        for listening in self._server.sockets:
            asyncio.get_running_loop().remove_reader(listening)
        await asyncio.sleep(0)  # a connection accepted just now joins the server before it closes
        self._server.close()
        while self._tasks:
            for writer in self._writers:
                writer.transport.abort()
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def url(self, path: str = "/", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def answer(self, path: str, body: bytes = b"", *, status: int = 200, headers: str = "") -> str:
        """Answer `path` so, with CRLF-ended `headers`; its URL."""
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{headers}\r\n"

        async def send(writer: asyncio.StreamWriter) -> None:
            writer.write(head.encode() + body)

        return self.answer_by(path, send)

    def answer_by(self, path: str, answer: Answer) -> str:
        self._answers[path] = answer
        return self.url(path)

    async def asked(self) -> Request:
        """The latest request, once there is one."""
        await self._came.wait()
        return self.requests[-1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._server is not None
        if not self._server.is_serving():
            writer.transport.abort()
            return
        self.connections += 1
        self._writers.add(writer)
        task = asyncio.create_task(self._converse(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                request = await _read_request(reader)
                self.requests.append(request)
                self._came.set()
                await self._answers[request.path](writer)
                await writer.drain()
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()
        self._writers.discard(writer)


async def _read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("utf-8").split("\r\n")
    method, path, _ = head[0].split(" ")
    split = [line.partition(":") for line in head[1:] if line]
    headers = [(name.lower(), value.strip()) for name, _, value in split]
    length = int(dict(headers).get("content-length", "0"))
    return Request(method, path, headers, await reader.readexactly(length))


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    await site.start()
    yield site
    await site.close()


@pytest.fixture
async def http() -> AsyncIterator[HttpExecutor]:
    http = HttpExecutor()
    yield http
    await http.close()


async def ask(
    http: HttpExecutor, url: str, arguments: Any = None, **fields: Any
) -> tuple[Outcome, CollectedReports]:
    """Run one HTTP task to its end."""
    reports = CollectedReports()
    async with asyncio.timeout(60):
        outcome = await http.execute(execution(url, arguments, **fields), reports, StopRequest())
    return outcome, reports


async def test_an_answer_is_the_output_and_json_of_it_the_result(
    http: HttpExecutor, site: Site
) -> None:
    plain, said = await ask(http, site.answer("/plain", b"one\ntwo"))
    parsed, _ = await ask(
        http, site.answer("/json", b'{"a": [1]}', headers="Content-Type: application/json\r\n")
    )

    assert (plain.succeeded, plain.result) == (True, {"status": 200, "body": None})
    assert said.lines() == ["one", "two"]
    assert said.lines("log")[0].startswith(f"GET {site.url('/plain')} -> 200 in ")
    assert parsed.result == {"status": 200, "body": {"a": [1]}}


async def test_json_that_is_large_is_handed_on_beside_the_status(
    http: HttpExecutor, site: Site
) -> None:
    body = b'"' + b"x" * 300_000 + b'"'
    url = site.answer("/", body, headers="Content-Type: application/json\r\n")
    outcome, _ = await ask(http, url)

    assert outcome.result.beside == {"status": 200, "body": None}
    with outcome.result.content as content:
        whole = content.read()
    assert whole == b'{"status":200,"body":%b}' % body
    assert outcome.result.size == len(whole)


@pytest.mark.parametrize("body", [b"{", b"[" * 50_000, b"[" + b"1," * 200_000])
async def test_json_that_cannot_be_kept_is_no_body_of_the_result(
    http: HttpExecutor, site: Site, body: bytes
) -> None:
    url = site.answer("/", body, headers="Content-Type: application/json\r\n")
    outcome, _ = await ask(http, url)

    assert (outcome.succeeded, outcome.result) == (True, {"status": 200, "body": None})


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
async def test_a_request_has_the_method_of_its_task(
    http: HttpExecutor, site: Site, method: str
) -> None:
    outcome, _ = await ask(http, site.answer("/", b""), {"method": method})

    assert outcome.succeeded
    assert site.requests[0].method == method


async def test_a_request_carries_what_is_known_of_its_run(http: HttpExecutor, site: Site) -> None:
    await ask(
        http,
        site.answer("/"),
        {"headers": {"X-Mine": "grün", "tidemill-run-id": "forged"}},
        run_id=41,
        task_id=5,
        task_name=" nächtlich 夜 ",
        namespace="team",
        attempt=2,
        fence=9,
        parameters={"day": "Müll"},
        scheduled_for=datetime(2026, 3, 1, 2, 3, 4, 567_890, tzinfo=UTC),
        missed_count=3,
        shard_index=2,
        shard_total=8,
        flow_run_id="flow-1",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )

    [request] = site.requests
    told = {name: value for name, value in request.headers if name.startswith("tidemill-")}
    assert told == {
        "tidemill-run-id": "41",
        "tidemill-task-id": "5",
        "tidemill-task-name": "nächtlich 夜",
        "tidemill-namespace": "team",
        "tidemill-attempt": "2",
        "tidemill-fence": "9",
        "tidemill-scheduled-for": "2026-03-01T02:03:04.567Z",
        "tidemill-previous-success-at": "",
        "tidemill-missed-count": "3",
        "tidemill-flow-run-id": "flow-1",
        "tidemill-shard-index": "2",
        "tidemill-shard-total": "8",
        "tidemill-parameters": '{"day":"M\\u00fcll"}',
    }
    assert request.header("traceparent") == [
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    ]
    assert request.header("x-mine") == ["grün"]
    assert request.header("host") == [f"127.0.0.1:{site.port}"]


async def test_a_body_is_sent_as_it_stands(http: HttpExecutor, site: Site) -> None:
    await ask(http, site.answer("/"), {"method": "POST", "body": "grün"})

    assert site.requests[0].body == "grün".encode()


@pytest.mark.parametrize("value", [{"a": [1, None]}, None, [], "ü"])
async def test_json_is_sent_with_its_content_type(
    http: HttpExecutor, site: Site, value: Any
) -> None:
    await ask(http, site.answer("/"), {"method": "POST", "json": value})

    [request] = site.requests
    assert json.loads(request.body) == value
    assert request.header("content-type") == ["application/json"]


async def test_a_task_may_choose_the_content_type_of_its_json(
    http: HttpExecutor, site: Site
) -> None:
    arguments = {"method": "POST", "json": {}, "headers": {"content-type": "application/x+json"}}
    await ask(http, site.answer("/"), arguments)

    assert site.requests[0].header("content-type") == ["application/x+json"]


@pytest.mark.parametrize(
    ("status", "expected", "succeeds"),
    [
        (204, None, True),
        (301, None, False),
        (404, None, False),
        (500, None, False),
        (404, 404, True),
        (200, 404, False),
        (201, [200, 201], True),
        (302, [302], True),
    ],
)
async def test_a_request_is_judged_by_its_status(
    http: HttpExecutor, site: Site, status: int, expected: Any, succeeds: bool
) -> None:
    outcome, _ = await ask(http, site.answer("/", status=status), {"expected_status": expected})

    assert outcome.succeeded is succeeds
    if not succeeds:
        assert outcome.reason == "http_status"
        assert outcome.error_message == f"status {status} was not expected"


async def test_what_a_server_says_with_an_error_is_kept_as_output(
    http: HttpExecutor, site: Site
) -> None:
    _, reports = await ask(http, site.answer("/", b"out of coffee", status=418))

    assert reports.lines() == ["out of coffee"]


async def test_a_redirect_is_followed_where_the_task_says_so(
    http: HttpExecutor, site: Site
) -> None:
    site.answer("/new", b"here")
    url = site.answer("/old", status=302, headers="Location: /new\r\n")
    followed, reports = await ask(http, url, {"follow_redirects": True})
    stayed, _ = await ask(http, url)

    assert followed.succeeded
    assert reports.lines() == ["here"]
    assert site.url("/new") in reports.lines("log")[0]
    assert (stayed.succeeded, stayed.reason) == (False, "http_status")


async def test_redirects_without_an_end_are_an_outcome(http: HttpExecutor, site: Site) -> None:
    url = site.answer("/", status=302, headers="Location: /\r\n")
    outcome, _ = await ask(http, url, {"follow_redirects": True})

    assert (outcome.reason, outcome.error_message) == ("redirects", "more than 5 redirects")
    assert len(site.requests) == 6


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("http://169.254.169.254/latest/meta-data", "address_refused"),
        ("http://[::ffff:169.254.169.254]/", "address_refused"),
        ("ftp://127.0.0.1/", "connection"),
        ("http://a..b/", "connection"),
        ("http://[/", "connection"),
    ],
)
async def test_a_redirect_to_where_no_task_may_go_is_an_outcome(
    http: HttpExecutor, site: Site, target: str, reason: str
) -> None:
    url = site.answer("/", status=307, headers=f"Location: {target}\r\n")
    outcome, _ = await ask(http, url, {"follow_redirects": True})

    assert (outcome.succeeded, outcome.reason) == (False, reason)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/",
        "http://169.254.1.1/",
        "http://0xa9fea9fe/",
        "http://2852039166/",
        "http://[fe80::1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://[fd00:ec2::254]/",
        "http://100.100.100.200/",
        "https://224.0.0.1/",
    ],
)
async def test_link_local_and_metadata_addresses_are_refused(http: HttpExecutor, url: str) -> None:
    outcome, _ = await ask(http, url)

    assert (outcome.succeeded, outcome.reason) == (False, "address_refused")
    assert "worker.allowed_networks opens them" in str(outcome.error_message)


async def test_an_address_is_opened_by_the_networks_that_are_allowed() -> None:
    closed = GuardedTransport([], verify_tls=True)
    opened = GuardedTransport(["169.254.0.0/16", "fe80::/10"], verify_tls=True)
    for address in ("169.254.169.254", "::ffff:169.254.169.254", "fe80::1"):
        parsed = ipaddress.ip_address(address)
        assert closed.is_closed_to_tasks(parsed)
        assert not opened.is_closed_to_tasks(parsed)
    await closed.aclose()
    await opened.aclose()


async def test_a_name_with_several_addresses_is_reached_by_the_one_that_answers(
    http: HttpExecutor, site: Site
) -> None:
    site.answer("/", b"here")
    outcome, reports = await ask(http, site.url(host="localhost"))  # is ::1 as well

    assert outcome.succeeded
    assert reports.lines() == ["here"]
    assert site.requests[0].header("host") == [f"localhost:{site.port}"]


async def test_a_response_over_the_cap_fails_and_its_beginning_is_kept(
    http: HttpExecutor, site: Site
) -> None:
    url = site.answer("/", b"x" * 1_000)
    over, reports = await ask(http, url, {"max_response_bytes": 999})
    within, _ = await ask(http, url, {"max_response_bytes": 1_000})

    assert (over.succeeded, over.reason) == (False, "response_too_large")
    assert reports.text() == "x" * 999
    assert within.succeeded


async def test_a_response_without_an_end_is_given_up_at_the_cap(
    http: HttpExecutor, site: Site
) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 X\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()

    outcome, _ = await ask(http, site.answer_by("/", answer), {"max_response_bytes": MEBIBYTE})

    assert outcome.reason == "response_too_large"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip, gzip"])
async def test_a_small_answer_that_unpacks_to_a_huge_one_is_given_up_at_the_cap(
    http: HttpExecutor, site: Site, encoding: str
) -> None:
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}
    body = b"\0" * (128 * MEBIBYTE)
    for name in encoding.split(", "):
        body = pack[name](body)
    assert len(body) < MEBIBYTE
    url = site.answer("/", body, headers=f"Content-Encoding: {encoding}\r\n")
    count_peak_from_now()
    before = peak_bytes()
    outcome, reports = await ask(http, url, {"max_response_bytes": MEBIBYTE})

    assert outcome.reason == "response_too_large"
    assert len(reports.text()) <= MEBIBYTE + 100
    assert peak_bytes() - before < 64 * MEBIBYTE


def count_peak_from_now() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not tell the peak of memory")


async def test_an_answer_that_cannot_be_unpacked_is_an_outcome(
    http: HttpExecutor, site: Site
) -> None:
    url = site.answer("/", b"not packed", headers="Content-Encoding: gzip\r\n")
    outcome, _ = await ask(http, url)

    assert (outcome.succeeded, outcome.reason) == (False, "connection")


async def test_a_server_that_never_answers_is_given_up_when_the_run_is_to_end(
    http: HttpExecutor, site: Site
) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    stop = StopRequest()
    running = asyncio.create_task(
        http.execute(execution(site.answer_by("/", answer)), CollectedReports(), stop)
    )
    await site.asked()
    stop.request(timedelta(seconds=600))
    outcome = await running

    assert (outcome.succeeded, outcome.reason) == (False, "cancelled")


async def test_a_request_that_was_to_end_before_it_began_is_not_sent(
    http: HttpExecutor, site: Site
) -> None:
    stop = StopRequest()
    stop.request(timedelta(seconds=600))
    outcome = await http.execute(execution(site.answer("/")), CollectedReports(), stop)

    assert (outcome.succeeded, outcome.reason) == (False, "cancelled")
    assert site.connections == 0


async def test_a_server_that_hangs_up_is_an_outcome(http: HttpExecutor, site: Site) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.close()

    outcome, _ = await ask(http, site.answer_by("/", answer))

    assert (outcome.succeeded, outcome.reason) == (False, "connection")


async def test_a_server_that_speaks_something_else_is_an_outcome(
    http: HttpExecutor, site: Site
) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n\r\n")

    outcome, _ = await ask(http, site.answer_by("/", answer))

    assert (outcome.succeeded, outcome.reason) == (False, "connection")


async def test_a_port_where_nobody_listens_is_an_outcome(http: HttpExecutor) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # taken, but nobody listens
        outcome, _ = await ask(http, f"http://127.0.0.1:{held.getsockname()[1]}/")

    assert (outcome.succeeded, outcome.reason) == (False, "connection")


@pytest.mark.parametrize(
    "host", ["nosuch.invalid", "a..b", "x" * 64 + ".invalid", ".".join(["x" * 60] * 6)]
)
async def test_a_name_that_is_nobody_is_an_outcome(http: HttpExecutor, host: str) -> None:
    outcome, _ = await ask(http, f"http://{host}/")

    assert (outcome.succeeded, outcome.reason) == (False, "connection")
    assert "cannot resolve" in str(outcome.error_message)


async def test_a_certificate_that_nobody_vouches_for_is_an_outcome_unless_it_is_not_asked_for(
    http: HttpExecutor,
) -> None:
    site = Site()
    await site.start(_tls())
    site.answer("/")
    url = site.url(host="localhost", scheme="https")
    refused, _ = await ask(http, url)
    accepted, _ = await ask(http, url, {"verify_tls": False})
    await site.close()

    assert (refused.succeeded, refused.reason) == (False, "connection")
    assert "certificate" in str(refused.error_message)
    assert accepted.succeeded


async def test_a_connection_serves_no_other_name_at_the_same_address(http: HttpExecutor) -> None:
    names: list[str | None] = []
    tls = _tls()
    tls.sni_callback = lambda _socket, name, _context: names.append(name)
    site = Site()
    await site.start(tls)
    site.answer("/")
    for host in ("127.0.0.1", "localhost"):
        outcome, _ = await ask(http, site.url(host=host, scheme="https"), {"verify_tls": False})
        assert outcome.succeeded
    await site.close()

    assert names == [None, "localhost"]


def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


async def test_many_requests_run_at_once(http: HttpExecutor, site: Site) -> None:
    url = site.answer("/", b"x")
    ended = await asyncio.gather(*(ask(http, url) for _ in range(50)))

    assert all(outcome.succeeded for outcome, _ in ended)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("ftp://host/", {}),
        ("host/path", {}),
        ("http://", {}),
        ("http://host:x/", {}),
        ("http://h/", {"method": "BREW"}),
        ("http://h/", {"nosuch": 1}),
        ("http://h/", {"body": "x", "json": 1}),
        ("http://h/", {"headers": {"a b": "x"}}),
        ("http://h/", {"headers": {"a": "x\r\ny: z"}}),
        ("http://h/", {"expected_status": 99}),
        ("http://h/", {"max_response_bytes": -1}),
        ("http://h/", ["x"]),
    ],
)
def test_a_definition_that_cannot_be_sent_is_refused(command: str, arguments: Any) -> None:
    assert HttpExecutor().check(command, arguments)


async def test_a_path_beside_the_url_keeps_its_host_and_every_encoded_sign(
    http: HttpExecutor, site: Site
) -> None:
    site.answer("/days/%2Fa%20b%2F..?q=a%26b%3D%C3%A9")
    outcome, _ = await ask(
        http, site.url("/elsewhere"), {"url": "/days/%2Fa%20b%2F..?q=a%26b%3D%C3%A9"}
    )

    assert outcome.succeeded
    assert site.requests[0].path == "/days/%2Fa%20b%2F..?q=a%26b%3D%C3%A9"


@pytest.mark.parametrize(
    "url",
    ["//evil.example/x", "http://evil.example/", "days", "", "/a/../b", "/a/%2e%2e/b", "/a//b",
     "/a b", "/a\\b", "/é", "/a#b", "/\r\nX: y"],
)  # fmt: skip
def test_a_path_that_may_lead_elsewhere_is_refused(url: str) -> None:
    problems = HttpExecutor().check("http://127.0.0.1/", {"url": url})

    assert [problem.pointer for problem in problems] == ["/arguments/url"]


def test_a_path_with_placeholders_is_accepted() -> None:
    url = "/days/${{ parameters.day }}?q=${{ parameters.q }}"

    assert HttpExecutor().check("http://127.0.0.1/", {"url": url}) == []
