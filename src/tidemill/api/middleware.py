"""What is done to every request before a route sees it."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import urlsplit
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidemill.api.problems import problem, unexpected
from tidemill.foundation.control_plane import CALL_HEADER

_ID = re.compile(r"[\x21-\x7e]{1,128}")
_MEDIA_TYPES = {
    "POST": {"application/json"},
    "PUT": {"application/json"},
    "PATCH": {"application/json", "application/merge-patch+json"},
}


class Gate:
    """Gives each request an id, checks host and size before anything is parsed, hides defects."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        allowed_hosts: frozenset[str] | None,
        larger_bodies: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._larger_bodies = larger_bodies  # how large, by the path that takes them
        self._allowed_hosts = allowed_hosts  # None: any `Host` is answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        asked = headers.get("x-request-id", "")
        request_id = asked if _ID.fullmatch(asked) else uuid4().hex
        scope["request_id"] = request_id
        ids = {"X-Request-ID": request_id}
        if _ID.fullmatch(call := headers.get(CALL_HEADER, "")):
            ids[CALL_HEADER] = call
        answer = _Answer(send, ids)
        refusal = self._refusal(headers, request_id)
        body = b""
        if refusal is None and scope["method"] in _MEDIA_TYPES:
            largest = self._larger_bodies.get(scope["path"], self._max_body_bytes)
            read = await self._body(headers, receive, largest)
            if read is None:
                return  # the client left: half of what it meant to say must not be carried out
            body = read
            refusal = self._body_refusal(scope["method"], headers, body, largest, request_id)
        if refusal is not None:
            await refusal(scope, receive, answer.send)
            return
        try:
            await self._app(scope, _replayed(body, receive), answer.send)
        except Exception as error:
            if answer.has_begun:
                raise
            answer = _Answer(send, ids)
            await unexpected(request_id, error)(scope, receive, answer.send)

    def _refusal(self, headers: Headers, request_id: str) -> Response | None:
        """Pages of other sites must not reach a server that trusts its own machine."""
        allowed = self._allowed_hosts
        if allowed is None:
            return None
        origin = headers.get("origin")
        hosts = [headers.get("host", "")] + ([urlsplit(origin).netloc] if origin else [])
        if all(_host_of(host) in allowed for host in hosts):
            return None
        return problem(
            request_id, 403, "host_not_allowed", f"only {', '.join(sorted(allowed))} are answered"
        )

    async def _body(self, headers: Headers, receive: Receive, largest: int) -> bytes | None:
        """The body, not read on once it is too large; None where the client leaves before."""
        body = bytearray()
        if _is_larger(headers, body, largest):
            return b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            if not message.get("more_body", False) or _is_larger(headers, body, largest):
                return bytes(body)

    def _body_refusal(
        self, method: str, headers: Headers, body: bytes, largest: int, request_id: str
    ) -> Response | None:
        if _is_larger(headers, body, largest):
            return problem(request_id, 413, "body_too_large", f"a body has at most {largest} bytes")
        sent = headers.get("content-type", "").partition(";")[0].strip().lower()
        if body and sent not in _MEDIA_TYPES[method]:
            known = " or ".join(sorted(_MEDIA_TYPES[method]))
            return problem(request_id, 415, "unsupported_media_type", f"send the body as {known}")
        return None


class _Answer:
    """Adds to each answer what all have."""

    def __init__(self, send: Send, ids: dict[str, str]) -> None:
        self._send = send
        self._ids = ids
        self.has_begun = False
        self._is_void = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            # No route says 500: it is what the framework tells of a defect before it raises it.
            self._is_void = message["status"] == 500
            self.has_begun = not self._is_void
        if self._is_void:
            return
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(self._ids)
            headers["X-Content-Type-Options"] = "nosniff"
            headers.setdefault("Cache-Control", "no-store")
        await self._send(message)


def _is_larger(headers: Headers, body: bytes | bytearray, largest: int) -> bool:
    declared = headers.get("content-length", "")
    said = float(declared) if declared.isdecimal() else 0  # of any number of digits
    return max(said, len(body)) > largest


def _host_of(host: str) -> str:
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    return name.strip("[]").lower()


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Hands the body out once; what comes after it is whether the client is still there."""
    is_sent = False

    async def replay() -> Message:
        nonlocal is_sent
        if is_sent:
            return await receive()
        is_sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
