"""Output as processes send it, turned into what the worker stores."""

from datetime import UTC, datetime

from tidemill.foundation.executor import OutputChunk
from tidemill.worker.executors.capped_output import Lines


def chunk_of(lines: Lines) -> OutputChunk:
    """The same lines, with an aware instant."""
    return OutputChunk(lines.stream, lines.first, datetime.fromtimestamp(lines.at, UTC), lines.text)
