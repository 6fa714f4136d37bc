"""Messages between a worker and its processes: four bytes of length, then JSON.

Only the standard library is used here: every process of a task's tree imports this.
"""

import json
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

_as_json = json.JSONEncoder(separators=(",", ":")).encode  # made once: it is asked for each run
_json = json.JSONDecoder()
_LENGTH = struct.Struct("!I")
_LARGEST = 64 * 1024 * 1024
_AT_ONCE = 64 * 1024


def encode(message: dict[str, Any]) -> bytes:
    """One message as it goes over the wire."""
    return framed(_as_json(message).encode())


def framed(body: bytes) -> bytes:
    """JSON as it goes over the wire."""
    return _LENGTH.pack(len(body)) + body


def decode(body: bytearray) -> Any:
    """The JSON of one message; raises ValueError where it is none."""
    return _json.decode(body.decode())


class FrameReader:
    """Puts messages together from whatever arrives; `decode` reads the JSON of one."""

    def __init__(self, decode: Callable[[bytearray], Any] = decode) -> None:
        self._buffer = bytearray()
        self._decode = decode

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """The messages that `data` completes; raises ValueError where it is none of ours."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > _LARGEST:
                raise ValueError(f"a message of {length} bytes cannot be one of ours")
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            yield self._decode(self._buffer[start + _LENGTH.size : end])
            start = end
        del self._buffer[:start]


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
