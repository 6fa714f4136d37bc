"""The command line: a noun, then a verb, and exit codes that scripts can rely on.

A command's module is imported when the command is called, so that none waits for another's needs.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import cyclopts
from cyclopts import App, Parameter

from tidemill import __version__
from tidemill.client.errors import ServerError, Unreachable
from tidemill.errors import InvalidInput, InvalidSettings, NotFound, SchedulerError

OK, FAILED, USAGE, NOT_FOUND, NOT_ALLOWED, CONFLICT, TIMED_OUT, UNREACHABLE = range(8)
INTERRUPTED = 130

_CODE_OF_STATUS = {
    400: USAGE,
    401: NOT_ALLOWED,
    403: NOT_ALLOWED,
    404: NOT_FOUND,
    409: CONFLICT,
    412: CONFLICT,
    422: USAGE,
}

# What each word leads to: a function, or a noun with its help and its verbs.
VERBS = {
    "up": "server:up",
    "serve": "server:serve",
    "apply": "files:apply",
    "diff": "files:diff",
    "export": "files:export",
    "doctor": "offline:doctor",
    "completion": "offline:completion",
}
NOUNS = {
    "task": (
        "Tasks: what may be run and when.",
        {
            "list": "task_commands:list_tasks",
            "get": "task_commands:get",
            "create": "task_commands:create",
            "delete": "task_commands:delete",
            "trigger": "task_commands:trigger",
            "pause": "task_commands:pause",
            "resume": "task_commands:resume",
            "runs": "task_commands:runs",
            "preview": "task_commands:preview",
            "ledger": "task_commands:ledger",
            "stats": "task_commands:stats",
            "versions": "task_commands:versions",
            "explain": "task_commands:explain",
            "backfill": "task_commands:backfill",
        },
    ),
    "run": (
        "Runs: what was executed, when, and what came of it.",
        {
            "list": "run_commands:list_runs",
            "get": "run_commands:get",
            "result": "run_commands:result",
            "cancel": "run_commands:cancel",
            "retry": "run_commands:retry",
            "logs": "run_commands:logs",
            "events": "run_commands:events",
            "attempts": "run_commands:attempts",
            "explain": "run_commands:explain",
            "wait": "run_commands:wait",
        },
    ),
    "flow-run": (
        "Flow runs: the runs of one firing of connected tasks.",
        {
            "list": "flow_run_commands:list_flow_runs",
            "get": "flow_run_commands:get",
            "cancel": "flow_run_commands:cancel",
            "retry": "flow_run_commands:retry",
        },
    ),
    "worker": (
        "Workers: who runs tasks.",
        {
            "list": "worker_commands:list_workers",
            "get": "worker_commands:get",
            "drain": "worker_commands:drain",
            "delete": "worker_commands:delete",
        },
    ),
    "queue": ("Queues: what waits and what runs.", {"list": "worker_commands:list_queues"}),
    "schedule": ("Schedules: when something would fire.", {"next": "offline:schedule_next"}),
    "import": ("Take over what another scheduler does.", {"crontab": "imports:crontab"}),
    "config": (
        "The settings of a server that is started here.",
        {"show": "offline:config_show", "check": "offline:config_check"},
    ),
    "context": (
        "Which server is meant where none is named.",
        {
            "list": "context_commands:list_contexts",
            "create": "context_commands:create",
            "use": "context_commands:use",
            "delete": "context_commands:delete",
        },
    ),
    "db": (
        "The database's schema.",
        {
            "upgrade": "server:db_upgrade",
            "current": "server:db_current",
            "check": "server:db_check",
            "downgrade": "server:db_downgrade",
            "sql": "server:db_sql",
        },
    ),
}


def build(*, for_help: bool = False) -> App:
    """All commands; they are imported when they are called, or at once where help shows them."""
    app = App(
        name="tidemill",
        help="A distributed task scheduler: nothing missed, nothing doubled, no silence.",
        version=f"tidemill {__version__}",
        help_format="plaintext",
        help_epilogue="Start with `tidemill up --demo`; then, elsewhere, `tidemill run list`.",
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative=()),
    )
    _add(app, VERBS, for_help)
    for name, (says, verbs) in NOUNS.items():
        noun = App(name=name, help=says, help_epilogue="")
        _add(noun, verbs, for_help)
        app.command(noun)
    return app


def _add(app: App, verbs: dict[str, str], for_help: bool) -> None:
    for verb, place in verbs.items():
        module, _, function = place.partition(":")
        if for_help:
            app.command(getattr(import_module(f"tidemill.cli.{module}"), function), name=verb)
        else:
            app.command(f"tidemill.cli.{module}:{function}", name=verb, help_epilogue="")


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line; its exit code. No traceback reaches a user."""
    try:
        result = build(for_help=_shows_commands(arguments))(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
        sys.stdout.flush()
    except cyclopts.CycloptsError as error:
        return _complain(f"{error} See {_help_for(arguments)}.", USAGE)
    except ServerError as error:
        return _complain(
            _in_full(error, [(each["pointer"], each["message"]) for each in error.errors]),
            _CODE_OF_STATUS.get(error.status, FAILED),
        )
    except Unreachable as error:
        return _complain(f"{error}; is it running? (tidemill up, or --server URL)", UNREACHABLE)
    except BrokenPipeError:
        # The reader has enough, as with `| head`; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except TimeoutError as error:
        return _complain(str(error), TIMED_OUT)
    except InvalidSettings as error:
        return _complain(str(error), FAILED)
    except InvalidInput as error:
        return _complain(_in_full(error, error.problems), USAGE)
    except NotFound as error:
        return _complain(str(error), NOT_FOUND)
    except SchedulerError as error:
        return _complain(str(error), FAILED)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror}", FAILED)
    return result if isinstance(result, int) else OK


def _shows_commands(arguments: Sequence[str]) -> bool:
    return not {*arguments[:2]} - {*NOUNS, "--help", "-h"}


def _help_for(arguments: Sequence[str]) -> str:
    words = ["tidemill"]
    if arguments and arguments[0] in VERBS | NOUNS:
        words.append(arguments[0])
        if arguments[0] in NOUNS and len(arguments) > 1 and arguments[1] in NOUNS[arguments[0]][1]:
            words.append(arguments[1])
    return " ".join([*words, "--help"])


def _in_full(error: Exception, problems: Sequence[tuple[str, str]]) -> str:
    """A single problem stands in the message already; several follow it, a line each."""
    rest = (
        problems if len(problems) > 1 else [each for each in problems if each[1] not in str(error)]
    )
    return str(error) + "".join(f"\n  {pointer}: {message}" for pointer, message in rest)


def _complain(message: str, code: int) -> int:
    sys.stderr.write(f"tidemill: {message}\n")
    return code
