"""A client for whom it is no matter that its server is killed again and again."""

import contextlib
import time
from typing import Any, Self
from uuid import uuid4

from tidemill.client.client import Client, ServerError, Unreachable
from tidemill.testing.server import Server

_BETWEEN_ASKING_SECONDS = 0.2


class PatientClient:
    """Follows its server, which may listen on another port each time it starts."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._client = server.client()

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """Ask until there is an answer: by the key it is one run, however often."""
        keyed = {"Idempotency-Key": uuid4().hex} if method == "POST" else {}
        while True:
            with contextlib.suppress(Unreachable):
                try:
                    return self._current().call(
                        method, path, body=body, headers={**keyed, **(headers or {})}
                    )
                except ServerError as error:
                    if error.status not in {409, 503}:
                        raise
            time.sleep(_BETWEEN_ASKING_SECONDS)

    def _current(self) -> Client:
        if self._client.server != self._server.url:
            self._client.close()
            self._client = self._server.client()
        return self._client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
