"""What a call of the API may end in, apart from its answer."""

from typing import Any


class Unreachable(Exception):
    """The server does not answer."""


class ServerError(Exception):
    """The server answered with a problem (RFC 9457)."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(problem.get("detail") or problem.get("title") or f"status {status}")
        self.status = status
        self.code: str = problem.get("code", "unknown")
        self.errors: list[dict[str, str]] = problem.get("errors") or []
