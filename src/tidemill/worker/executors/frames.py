"""Messages between a worker and its processes: a line of JSON each.

Only the standard library is used here: every process of a task's tree imports this.
"""

import json
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_as_json = json.JSONEncoder(separators=(",", ":")).encode  # made once: it is asked for each run
_json = json.JSONDecoder()
_LARGEST = 64 * 1024 * 1024
_AT_ONCE = 64 * 1024


def encode(message: dict[str, Any]) -> bytes:
    """One message as it goes over the wire."""
    return framed(_as_json(message).encode())


def framed(body: bytes) -> bytes:
    """JSON as it goes over the wire; in its texts a line's end is escaped."""
    return body + b"\n"


def lines_of(lines: bytes) -> list[bytes]:
    """Whole lines, one by one."""
    return lines.split(b"\n")[:-1]


def decode_lines(lines: bytes) -> Iterator[Any]:
    """The messages of whole lines; raises ValueError where one is no JSON."""
    return (_json.decode(line.decode()) for line in lines_of(lines))


class FrameReader:
    """Puts messages together from whatever arrives; `decode` reads the JSON of whole lines."""

    def __init__(self, decode: Callable[[bytes], Iterable[Any]] = decode_lines) -> None:
        self._begun: list[bytes] = []  # of a line whose end is still to come
        self._begun_bytes = 0
        self._decode = decode

    def feed(self, data: bytes) -> Iterable[dict[str, Any]]:
        """The messages that `data` completes; raises ValueError where it is none of ours."""
        end = data.rfind(b"\n") + 1
        lines = data[:end]
        if end and self._begun:
            lines = b"".join([*self._begun, lines])
            self._begun, self._begun_bytes = [], 0
        if end < len(data):
            self._begin(data[end:])
        return self._decode(lines) if end else ()

    def _begin(self, data: bytes) -> None:
        self._begun.append(data)
        self._begun_bytes += len(data)
        if self._begun_bytes > _LARGEST:
            raise ValueError(f"a message of {self._begun_bytes} bytes cannot be one of ours")


def receive(
    connection: socket.socket, reader: FrameReader, flags: int = 0
) -> list[dict[str, Any]] | None:
    """What is there to be read, waiting for it unless `flags` say otherwise; None once the other
    side is gone."""
    try:
        data = connection.recv(_AT_ONCE, flags)
    except ConnectionError:
        return None
    return list(reader.feed(data)) if data else None
