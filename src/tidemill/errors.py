"""Every error that Tidemill raises on purpose.

    SchedulerError
    ├── InvalidInput            what was sent cannot be accepted; says where and what to do
    │   └── KeyReused           an idempotency key came with another request
    ├── NotFound                no such task, run, worker, …
    ├── Conflict                the thing is in a state that does not allow this
    │   ├── VersionMismatch     somebody changed it since it was read
    │   └── KeyInUse            the first call with this idempotency key is under way
    ├── PermissionDenied        the caller may not do this
    ├── ConcurrentChange        a row moved under a transaction; the store runs it again
    ├── LimitExceeded           a quota, size or rate bound
    ├── Unavailable             a part this needs does not answer; try again
    └── InvalidSettings         a setting is unknown or wrong; start-up stops

`code` is stable: the API's problems, the CLI and the SDK share it.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple


class Problem(NamedTuple):
    """One thing wrong with what was sent: `pointer` is an RFC 6901 path into it."""

    pointer: str
    message: str


class SchedulerError(Exception):
    """The root of the tree. `str(error)` is one sentence that a user may read."""

    code: ClassVar[str] = "scheduler_error"


class InvalidInput(SchedulerError):
    """What was sent cannot be accepted. `problems` names each place."""

    code = "invalid_input"

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class KeyReused(InvalidInput):
    """The idempotency key was used for another request; each request needs one of its own."""

    code = "idempotency_key_reused"


class NotFound(SchedulerError):
    """No such thing, or not in a namespace that the caller sees."""

    code = "not_found"

    def __init__(self, kind: str, key: object) -> None:
        super().__init__(f"no {kind} {key}")
        self.kind = kind
        self.key = key


class Conflict(SchedulerError):
    """The thing is in a state that does not allow this."""

    code = "conflict"


class VersionMismatch(Conflict):
    """Somebody changed it since it was read; read again and decide again."""

    code = "version_mismatch"


class KeyInUse(Conflict):
    """The first call with this idempotency key is under way; ask again for its answer."""

    code = "idempotency_key_in_use"


class PermissionDenied(SchedulerError):
    """The caller may not do this."""

    code = "permission_denied"


class ConcurrentChange(SchedulerError):
    """A row moved under a transaction. The store runs it again; callers never see this."""

    code = "concurrent_change"


class LimitExceeded(SchedulerError):
    """A quota, a size or a rate bound was reached."""

    code = "limit_exceeded"


class Unavailable(SchedulerError):
    """A part this needs does not answer now; the same call may go through later.

    `was_reached` is False where it was cut off, refused the connection or stayed silent, so that it
    gave no answer of its own.
    """

    code = "unavailable"

    def __init__(self, message: str, *, was_reached: bool = True) -> None:
        super().__init__(message)
        self.was_reached = was_reached


class InvalidSettings(SchedulerError):
    """A setting is unknown or wrong. `problems` lists all of them at once."""

    code = "invalid_settings"

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(f"{pointer}: {message}" for pointer, message in problems))
        self.problems = tuple(problems)
