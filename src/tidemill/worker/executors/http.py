"""HTTP tasks: one request, judged by its status."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import unquote

import httpx2
import msgspec

from tidemill.domain.artifact import INLINE_BYTES
from tidemill.domain.outcome import Outcome, failure, success
from tidemill.domain.template import TemplateError, without_placeholders
from tidemill.errors import Problem
from tidemill.foundation.executor import Execution, ExecutionReports, StopRequest
from tidemill.run_facts import as_headers
from tidemill.worker.executors.capped_output import CappedOutput
from tidemill.worker.executors.chunks import chunk_of
from tidemill.worker.executors.guarded_transport import AddressRefused, GuardedTransport
from tidemill.worker.executors.large_results import kept_aside

Status = Annotated[int, msgspec.Meta(ge=100, le=599)]

_CONNECT_SECONDS = 10
_MAX_REDIRECTS = 5


class HttpArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `arguments` of an HTTP task may say; `command` is the URL.

    `url` is a path and a query in place of those of `command`: it can lead to no other host.
    """

    url: str | None = None

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = "GET"
    headers: dict[str, str] = {}
    body: str | None = None
    json: Any = msgspec.UNSET
    expected_status: list[Status] | Status | None = None  # None: any 2xx
    follow_redirects: bool = False
    verify_tls: bool = True
    max_response_bytes: Annotated[int, msgspec.Meta(ge=0, le=64 * 1024 * 1024)] = 10 * 1024 * 1024


class HttpExecutor:
    """Sends requests from the worker's own loop; nothing of them outlives the attempt."""

    task_type = "http"
    reads_files = False  # nor is a path of this machine told to whoever is asked

    def __init__(self, allowed_networks: Sequence[str] = ()) -> None:
        self._allowed_networks = allowed_networks
        self._clients: dict[bool, httpx2.AsyncClient] = {}

    def check(self, command: str, arguments: Any) -> Sequence[Problem]:
        problems = []
        try:
            url = httpx2.URL(command)
        except (httpx2.InvalidURL, ValueError) as error:
            problems.append(Problem("/command", f"is not a URL: {error}"))
        else:
            if url.scheme not in {"http", "https"} or not url.host:
                problems.append(Problem("/command", "must be a URL with http:// or https://"))
        try:
            read = _read(arguments)
        except msgspec.ValidationError as error:
            problems.append(Problem("/arguments", str(error)))
        else:
            if read.body is not None and read.json is not msgspec.UNSET:
                problems.append(Problem("/arguments", "takes `body` or `json`, not both"))
            problems += _url_problems(read.url)
            if any(not _is_header(*header) for header in read.headers.items()):
                problems.append(Problem("/arguments/headers", "a name or value is not allowed"))
        return problems

    async def start(self) -> None:
        """Nothing to prepare: a client is made when it is first needed."""

    async def close(self) -> None:
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()

    async def execute(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest
    ) -> Outcome:
        output = CappedOutput()
        request = asyncio.create_task(self._request(execution, output))
        stop.on_request(request.cancel)
        try:
            return await request
        except asyncio.CancelledError:
            if not stop.is_requested:
                raise
            return failure("cancelled", "the request was given up")
        finally:
            for lines in output.finish():
                reports.output(chunk_of(lines))

    async def _request(self, execution: Execution, output: CappedOutput) -> Outcome:
        arguments = _read(execution.arguments)
        client = self._client(verify_tls=arguments.verify_tls)
        began = time.monotonic()
        try:
            async with client.stream(
                arguments.method,
                _url_of(execution.command, arguments),
                headers=_headers_of(execution, arguments),
                content=_content_of(arguments),
                follow_redirects=arguments.follow_redirects,
            ) as response:
                body, is_whole = await _read_body(response, arguments.max_response_bytes)
        except AddressRefused as error:
            return failure("address_refused", str(error))
        except httpx2.TooManyRedirects:
            return failure("redirects", f"more than {_MAX_REDIRECTS} redirects")
        except (httpx2.HTTPError, ssl.SSLError) as error:
            return failure("connection", f"{type(error).__name__}: {str(error) or 'no answer'}")
        elapsed_ms = (time.monotonic() - began) * 1000
        said = (
            f"{arguments.method} {response.url} -> {response.status_code} in {elapsed_ms:.0f} ms\n"
        )
        output.feed("log", said.encode(), time.time())
        output.feed("stdout", body, time.time())
        if not _is_expected(arguments, response.status_code):
            return failure("http_status", f"status {response.status_code} was not expected")
        if not is_whole:
            return failure(
                "response_too_large", f"more than {arguments.max_response_bytes} bytes came back"
            )
        return success(_result_of(response, body))

    def _client(self, *, verify_tls: bool) -> httpx2.AsyncClient:
        if verify_tls not in self._clients:
            self._clients[verify_tls] = httpx2.AsyncClient(
                transport=GuardedTransport(self._allowed_networks, verify_tls=verify_tls),
                timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS, pool=_CONNECT_SECONDS),
                max_redirects=_MAX_REDIRECTS,
                trust_env=False,
            )
        return self._clients[verify_tls]


def _read(arguments: Any) -> HttpArguments:
    return msgspec.convert(arguments or {}, HttpArguments)


def _url_of(command: str, arguments: HttpArguments) -> httpx2.URL:
    return httpx2.URL(command) if arguments.url is None else httpx2.URL(command).join(arguments.url)


def _url_problems(url: str | None) -> Iterator[Problem]:
    """Not `//host/…`, not what climbs up; `url` may have placeholders still."""
    if url is None:
        return
    try:
        text = without_placeholders(url)
    except TemplateError:
        return  # what is wrong with them is told elsewhere
    path, _, _ = text.partition("?")
    segments = [unquote(segment) for segment in path.split("/")[1:]]
    if text[:1] not in ("/", "?") or not all("!" <= sign <= "~" for sign in text):
        said = "must begin with / or ?, in ASCII without spaces; write others as %20"
        yield Problem("/arguments/url", said)
    elif "\\" in text or "#" in text or {".", ".."} & set(segments) or "" in segments[:-1]:
        said = "must be a path without empty, `.` or `..` segments, `#` and `\\`"
        yield Problem("/arguments/url", said)


def _headers_of(execution: Execution, arguments: HttpArguments) -> httpx2.Headers:
    """What is said last stands: a task may choose its content type, and forges no facts."""
    headers = httpx2.Headers(encoding="utf-8")
    if arguments.json is not msgspec.UNSET:
        headers["Content-Type"] = "application/json"
    headers.update(_encoded(arguments.headers))
    headers.update(_encoded(as_headers(execution)))
    return headers


def _encoded(headers: dict[str, str]) -> httpx2.Headers:
    return httpx2.Headers(
        {name.encode(): value.strip().encode() for name, value in headers.items()}
    )


def _content_of(arguments: HttpArguments) -> bytes | None:
    if arguments.json is not msgspec.UNSET:
        return msgspec.json.encode(arguments.json)
    return None if arguments.body is None else arguments.body.encode()


def _is_header(name: str, value: str) -> bool:
    token = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return token and not any(sign in value for sign in "\r\n\0")


def _is_expected(arguments: HttpArguments, status: int) -> bool:
    expected = arguments.expected_status
    if expected is None:
        return 200 <= status < 300
    return status in (expected if isinstance(expected, list) else [expected])


async def _read_body(response: httpx2.Response, at_most: int) -> tuple[bytes, bool]:
    """The body, as much as is allowed, and whether that is all of it."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > at_most:
            return bytes(body[:at_most]), False
    return bytes(body), True


def _result_of(response: httpx2.Response, body: bytes) -> Any:
    """The status, and the body where it says that it is JSON and is, for whoever reads the result.

    One that is too large is told beside it.
    """
    if "json" in response.headers.get("content-type", ""):
        with contextlib.suppress(msgspec.DecodeError, RecursionError):
            if len(body) <= INLINE_BYTES:
                return {"status": response.status_code, "body": msgspec.json.decode(body)}
            msgspec.json.decode(body, type=msgspec.Raw)
            whole = b'{"status":%d,"body":%b}' % (response.status_code, body)
            return kept_aside(whole, {"status": response.status_code, "body": None})
    return {"status": response.status_code, "body": None}
