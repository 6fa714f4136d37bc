"""Messages between a worker and its processes, in whatever pieces they arrive."""

from typing import Any

import pytest

from tidemill.worker.executors import frames
from tidemill.worker.executors.frames import FrameReader, encode

MESSAGES: list[dict[str, Any]] = [{"lines": ["a\nb\r\n\u2028", 1]}, {}, {"end": [7, "ü"]}]


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
def test_messages_are_put_together_from_pieces_of_any_size(size: int) -> None:
    wire, reader = b"".join(map(encode, MESSAGES)), FrameReader()

    pieces = [wire[start : start + size] for start in range(0, len(wire), size)]
    assert [message for piece in pieces for message in reader.feed(piece)] == MESSAGES


def test_those_before_one_that_is_none_are_heard() -> None:
    messages = iter(FrameReader().feed(encode({"a": 1}) + b"nonsense\n" + encode({"b": 2})))

    assert next(messages) == {"a": 1}
    with pytest.raises(ValueError, match="Expecting value"):
        next(messages)


def test_what_has_no_end_is_not_gathered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_LARGEST", 100)
    reader = FrameReader()
    reader.feed(b"x" * 90)

    with pytest.raises(ValueError, match="180 bytes"):
        reader.feed(b"x" * 90)
