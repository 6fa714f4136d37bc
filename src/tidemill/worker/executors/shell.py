"""Shell tasks: a command line for the shell, or a program and its arguments without one."""

import os
import shutil
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from tidemill.domain.artifact import INLINE_BYTES
from tidemill.domain.outcome import Outcome, failure, success
from tidemill.errors import Problem, Unavailable
from tidemill.foundation.executor import Execution, ExecutionReports, StopRequest
from tidemill.run_facts import as_environment
from tidemill.worker.executors.capped_output import Lines
from tidemill.worker.executors.chunks import chunk_of
from tidemill.worker.executors.containment import Containment
from tidemill.worker.executors.large_results import large_outcome
from tidemill.worker.executors.slot import TreeEnd, TreeRequest

MARK = "::result::"

Text = Annotated[str, msgspec.Meta(pattern=r"\A[^\0]*\Z")]  # what a program can be given
Variable = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z_][A-Za-z0-9_]*\Z")]

_SHELL = "/bin/sh"
_HOME = os.path.expanduser("~")  # where cron starts its commands as well


class ShellArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The mapping that `arguments` of a shell task may be; a list is short for `argv`."""

    argv: list[Text] | None = None  # with it, `command` is a program and no shell is used
    environment: dict[Variable, Text] = {}
    working_directory: Text | None = None
    stdin: str | None = None
    shell: Annotated[Text, msgspec.Meta(min_length=1)] = _SHELL


class ShellExecutor:
    """Runs commands, each in a process tree of its own."""

    task_type = "shell"

    def __init__(self, containment: Containment) -> None:
        self._containment = containment

    def check(self, command: str, arguments: Any) -> Sequence[Problem]:
        problems = []
        if "\0" in command or not command.strip():
            problems.append(Problem("/command", "must be a command line or a program"))
        try:
            read_arguments(arguments)
        except msgspec.ValidationError as error:
            problems.append(
                Problem(
                    "/arguments",
                    f"{error}; a list of strings (argv), or a mapping of argv, environment, "
                    "working_directory, stdin, shell",
                )
            )
        return problems

    async def start(self) -> None:
        """Raises Unavailable where there is no shell."""
        if not os.access(_SHELL, os.X_OK):
            raise Unavailable(
                f"shell tasks need {_SHELL}, which cannot be run here; install it, or leave shell "
                "out of worker.allowed_executors"
            )

    async def execute(
        self, execution: Execution, reports: ExecutionReports, stop: StopRequest
    ) -> Outcome:
        arguments = read_arguments(execution.arguments)
        request = TreeRequest(
            argv=_argv_of(execution.command, arguments),
            environment=arguments.environment | as_environment(execution),
            directory=arguments.working_directory or _HOME,
            stdin=arguments.stdin,
            grace=stop.grace,
        )

        def say(lines: Lines) -> None:
            reports.output(chunk_of(lines))

        try:
            end = await self._containment.run(request, say, stop)
        except Unavailable as error:
            return failure("not_started", str(error))
        if end is None:
            return failure("cancelled", "stopped before it was started")
        return outcome_of(end, execution.command, request.argv[0])

    async def close(self) -> None:
        """The containment is closed by whoever made it."""


def read_arguments(arguments: Any) -> ShellArguments:
    """What `arguments` of a shell task say; raises msgspec.ValidationError."""
    if isinstance(arguments, list):
        arguments = {"argv": arguments}
    return msgspec.convert(arguments or {}, ShellArguments)


def _argv_of(command: str, arguments: ShellArguments) -> list[str]:
    if arguments.argv is None:
        return [arguments.shell, "-c", command]
    return [command, *arguments.argv]


def outcome_of(end: TreeEnd, command: str, program: str) -> Outcome:
    """What the end of a tree means for the run."""
    if end.not_started is not None:
        is_there = shutil.which(program) or os.path.exists(program)
        hint = "" if is_there else "; is it installed on this worker?"
        return failure("not_started", f"cannot start {command!r}: {end.not_started}{hint}")
    if end.exit_code is None:
        return failure("killed", "the process that watched over the task was killed")
    if end.exit_code < 0:
        return failure("signal", f"ended by signal {-end.exit_code}", exit_code=end.exit_code)
    if end.exit_code > 0:
        return failure("exit_code", f"exit code {end.exit_code}", exit_code=end.exit_code)
    return _with_result(end)


def _with_result(end: TreeEnd) -> Outcome:
    if end.result_file is not None:
        return large_outcome(end.result_file, 0)
    text = end.result
    if text is None and end.last_line.startswith(MARK):
        text = end.last_line.removeprefix(MARK)
    if text is None:
        return success(None, 0)
    content = text.encode()
    if len(content) > INLINE_BYTES:
        said = f"has at most {INLINE_BYTES} bytes; write a larger one into TIDEMILL_RESULT_FILE"
        return failure("result_too_large", f"a result on a line {said}", exit_code=0)
    try:
        return success(msgspec.json.decode(content), 0)
    except (msgspec.DecodeError, RecursionError) as error:
        return failure("invalid_result", f"the result is not JSON: {error}", exit_code=0)
