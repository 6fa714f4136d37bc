"""The command line: a noun, then a verb, and exit codes that scripts can rely on."""

import sys
from collections.abc import Sequence

import cyclopts
from cyclopts import App

from tidemill import __version__
from tidemill.client.client import ServerError, Unreachable
from tidemill.errors import InvalidInput, SchedulerError

OK, FAILED, USAGE, NOT_FOUND, NOT_ALLOWED, CONFLICT, TIMED_OUT, UNREACHABLE = range(8)
INTERRUPTED = 130

_CODE_OF_STATUS = {
    401: NOT_ALLOWED,
    403: NOT_ALLOWED,
    404: NOT_FOUND,
    409: CONFLICT,
    412: CONFLICT,
}

app = App(
    name="tidemill",
    help="A distributed task scheduler: nothing missed, nothing doubled, no silence about either.",
    version=f"tidemill {__version__}",
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line; its exit code. No traceback reaches a user."""
    _register()
    try:
        result = app(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
        sys.stdout.flush()
    except cyclopts.CycloptsError as error:
        return _complain(f"{error}\ntidemill --help shows what there is", USAGE)
    except ServerError as error:
        details = "".join(f"\n  {each['pointer']}: {each['message']}" for each in error.errors)
        return _complain(f"{error}{details}", _CODE_OF_STATUS.get(error.status, FAILED))
    except Unreachable as error:
        return _complain(f"{error}; is it running? (tidemill up, or --server URL)", UNREACHABLE)
    except TimeoutError as error:
        return _complain(str(error), TIMED_OUT)
    except InvalidInput as error:
        details = "".join(f"\n  {pointer}: {message}" for pointer, message in error.problems)
        return _complain(f"{error}{details}", USAGE)
    except SchedulerError as error:
        return _complain(str(error), FAILED)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has enough, as with `| head`
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED
    return result if isinstance(result, int) else OK


def _complain(message: str, code: int) -> int:
    sys.stderr.write(f"tidemill: {message}\n")
    return code


def _register() -> None:
    from tidemill.cli import (
        files,
        imports,
        offline,
        run_commands,
        server,
        task_commands,
        worker_commands,
    )

    for module in (
        server, task_commands, run_commands, worker_commands, files, imports, offline,
    ):  # fmt: skip
        module.register(app)
