"""The worker's own end of what `frames` says: by a library that its processes do without."""

from collections.abc import Iterable
from typing import Any

import msgspec

from tidemill.worker.executors.frames import FrameReader, framed, lines_of

_json = msgspec.json.Decoder()


def encode(message: dict[str, Any]) -> bytes:
    """One message as it goes over the wire."""
    return framed(msgspec.json.encode(message))


def frame_reader() -> FrameReader:
    """Puts messages together from whatever arrives."""
    return FrameReader(_decode_lines)


def _decode_lines(lines: bytes) -> Iterable[Any]:
    """All at once; one by one where one of them is no JSON, so that those before it are heard."""
    try:
        return _json.decode_lines(lines)
    except (msgspec.DecodeError, RecursionError):
        return map(_json.decode, lines_of(lines))
