"""Commands, argv, environment, results and output of shell tasks, in real processes."""

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tidemill.domain.outcome import Outcome
from tidemill.foundation.executor import LargeResult, StopRequest
from tidemill.testing.builders import execution
from tidemill.testing.executors import CollectedReports
from tidemill.worker.executors.containment import Containment
from tidemill.worker.executors.shell import ShellExecutor

KIBIBYTE = 1024
MEBIBYTE = 1024 * KIBIBYTE

_OF_THE_C_LIBRARY = 1 << 31 | 1 << 32  # signals 32 and 33, which it keeps to itself


@pytest.fixture
def _quit_ignored() -> Iterator[None]:
    """What a process inherits that a shell started in its background."""
    before = signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGQUIT, before)


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[ShellExecutor]:
    containment = Containment(tmp_path / "run", owner=str(tmp_path))
    await containment.start()
    yield ShellExecutor(containment)
    await containment.close()


async def run(
    shell: ShellExecutor, command: str, arguments: Any = None, **fields: Any
) -> tuple[Outcome, CollectedReports]:
    """Run a command to its end."""
    reports = CollectedReports()
    outcome = await shell.execute(execution(command, arguments, **fields), reports, StopRequest())
    return outcome, reports


async def run_python(shell: ShellExecutor, code: str) -> tuple[Outcome, CollectedReports]:
    """Run Python code as a command."""
    return await run(shell, sys.executable, ["-c", code])


def line_numbers(reports: CollectedReports) -> list[int]:
    """The number of every line, in the order of the reports."""
    numbers = []
    for chunk in reports.chunks:
        count = chunk.text.count("\n") + (not chunk.text.endswith("\n"))
        numbers += range(chunk.first_line, chunk.first_line + count)
    return numbers


async def test_a_result_is_the_last_line_that_is_marked(shell: ShellExecutor) -> None:
    outcome, reports = await run(shell, """echo one; echo '::result:: {"n": [1]}'; echo; echo""")

    assert (outcome.succeeded, outcome.exit_code, outcome.result) == (True, 0, {"n": [1]})
    assert reports.lines()[0] == "one"


async def test_a_mark_before_the_last_line_is_no_result(shell: ShellExecutor) -> None:
    outcome, _ = await run(shell, "echo '::result:: 1'; echo done")

    assert (outcome.succeeded, outcome.result) == (True, None)


async def test_a_mark_on_stderr_is_no_result(shell: ShellExecutor) -> None:
    outcome, _ = await run(shell, "echo '::result:: 1' >&2")

    assert (outcome.succeeded, outcome.result) == (True, None)


async def test_a_result_file_comes_before_a_marked_line(shell: ShellExecutor) -> None:
    outcome, _ = await run(
        shell, """echo '[1, 2]' > "$TIDEMILL_RESULT_FILE"; echo '::result:: 1'"""
    )

    assert outcome.result == [1, 2]


async def test_a_result_file_is_not_seen_by_the_next_run(shell: ShellExecutor) -> None:
    await run(shell, 'echo 1 > "$TIDEMILL_RESULT_FILE"')
    outcome, _ = await run(shell, '[ ! -e "$TIDEMILL_RESULT_FILE" ]')

    assert (outcome.succeeded, outcome.result) == (True, None)


@pytest.mark.parametrize("what", ["mkfifo", "mkdir", "ln -s /nowhere"])
async def test_a_result_file_that_is_no_file_is_no_result_and_harms_no_later_run(
    shell: ShellExecutor, what: str
) -> None:
    async with asyncio.timeout(20):
        odd, _ = await run(shell, f'{what} "$TIDEMILL_RESULT_FILE"')
        later, _ = await run(shell, 'echo 2 > "$TIDEMILL_RESULT_FILE"')

    assert (odd.succeeded, odd.result) == (True, None)
    assert (later.succeeded, later.result) == (True, 2)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("{", "invalid_result"),
        ("[" * 5_000, "invalid_result"),
    ],
)
@pytest.mark.parametrize("way", ["line", "file"])
async def test_a_result_that_cannot_be_kept_fails_the_run(
    shell: ShellExecutor, said: str, reason: str, way: str
) -> None:
    command = {"line": "printf '::result:: '; cat", "file": 'cat > "$TIDEMILL_RESULT_FILE"'}[way]
    outcome, _ = await run(shell, command, {"stdin": said})

    assert (outcome.succeeded, outcome.reason) == (False, reason)


async def test_a_large_result_is_handed_on_in_its_file_which_nobody_finds_any_more(
    shell: ShellExecutor, tmp_path: Path
) -> None:
    said = json.dumps("x" * 2 * MEBIBYTE)
    outcome, _ = await run(shell, 'cat > "$TIDEMILL_RESULT_FILE"', {"stdin": said})
    failed, _ = await run(shell, 'cat > "$TIDEMILL_RESULT_FILE"; exit 3', {"stdin": said})

    assert (outcome.succeeded, outcome.exit_code) == (True, 0)
    with outcome.result.content as content:
        assert (outcome.result.size, content.read().decode()) == (len(said), said)
    assert (failed.reason, failed.result) == ("exit_code", None)
    assert list((tmp_path / "run").iterdir()) == []


async def test_a_large_result_on_a_line_is_told_where_to_go(shell: ShellExecutor) -> None:
    said = json.dumps("x" * 256 * KIBIBYTE)
    outcome, _ = await run(shell, "printf '::result:: '; cat", {"stdin": said})

    assert (outcome.succeeded, outcome.reason) == (False, "result_too_large")
    assert "TIDEMILL_RESULT_FILE" in (outcome.error_message or "")


@pytest.mark.parametrize("what", ["mkfifo", "mkdir", "ln -s /nowhere", "ln -s ../../large"])
async def test_what_stands_in_place_of_a_large_result_is_none(
    shell: ShellExecutor, tmp_path: Path, what: str
) -> None:
    (tmp_path / "large").write_bytes(b"1" * MEBIBYTE)
    async with asyncio.timeout(20):
        outcome, _ = await run(shell, f'cd "$(dirname "$TIDEMILL_RESULT_FILE")" && {what} '
                                      '"$TIDEMILL_RESULT_FILE"')  # fmt: skip

    assert not isinstance(outcome.result, LargeResult)


async def test_a_result_longer_than_a_line_of_output_is_kept_whole(shell: ShellExecutor) -> None:
    text = "ü" * 100 * KIBIBYTE
    outcome, _ = await run(
        shell,
        "echo before; printf '::result:: '; cat; echo",
        {"stdin": json.dumps(text, ensure_ascii=False)},
    )

    assert outcome.result == text


async def test_a_command_is_told_all_about_its_run(
    shell: ShellExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_MASTER_KEY", "secret")
    monkeypatch.setenv("TIDEMILL_DATABASE__URL", "postgresql://user:secret@host/db")
    monkeypatch.setenv("PLAIN", "inherited")
    outcome, _ = await run(
        shell,
        sys.executable,
        {
            "argv": ["-c", "import json, os; print('::result::', json.dumps(dict(os.environ)))"],
            "environment": {"MINE": "ü", "PLAIN": "mine", "TIDEMILL_RUN_ID": "forged"},
        },
        run_id=41,
        task_id=5,
        task_name="nächtlich 'report'",
        namespace="team",
        attempt=2,
        fence=9,
        parameters={"day": "montag", "n": [1, None]},
        scheduled_for=datetime(2026, 3, 1, 2, 3, 4, 567_890, tzinfo=UTC),
        previous_success_at=datetime(2026, 2, 28, tzinfo=UTC),
        missed_count=3,
        shard_index=2,
        shard_total=8,
        flow_run_id="flow-1",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )

    told = {name: value for name, value in outcome.result.items() if name.startswith("TIDEMILL")}
    assert Path(told.pop("TIDEMILL_RESULT_FILE")).is_absolute()
    told.pop("TIDEMILL_CONTAINMENT")
    assert told == {
        "TIDEMILL_RUN_ID": "41",
        "TIDEMILL_TASK_ID": "5",
        "TIDEMILL_TASK_NAME": "nächtlich 'report'",
        "TIDEMILL_NAMESPACE": "team",
        "TIDEMILL_ATTEMPT": "2",
        "TIDEMILL_FENCE": "9",
        "TIDEMILL_SCHEDULED_FOR": "2026-03-01T02:03:04.567Z",
        "TIDEMILL_PREVIOUS_SUCCESS_AT": "2026-02-28T00:00:00.000Z",
        "TIDEMILL_MISSED_COUNT": "3",
        "TIDEMILL_FLOW_RUN_ID": "flow-1",
        "TIDEMILL_SHARD_INDEX": "2",
        "TIDEMILL_SHARD_TOTAL": "8",
        "TIDEMILL_PARAMETERS": '{"day":"montag","n":[1,null]}',
    }
    assert outcome.result["TRACEPARENT"] == (
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    )
    assert (outcome.result["MINE"], outcome.result["PLAIN"]) == ("ü", "mine")


async def test_what_is_not_known_of_a_run_is_empty(shell: ShellExecutor) -> None:
    outcome, reports = await run(
        shell,
        'echo "[$TIDEMILL_PREVIOUS_SUCCESS_AT][$TIDEMILL_FLOW_RUN_ID][$TIDEMILL_MISSED_COUNT]'
        '[$TIDEMILL_PARAMETERS][${TRACEPARENT-unset}]"',
    )

    assert outcome.succeeded
    assert reports.lines() == ["[][][0][{}][unset]"]


async def test_a_program_gets_its_arguments_as_they_are(shell: ShellExecutor) -> None:
    given = ["a b", "$HOME", ";id", "*", "", "'\"\\", "ü\n"]
    outcome, _ = await run(
        shell,
        sys.executable,
        ["-c", "import json, sys; print('::result::', json.dumps(sys.argv[1:]))", *given],
    )

    assert outcome.result == given


async def test_a_line_is_read_by_the_shell_that_was_asked_for(shell: ShellExecutor) -> None:
    _, plain = await run(shell, 'echo "$0"')
    _, chosen = await run(shell, 'echo "$0"', {"shell": "/bin/bash"})

    assert (plain.lines(), chosen.lines()) == (["/bin/sh"], ["/bin/bash"])


async def test_a_command_starts_at_home_or_where_it_was_told_to(
    shell: ShellExecutor, tmp_path: Path
) -> None:
    _, plain = await run(shell, "pwd")
    _, chosen = await run(shell, "pwd", {"working_directory": str(tmp_path)})

    assert plain.lines() == [str(Path.home())]
    assert chosen.lines() == [str(tmp_path)]


async def test_a_command_reads_what_it_was_given_and_nothing_by_default(
    shell: ShellExecutor,
) -> None:
    _, plain = await run(shell, "wc -c")
    _, given = await run(shell, "cat", {"stdin": "ü\n" * 100_000})

    assert plain.text().strip() == "0"
    assert given.text() == "ü\n" * 100_000


async def test_a_command_holds_no_descriptor_of_the_worker(shell: ShellExecutor) -> None:
    held = os.open("/dev/null", os.O_RDONLY)
    outcome, _ = await run(
        shell,
        sys.executable,
        ["-c", "import os; print('::result::', sorted(map(int, os.listdir('/proc/self/fd'))))"],
    )
    os.close(held)

    assert outcome.result == [0, 1, 2, 3]  # the fourth is the listing itself


@pytest.mark.usefixtures("_quit_ignored")
async def test_a_command_leads_a_session_and_has_no_signal_blocked_or_ignored(
    shell: ShellExecutor,
) -> None:
    _, reports = await run(
        shell, "grep -E 'SigBlk|SigIgn' /proc/self/status; ps -o sid= -p $$; echo $$"
    )

    blocked, ignored, session, own = reports.lines()
    assert int(blocked.split()[1], 16) == 0
    assert int(ignored.split()[1], 16) & ~_OF_THE_C_LIBRARY == 0
    assert session.strip() == own


@pytest.mark.parametrize(
    ("command", "reason", "code"),
    [
        ("exit 0", None, 0),
        ("exit 3", "exit_code", 3),
        ("exit 255", "exit_code", 255),
        ("kill -9 $$", "signal", -9),
        ("kill -SEGV $$", "signal", -11),
        ("no-such-program-at-all", "exit_code", 127),
    ],
)
async def test_a_command_is_judged_by_how_it_ended(
    shell: ShellExecutor, command: str, reason: str | None, code: int
) -> None:
    outcome, _ = await run(shell, command)

    assert (outcome.succeeded, outcome.reason, outcome.exit_code) == (code == 0, reason, code)


async def test_a_result_of_a_command_that_failed_is_not_kept(shell: ShellExecutor) -> None:
    outcome, _ = await run(shell, "echo '::result:: 1'; exit 1")

    assert (outcome.succeeded, outcome.result) == (False, None)


async def test_a_program_that_does_not_exist_is_named(shell: ShellExecutor) -> None:
    outcome, _ = await run(shell, "no-such-program", ["x"])

    assert (outcome.succeeded, outcome.reason) == (False, "not_started")
    assert outcome.error_message == (
        "cannot start 'no-such-program': No such file or directory: no-such-program; "
        "is it installed on this worker?"
    )


async def test_a_directory_that_does_not_exist_is_named(shell: ShellExecutor) -> None:
    outcome, _ = await run(shell, "echo hello", {"working_directory": "/no/such/directory"})

    assert outcome.reason == "not_started"
    assert outcome.error_message == (
        "cannot start 'echo hello': No such file or directory: /no/such/directory"
    )


async def test_a_program_that_may_not_be_run_is_named(shell: ShellExecutor) -> None:
    outcome, _ = await run(shell, "/etc/passwd", [])

    assert outcome.reason == "not_started"
    assert outcome.error_message == "cannot start '/etc/passwd': Permission denied: /etc/passwd"


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("a\0b", {}),
        (" ", {}),
        ("x", {"argv": ["a\0b"]}),
        ("x", {"environment": {"A": "a\0b"}}),
        ("x", {"environment": {"A=B": "c"}}),
        ("x", {"working_directory": "/a\0b"}),
        ("x", {"shell": ""}),
        ("x", {"argv": "a"}),
        ("x", {"nosuch": 1}),
        ("x", "text"),
    ],
)
def test_a_definition_that_cannot_be_started_is_refused(command: str, arguments: Any) -> None:
    assert ShellExecutor(Containment(Path("unused"), "unused")).check(command, arguments)


@pytest.mark.parametrize("arguments", [{}, [], ["a"], {"stdin": "a\0b"}, {"argv": []}])
def test_a_definition_that_can_be_started_is_accepted(arguments: Any) -> None:
    assert not ShellExecutor(Containment(Path("unused"), "unused")).check("x", arguments)


async def test_parameters_too_long_for_an_environment_are_an_outcome(shell: ShellExecutor) -> None:
    outcome, _ = await run(shell, "true", parameters={"text": "x" * 200 * KIBIBYTE})
    after, _ = await run(shell, "true")

    assert (outcome.succeeded, outcome.reason) == (False, "not_started")
    assert outcome.error_message == "cannot start 'true': Argument list too long: /bin/sh"
    assert after.succeeded


async def test_text_that_no_program_can_be_given_is_an_outcome(shell: ShellExecutor) -> None:
    outcome, _ = await run(shell, "true", ["\ud800"])
    after, _ = await run(shell, "true")

    assert (outcome.succeeded, outcome.reason) == (False, "not_started")
    assert after.succeeded


async def test_output_is_text_whatever_bytes_it_is_made_of(shell: ShellExecutor) -> None:
    _, reports = await run(shell, r"printf 'a\377b\n\0c\nno newline'")

    assert reports.text() == "a\ufffdb\n\ufffdc\nno newline"
    assert line_numbers(reports) == [0, 1, 2]


async def test_lines_of_both_streams_are_numbered_together(shell: ShellExecutor) -> None:
    code = "for i in range(500): print(i, file=(sys.stdout, sys.stderr)[i % 2], flush=True)"
    _, reports = await run_python(shell, f"import sys\n{code}")

    assert sorted(line_numbers(reports)) == list(range(500))
    assert reports.lines("stdout") == [str(i) for i in range(0, 500, 2)]
    assert reports.lines("stderr") == [str(i) for i in range(1, 500, 2)]


@pytest.mark.parametrize("ending", ["", "\n"])
async def test_a_line_longer_than_64_kib_is_split_between_characters(
    shell: ShellExecutor, ending: str
) -> None:
    text = "€" * 100_000
    _, reports = await run(shell, "cat", {"stdin": text + ending})

    pieces = reports.lines()
    assert "".join(pieces) == text
    assert max(len(piece.encode()) for piece in pieces) <= 64 * KIBIBYTE
    assert line_numbers(reports) == list(range(len(pieces)))


async def test_output_is_reported_while_the_command_runs(
    shell: ShellExecutor, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    reports = CollectedReports()
    running = asyncio.create_task(
        shell.execute(
            execution(f"echo first; echo second >&2; read go < {gate}; echo $go"),
            reports,
            StopRequest(),
        )
    )
    await reports.until(lambda r: r.lines() == ["first"] and r.lines("stderr") == ["second"])
    await asyncio.to_thread(gate.write_text, "third\n")

    assert (await running).succeeded
    assert reports.lines() == ["first", "third"]


async def test_of_much_output_the_head_and_the_tail_are_kept_and_the_cut_is_marked(
    shell: ShellExecutor,
) -> None:
    lines = 600_000
    _, reports = await run(shell, "seq", ["1", str(lines)])

    kept = reports.lines()
    mark = reports.lines("log")
    whole = "".join(f"{i}\n" for i in range(1, lines + 1))
    cut = whole.removeprefix(reports.text()[: reports.text().index(_after_cut(kept))])
    assert kept[0] == "1"
    assert kept[-1] == str(lines)
    assert MEBIBYTE - 10 < len(whole) - len(cut) <= MEBIBYTE
    assert 2 * MEBIBYTE - 20 < len(reports.text()) <= 2 * MEBIBYTE
    gone = lines - len(kept)
    assert mark == [
        f"... {gone} lines ({len(whole) - len(reports.text())} bytes) were cut here ..."
    ]
    numbers = line_numbers(reports)
    assert numbers == sorted(numbers)
    missing = set(range(lines)) - set(numbers)
    assert len(missing) == gone - 1  # the mark stands where the first of them stood


def _after_cut(kept: list[str]) -> str:
    before = next(i for i, (a, b) in enumerate(itertools.pairwise(kept)) if int(b) != int(a) + 1)
    return f"{kept[before + 1]}\n"


async def test_output_of_both_streams_past_the_cap_ends_with_the_last_of_each(
    shell: ShellExecutor,
) -> None:
    code = "for i in range(300000): print(i); print(-i, file=sys.stderr)"
    _, reports = await run_python(shell, f"import sys\n{code}")

    assert reports.lines()[-1] == "299999"
    assert reports.lines("stderr")[-1] == "-299999"
    assert len(reports.lines("log")) == 1
    numbers = line_numbers(reports)
    assert numbers == sorted(set(numbers))


async def test_one_line_of_many_megabytes_costs_no_run(shell: ShellExecutor) -> None:
    outcome, reports = await run(shell, "head -c 5000000 /dev/zero | tr '\\0' x; echo; echo end")

    assert outcome.succeeded
    assert reports.lines()[-1] == "end"
    assert len(reports.text()) <= 2 * MEBIBYTE + 64
    assert len(reports.lines("log")) == 1


async def test_many_commands_run_at_once(shell: ShellExecutor) -> None:
    ended = await asyncio.gather(*(run(shell, f"echo {n}; exit {n}") for n in range(30)))

    assert [outcome.exit_code for outcome, _ in ended] == list(range(30))
    assert [reports.lines() for _, reports in ended] == [[str(n)] for n in range(30)]


async def test_a_command_that_was_to_end_before_it_started_never_starts(
    shell: ShellExecutor, tmp_path: Path
) -> None:
    stop = StopRequest()
    stop.request(timedelta(seconds=5))
    outcome = await shell.execute(
        execution(f"touch {tmp_path}/started; sleep 600"), CollectedReports(), stop
    )

    assert (outcome.succeeded, outcome.reason) == (False, "cancelled")
    assert not (tmp_path / "started").exists()


async def test_a_request_to_end_a_run_that_is_over_does_not_end_the_next_one(
    shell: ShellExecutor, tmp_path: Path
) -> None:
    over = StopRequest()
    await shell.execute(execution("true"), CollectedReports(), over)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    reports = CollectedReports()
    running = asyncio.create_task(
        shell.execute(execution(f"echo here; cat {gate}"), reports, StopRequest())
    )
    await reports.until(lambda r: r.lines() == ["here"])
    over.request(timedelta(0))
    await asyncio.to_thread(gate.write_text, "")

    assert (await running).succeeded


async def test_the_largest_parameters_that_a_trigger_takes_reach_the_command(
    shell: ShellExecutor,
) -> None:
    largest = {"p": "é" * ((65_536 - 8) // 6)}
    outcome, reports = await run(shell, "echo ${#TIDEMILL_PARAMETERS}", parameters=largest)

    assert outcome.succeeded
    assert 65_530 <= int(reports.text()) <= 65_536
