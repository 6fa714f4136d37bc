"""Output of one attempt, cut into numbered lines and capped: its head and its tail are kept.

Only the standard library is used here: every process of a task's tree imports this.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

HEAD_BYTES = 1024 * 1024
TAIL_BYTES = 1024 * 1024
LONGEST_LINE = 64 * 1024

_LONGEST_LAST_LINE = 512 * 1024  # it may be a result, and is then wanted whole
_SMALL_CHUNK = 4 * 1024
_LONGEST_CHARACTER = 4  # bytes, in UTF-8
_NEWLINE = ord("\n")


class Lines(NamedTuple):
    """Whole lines of one stream; numbered from 0 over all streams, cut lines included."""

    stream: str
    first: int
    at: float  # seconds since 1970
    text: str


class _Chunk(NamedTuple):
    stream: str
    first: int
    at: float
    data: bytes  # whole lines, each with its newline
    lines: int


class CappedOutput:
    """Takes bytes as they come; `take` gives what may be stored now, `finish` the rest."""

    def __init__(self) -> None:
        self._partial: dict[str, bytes] = {}
        self._ready: list[_Chunk] = []
        self._tail: deque[_Chunk] = deque()
        self._head_left = HEAD_BYTES
        self._tail_bytes = 0
        self._next = 0
        self._last_at = 0.0
        self._cut_from: int | None = None
        self._cut_lines = 0
        self._cut_bytes = 0
        self._long: dict[str, bytes] = {}  # pieces of a long line that has not ended
        self._latest: dict[str, bytes] = {}

    def feed(self, stream: str, data: bytes, at: float) -> None:
        """Add what was read from `stream`."""
        self._last_at = at
        data = self._partial.pop(stream, b"") + data
        start = 0
        while end := _end_of_block(data, start):
            self._note_last_line(stream, data[start:end])
            whole = data[start:end] if data[end - 1] == _NEWLINE else data[start:end] + b"\n"
            self._add(stream, whole, at)
            start = end
        if start < len(data):
            self._partial[stream] = data[start:]

    @property
    def has_ready(self) -> bool:
        """Whether `take` would give anything."""
        return bool(self._ready)

    def take(self) -> list[Lines]:
        """The lines that may be stored now, neighbours of one stream together."""
        ready, self._ready = self._ready, []
        return list(_joined(ready))

    def finish(self) -> list[Lines]:
        """Everything that is left, the cut marked."""
        for stream, rest in list(self._partial.items()):
            self._note_last_line(stream, rest + b"\n")
            self._add(stream, rest, self._last_at)
        self._partial.clear()
        if self._cut_from is not None:
            mark = f"... {self._cut_lines} lines ({self._cut_bytes} bytes) were cut here ...\n"
            self._ready.append(_Chunk("log", self._cut_from, self._last_at, mark.encode(), 1))
        self._ready += self._tail
        self._tail.clear()
        return self.take()

    def last_line(self, stream: str) -> str:
        """The last line of `stream` that is not blank; call it after `finish`."""
        line = self._latest.get(stream, b"").rstrip().rpartition(b"\n")[2]
        return line.decode("utf-8", "replace")

    def _note_last_line(self, stream: str, block: bytes) -> None:
        long = self._long.pop(stream, b"")
        if not block.endswith(b"\n"):
            self._long[stream] = long + block if len(long) < _LONGEST_LAST_LINE else long
        elif long or block.strip():
            self._latest[stream] = long + block

    def _add(self, stream: str, data: bytes, at: float) -> None:
        count = data.count(b"\n") + (not data.endswith(b"\n"))
        if self._head_left > 0 and not self._tail:
            head = data if len(data) <= self._head_left else data[: _cut(data, self._head_left)]
            self._head_left = self._head_left - len(head) if len(head) == len(data) else 0
            if head:
                lines = head.count(b"\n") + (not head.endswith(b"\n"))
                self._ready.append(_Chunk(stream, self._next, at, head, lines))
                self._next += lines
                data, count = data[len(head) :], count - lines
        if data:
            self._keep_in_tail(_Chunk(stream, self._next, at, data, count))
            self._next += count

    def _keep_in_tail(self, chunk: _Chunk) -> None:
        last = self._tail[-1] if self._tail else None
        if (
            last is not None
            and last.stream == chunk.stream
            and len(last.data) + len(chunk.data) <= _SMALL_CHUNK
        ):
            # A program that writes one short line after another must not fill memory with objects.
            self._tail[-1] = last._replace(
                data=last.data + chunk.data, lines=last.lines + chunk.lines
            )
        else:
            self._tail.append(chunk)
        self._tail_bytes += len(chunk.data)
        while self._tail_bytes > TAIL_BYTES:
            oldest = self._tail.popleft()
            surplus = self._tail_bytes - TAIL_BYTES
            if len(oldest.data) > surplus:
                goes = oldest.data.find(b"\n", surplus - 1) + 1 or len(oldest.data)
            else:
                goes = len(oldest.data)
            gone, kept = oldest.data[:goes], oldest.data[goes:]
            lines = gone.count(b"\n") + (not gone.endswith(b"\n"))
            if self._cut_from is None:
                self._cut_from = oldest.first
            self._cut_lines += lines
            self._cut_bytes += goes
            self._tail_bytes -= goes
            if kept:
                self._tail.appendleft(
                    oldest._replace(
                        first=oldest.first + lines, data=kept, lines=oldest.lines - lines
                    )
                )


def _end_of_block(data: bytes, start: int) -> int:
    """Where whole lines end, or a piece of a longer one; 0 where neither is there yet."""
    end = data.rfind(b"\n", start, start + LONGEST_LINE + 1) + 1
    if end or len(data) - start <= LONGEST_LINE:
        return end
    end = start + LONGEST_LINE
    while end > start + LONGEST_LINE - _LONGEST_CHARACTER and data[end] & 0xC0 == 0x80:
        end -= 1
    return end


def _cut(data: bytes, at_most: int) -> int:
    """Where to cut so that only whole lines stay within `at_most` bytes."""
    return data.rfind(b"\n", 0, at_most) + 1


def _joined(chunks: list[_Chunk]) -> Iterator[Lines]:
    group: list[_Chunk] = []
    size = 0
    for chunk in chunks:
        follows = group and chunk.stream == group[-1].stream
        follows = follows and chunk.first == group[-1].first + group[-1].lines
        if group and not (follows and size + len(chunk.data) <= LONGEST_LINE):
            yield _lines_of(group)
            group, size = [], 0
        group.append(chunk)
        size += len(chunk.data)
    if group:
        yield _lines_of(group)


def _lines_of(group: list[_Chunk]) -> Lines:
    text = b"".join(chunk.data for chunk in group).decode("utf-8", "replace")
    first = group[0]
    # No database keeps a NUL in a text.
    return Lines(first.stream, first.first, first.at, text.replace("\0", "\ufffd"))
