"""Results that are handed on in a file without a name, so that nothing is left of them."""

import os
import stat
from typing import Any

from tidemill.domain.outcome import Outcome, failure, success
from tidemill.foundation.executor import LargeResult


def kept_aside(content: bytes, beside: dict[str, Any] | None = None) -> LargeResult:
    """The same in a file; `beside` is what is known of the result without it."""
    file = os.fdopen(os.memfd_create("result"), "w+b")
    file.write(content)
    file.seek(0)  # all of it is written then
    return LargeResult(file, len(content), beside or {})


def large_outcome(path: str, exit_code: int | None = None) -> Outcome:
    """The outcome of a task that left its result in a file, which is deleted."""
    try:
        # No link is followed and nothing is waited for: a task may have put anything there.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        os.unlink(path)
    except OSError as error:
        said = f"the file of the result cannot be read: {error.strerror}"
        return failure("invalid_result", said, exit_code=exit_code)
    found = os.fstat(descriptor)
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(found.st_mode):
        file.close()
        return failure("invalid_result", "the result is no file", exit_code=exit_code)
    return success(LargeResult(file, found.st_size), exit_code)
