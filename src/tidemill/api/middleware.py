"""What is done to every request before a route sees it."""

import re
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidemill.api.context import ApiContext
from tidemill.api.problems import problem, unexpected

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_WITH_BODY = {"POST", "PUT", "PATCH"}


class Gate:
    """Gives each request an id, checks host and size before anything is parsed, hides defects."""

    def __init__(self, app: ASGIApp, context: ApiContext) -> None:
        self._app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        asked = headers.get("x-request-id", "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else uuid4().hex
        scope["request_id"] = request_id
        answer = _Answer(send, request_id)
        refusal = self._refusal(scope, headers, request_id)
        if refusal is not None:
            await refusal(scope, receive, answer.send)
            return
        body = await self._body(receive) if scope["method"] in _WITH_BODY else b""
        if body is None:
            largest = self._context.max_body_bytes
            refusal = problem(
                request_id, 413, "body_too_large", f"a body has at most {largest} bytes"
            )
            await refusal(scope, receive, answer.send)
            return
        if body and not _is_json(headers):
            refusal = problem(
                request_id, 415, "unsupported_media_type", "send the body as application/json"
            )
            await refusal(scope, receive, answer.send)
            return
        try:
            await self._app(scope, _replayed(body, receive), answer.send)
        except Exception as error:
            if answer.has_begun:
                raise
            await unexpected(request_id, error)(scope, receive, answer.send)

    def _refusal(
        self, scope: MutableMapping[str, Any], headers: Headers, request_id: str
    ) -> "ASGIApp | None":
        """Pages of other sites must not reach a server that trusts its own machine."""
        allowed = self._context.allowed_hosts
        if allowed is None:
            return None
        origin = headers.get("origin")
        hosts = [headers.get("host", "")] + ([urlsplit(origin).netloc] if origin else [])
        if all(_host_of(host) in allowed for host in hosts):
            return None
        return problem(
            request_id, 403, "host_not_allowed", f"only {', '.join(sorted(allowed))} are answered"
        )

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body; None as soon as it is too large."""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return bytes(body)
            body += message.get("body", b"")
            if len(body) > self._context.max_body_bytes:
                return None
            if not message.get("more_body", False):
                return bytes(body)


class _Answer:
    """Adds to each answer what all have."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.has_begun = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self._request_id
            headers["X-Content-Type-Options"] = "nosniff"
            headers.setdefault("Cache-Control", "no-store")
        await self._send(message)


def _is_json(headers: Headers) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


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
