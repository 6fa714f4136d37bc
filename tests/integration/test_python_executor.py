"""Python tasks in real processes: results, endings, output, and processes that die."""

import asyncio
import os
import select
import signal
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.processes import warden_of

from tidemill.domain.outcome import Outcome
from tidemill.foundation.executor import StopRequest
from tidemill.testing.builders import execution
from tidemill.testing.executors import CollectedReports
from tidemill.worker.executors.containment import Containment
from tidemill.worker.executors.python import PythonExecutor

TASKS = Path(__file__).parent.parent / "tasks"
SHORT = timedelta(seconds=0.3)
LONG = timedelta(minutes=10)

Make = Callable[..., PythonExecutor]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Executors with processes of their own."""
    containment = Containment(tmp_path / "run", owner=str(tmp_path))
    await containment.start()
    made: list[PythonExecutor] = []

    def make(paths: list[str] | None = None, processes: int = 4) -> PythonExecutor:
        made.append(PythonExecutor(containment, paths or [str(TASKS)], processes, 2**26))
        return made[-1]

    yield make
    for executor in made:
        await executor.close()
    await containment.close()


@pytest.fixture
def python(make: Make) -> PythonExecutor:
    return make()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A FIFO that a task waits at."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


async def run(
    python: PythonExecutor, function: str, arguments: Any = None, **fields: Any
) -> tuple[Outcome, CollectedReports]:
    """Run one function of the odd tasks to its end."""
    started = Started(python, function, arguments, **fields)
    return await started.ended(), started.reports


class Started:
    """One function under way."""

    def __init__(
        self, python: PythonExecutor, function: str, arguments: Any = None, **fields: Any
    ) -> None:
        self.reports = CollectedReports()
        self.stop = StopRequest()
        command = function if ":" in function else f"odd_tasks:{function}"
        self._task = asyncio.create_task(
            python.execute(execution(command, arguments, **fields), self.reports, self.stop)
        )

    async def printed(self) -> str:
        """Its first line."""
        await self.reports.until(lambda reports: bool(reports.lines()))
        return self.reports.lines()[0]

    async def ended(self) -> Outcome:
        async with asyncio.timeout(60):
            return await self._task


@pytest.mark.parametrize("value", [None, 0, "ü", [1, {"a": None}], {"b": 1.5}])
async def test_a_function_gets_its_arguments_and_gives_its_result(
    python: PythonExecutor, value: Any
) -> None:
    outcome, _ = await run(python, "give", {"value": value})

    assert (outcome.succeeded, outcome.result) == (True, value)


@pytest.mark.parametrize("function", ["give_unwritable", "give_not_a_number"])
async def test_a_result_that_is_not_json_fails_the_run(
    python: PythonExecutor, function: str
) -> None:
    outcome, _ = await run(python, function)

    assert (outcome.succeeded, outcome.reason) == (False, "invalid_result")


@pytest.mark.parametrize("function", ["give_long", "give_long_later"])
async def test_a_large_result_is_handed_on_in_a_file_which_nobody_finds_any_more(
    python: PythonExecutor, tmp_path: Path, function: str
) -> None:
    outcomes = [
        (await run(python, function, {"length": length}))[0]
        for length in (256 * 1024 - 2, 256 * 1024 - 1, 3_000_000)
    ]

    assert all(outcome.succeeded for outcome in outcomes)
    assert len(outcomes[0].result) == 256 * 1024 - 2
    for outcome, length in zip(outcomes[1:], (256 * 1024 - 1, 3_000_000), strict=True):
        with outcome.result.content as content:
            assert content.read() == b'"%b"' % (b"x" * length)
        assert outcome.result.size == length + 2
    assert list((tmp_path / "run").iterdir()) == []


async def test_nothing_is_left_of_a_result_whose_process_died_while_it_wrote_it(
    python: PythonExecutor, tmp_path: Path
) -> None:
    outcome, _ = await run(python, "die_with_a_result_begun")

    assert (outcome.succeeded, outcome.reason) == (False, "exit_code")
    assert list((tmp_path / "run").iterdir()) == []


async def test_a_result_that_is_too_long_fails_the_run_alone(python: PythonExecutor) -> None:
    outcome, _ = await run(python, "give_long", {"length": 2**26})
    after, _ = await run(python, "give", {"value": 1})

    assert (outcome.succeeded, outcome.reason) == (False, "result_too_large")
    assert after.result == 1


@pytest.mark.parametrize("depth", [900, 970, 985, 5_000])
async def test_a_deeply_nested_result_is_an_outcome(python: PythonExecutor, depth: int) -> None:
    outcome, _ = await run(python, "give_nested", {"depth": depth})
    after, _ = await run(python, "give", {"value": 1})

    assert outcome.succeeded or outcome.reason in ("invalid_result", "exception")
    assert after.result == 1


@pytest.mark.parametrize(
    ("code", "reason", "exit_code"),
    [(None, None, None), (0, None, None), (3, "exit_code", 3), ("sorry", "exit_code", 1)],
)
async def test_leaving_by_exit_is_judged_by_its_code(
    python: PythonExecutor, code: Any, reason: str | None, exit_code: int | None
) -> None:
    outcome, _ = await run(python, "leave", {"code": code})

    assert (outcome.reason, outcome.exit_code) == (reason, exit_code)
    assert outcome.succeeded is (reason is None)


async def test_an_exception_is_named_and_its_trace_is_output(python: PythonExecutor) -> None:
    outcome, reports = await run(python, "fail", {"message": "so it is"})

    assert (outcome.reason, outcome.error_message) == ("exception", "Odd: so it is")
    assert outcome.exception_type == "odd_tasks.Odd"
    assert reports.lines("stderr")[-1] == "odd_tasks.Odd: so it is"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("no_such_module:f", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("odd_tasks:nosuch", "AttributeError: module 'odd_tasks' has no attribute 'nosuch'"),
        ("odd_tasks:NOT_CALLABLE", "TypeError: odd_tasks:NOT_CALLABLE is not callable"),
    ],
)
async def test_a_function_that_is_not_there_is_an_outcome(
    python: PythonExecutor, command: str, said: str
) -> None:
    outcome, _ = await run(python, command)

    assert (outcome.reason, outcome.error_message) == ("exception", said)


async def test_an_argument_that_does_not_fit_is_an_outcome(python: PythonExecutor) -> None:
    outcome, _ = await run(python, "give", {"nosuch": 1})

    assert outcome.reason == "exception"
    assert "unexpected keyword argument 'nosuch'" in str(outcome.error_message)


async def test_a_function_that_asks_for_its_run_is_told_all(python: PythonExecutor) -> None:
    outcome, _ = await run(
        python,
        "tell",
        run_id=41,
        attempt=2,
        parameters={"day": "Müll"},
        scheduled_for=datetime(2026, 3, 1, 2, 3, 4, 567_890, tzinfo=UTC),
        previous_success_at=datetime(2026, 3, 1, tzinfo=UTC),
        missed_count=3,
        shard_index=2,
        shard_total=8,
        flow_run_id="flow",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )

    told = outcome.result
    assert (told["run_id"], told["attempt"], told["missing"]) == (41, 2, 1)
    assert told["parameters"] == {"day": "Müll"}
    assert told["scheduled_for"] == "2026-03-01T02:03:04.567890+00:00"
    assert told["previous_success_at"] == "2026-03-01T00:00:00+00:00"
    assert told["told"] == [3, "flow", 2, 8, told["environment"]["TRACEPARENT"]]
    assert told["environment"]["TIDEMILL_RUN_ID"] == "41"
    assert told["environment"]["TIDEMILL_SCHEDULED_FOR"] == "2026-03-01T02:03:04.567Z"
    assert told["environment"].keys() - told["seen"].keys() == {"TRACEPARENT"}


@pytest.mark.parametrize("function", ["tell_qualified", "tell_from_below"])
async def test_a_run_is_found_by_a_qualified_annotation_and_from_below(
    python: PythonExecutor, function: str
) -> None:
    outcome, _ = await run(python, function, run_id=41)

    assert outcome.result == 41


async def test_settings_of_the_worker_and_facts_of_earlier_runs_are_not_seen(
    python: PythonExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_MASTER_KEY", "secret")
    await run(python, "tell", traceparent="00-a-b-01", flow_run_id="flow")
    outcome, _ = await run(python, "tell")

    assert "TIDEMILL_MASTER_KEY" not in outcome.result["seen"]
    assert outcome.result["seen"]["TIDEMILL_FLOW_RUN_ID"] == ""


async def test_a_run_sees_its_facts_whatever_an_earlier_one_did_to_the_environment(
    make: Make,
) -> None:
    python = make(processes=1)
    await run(python, "forget_the_run")
    outcome, _ = await run(python, "tell")

    assert outcome.result["seen"] == outcome.result["environment"]


async def test_whatever_way_a_function_speaks_it_is_heard(python: PythonExecutor) -> None:
    _, reports = await run(python, "say_by_all_ways")

    assert sorted(reports.lines()) == ["by a child", "printed", "printed in a thread", "raw"]
    assert sorted(reports.lines("stderr")) == ["raw to stderr", "written to stderr"]
    assert reports.lines("log") == ["WARNING odd: logged", "WARNING odd: logged in a thread"]


async def test_what_is_written_past_python_is_complete(python: PythonExecutor) -> None:
    runs = [Started(python, "write_raw", {"count": 50}) for _ in range(200)]
    for each in runs:
        await each.ended()
        assert each.reports.lines() == [str(number) for number in range(50)]


async def test_what_is_logged_is_seen_while_the_function_runs(
    python: PythonExecutor, gate: Path
) -> None:
    running = Started(python, "log_and_wait", {"file": str(gate)})
    async with asyncio.timeout(20):
        await running.reports.until(lambda reports: len(reports.lines("log")) == 3)
    await asyncio.to_thread(gate.write_text, "")

    assert (await running.ended()).succeeded


async def test_a_thread_that_talks_on_harms_no_later_run(make: Make) -> None:
    python = make(processes=1)
    await run(python, "leave_a_thread_talking")
    for number in range(100):
        outcome, _ = await run(python, "give", {"value": number})
        assert outcome.result == number


async def test_progress_and_checkpoints_are_reported(python: PythonExecutor) -> None:
    _, reports = await run(python, "report")

    assert reports.progresses == [(0.25, "a quarter"), (None, "")]
    assert reports.checkpoints == [{"at": 3}]


async def test_a_checkpoint_that_is_not_json_is_the_tasks_own_error(
    python: PythonExecutor,
) -> None:
    outcome, _ = await run(python, "checkpoint_what_cannot_be_kept")

    assert (outcome.reason, outcome.exception_type) == ("exception", "builtins.TypeError")


async def test_a_function_that_is_to_end_can_clean_up_and_its_process_lives_on(
    make: Make,
) -> None:
    python = make(processes=1)
    running = Started(python, "clean_up_when_cancelled")
    process = await running.printed()
    running.stop.request(LONG)
    outcome = await running.ended()
    following = Started(python, "clean_up_when_cancelled")

    assert outcome.exception_type == "tidemill.task_context.TaskCancelled"
    assert running.reports.lines()[-1] == "cleaned up"
    assert await following.printed() == process
    following.stop.request(LONG)
    await following.ended()


async def test_a_function_that_prints_all_the_time_can_be_ended(make: Make) -> None:
    python = make(processes=1)
    for _ in range(20):
        running = Started(python, "print_for_ever")
        await running.printed()
        running.stop.request(LONG)
        outcome = await running.ended()
        assert outcome.exception_type == "tidemill.task_context.TaskCancelled"


async def test_a_function_that_reports_all_the_time_can_be_ended(make: Make) -> None:
    python = make(processes=1)
    for _ in range(10):
        running = Started(python, "report_for_ever")
        await running.reports.until(lambda reports: len(reports.progresses) > 200)
        running.stop.request(LONG)
        outcome = await running.ended()
        assert outcome.exception_type == "tidemill.task_context.TaskCancelled"


async def test_a_function_that_kills_its_slot_is_ended_and_the_next_one_runs(make: Make) -> None:
    python = make(processes=1)
    running = Started(python, "kill_the_slot")
    outcome = await running.ended()
    after, _ = await run(python, "give", {"value": 1})

    assert (outcome.succeeded, outcome.reason) == (False, "killed")
    assert after.result == 1


async def test_a_function_that_refuses_to_end_is_killed_and_its_process_replaced(
    make: Make,
) -> None:
    python = make(processes=1)
    running = Started(python, "swallow_everything")
    process = os.pidfd_open(int(await running.printed()))
    running.stop.request(SHORT)
    outcome = await running.ended()
    after, _ = await run(python, "give", {"value": 1})

    assert is_gone(process)
    os.close(process)
    assert (outcome.reason, outcome.exit_code) == ("signal", -signal.SIGKILL)
    assert after.result == 1


async def test_a_run_that_was_to_end_before_it_began_does_not_begin(
    python: PythonExecutor,
) -> None:
    await run(python, "give")
    await run(python, "give_async")
    for function in ("swallow_everything", "give_async"):
        started = Started(python, function)
        started.stop.request(LONG)
        outcome = await started.ended()
        assert (outcome.succeeded, outcome.reason) == (False, "cancelled")
        assert started.reports.lines() == []


async def test_a_function_that_is_to_end_as_it_begins_hears_it(make: Make) -> None:
    python = make(processes=1)
    await run(python, "give")
    for turns in (1, 2, 3, 3, 3, 3):  # of the loop: to be sent, not to have begun
        started = Started(python, "clean_up_when_cancelled")
        for _ in range(turns):
            await asyncio.sleep(0)
        started.stop.request(LONG)
        async with asyncio.timeout(10):
            outcome = await started.ended()
        assert outcome.reason in ("cancelled", "exception")


async def test_runs_of_an_async_function_that_nobody_knew_share_a_loop_at_once(make: Make) -> None:
    python = make(processes=1)
    running = [Started(python, "wait_async") for _ in range(4)]
    processes = {await each.printed() for each in running}
    for each in running:
        each.stop.request(LONG)
    outcomes = [await each.ended() for each in running]

    assert len(processes) == 1
    assert {outcome.reason for outcome in outcomes} == {"exception"}


async def test_a_function_whose_process_dies_does_not_pass_for_the_async_one_before_it(
    make: Make, tmp_path: Path
) -> None:
    python = make(processes=1)
    await run(python, "give_async")
    dead, _ = await run(python, "die_once", {"file": str(tmp_path / "died")})
    again, _ = await run(python, "die_once", {"file": str(tmp_path / "died")})

    assert dead.reason == "exit_code"
    assert again.result == "alive"


async def test_a_run_that_waits_for_a_process_can_be_given_up(make: Make, gate: Path) -> None:
    python = make(processes=1)
    holding = Started(python, "wait_for", {"file": str(gate)})
    await holding.printed()
    waiting = Started(python, "give")
    behind = Started(python, "give", {"value": 2})
    await asyncio.sleep(0)
    waiting.stop.request(LONG)

    assert (await waiting.ended()).reason == "cancelled"
    await asyncio.to_thread(gate.write_text, "x")
    assert (await holding.ended()).result == "x"
    assert (await behind.ended()).result == 2


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
async def test_a_process_that_crashes_is_an_outcome_with_its_last_words(
    make: Make, number: signal.Signals
) -> None:
    python = make(processes=1)
    outcome, reports = await run(python, "die", {"number": number})
    after, _ = await run(python, "give", {"value": 1})

    assert (outcome.reason, outcome.exit_code) == ("signal", -number)
    assert reports.lines() == ["last words"]
    assert after.result == 1


@pytest.mark.parametrize("code", [0, 7])
async def test_a_function_that_ends_its_process_has_failed(make: Make, code: int) -> None:
    python = make(processes=1)
    outcome, _ = await run(python, "quit_at_once", {"code": code})
    after, _ = await run(python, "give", {"value": 1})

    assert (outcome.succeeded, outcome.reason, outcome.exit_code) == (False, "exit_code", code)
    assert after.result == 1


async def test_children_that_a_function_leaves_behind_are_gone(
    python: PythonExecutor, gate: Path
) -> None:
    running = Started(python, "leave_children_behind", parameters={"gate": str(gate)})
    children = [os.pidfd_open(int(pid)) for pid in (await running.printed()).split()]
    await asyncio.to_thread(gate.write_text, "")
    outcome = await running.ended()

    assert outcome.succeeded
    assert [is_gone(child) for child in children] == [True, True, True]
    for child in children:
        os.close(child)


async def test_an_async_function_is_moved_to_the_shared_loop_and_gives_its_result_there_too(
    python: PythonExecutor,
) -> None:
    for number in range(3):
        outcome, reports = await run(python, "give_async", {"value": number})
        assert (outcome.result, reports.lines()) == (number, ["async says"])
    failed, _ = await run(python, "fail_async")

    assert (failed.reason, failed.exception_type) == ("exception", "odd_tasks.Odd")


async def learned(python: PythonExecutor, function: str) -> None:
    """Let the executor find out that this one is async: its first run tells."""
    started = Started(python, function)
    await started.printed()
    started.stop.request(LONG)
    await started.ended()


async def test_threads_of_an_async_function_may_print(python: PythonExecutor) -> None:
    await run(python, "say_in_threads_async")  # the first run finds out that it is async
    outcome, reports = await run(python, "say_in_threads_async")

    assert outcome.succeeded
    assert reports.lines() == ["0", "1", "2", "3", "4"]


async def test_an_async_function_that_is_to_end_is_cancelled_and_others_go_on(
    python: PythonExecutor,
) -> None:
    await learned(python, "wait_async")
    one, other = Started(python, "wait_async"), Started(python, "wait_async")
    process, same = await one.printed(), await other.printed()
    one.stop.request(LONG)
    outcome = await one.ended()
    still, _ = await run(python, "give_async")
    other.stop.request(LONG)
    await other.ended()

    assert process == same
    assert outcome.exception_type == "asyncio.exceptions.CancelledError"
    assert one.reports.lines()[-1] == "cleaned up"
    assert still.succeeded


async def test_an_async_function_that_is_to_end_as_it_begins_does_not_cost_the_others(
    python: PythonExecutor,
) -> None:
    await learned(python, "wait_async")
    other = Started(python, "wait_async")
    await other.printed()
    early = Started(python, "wait_async")
    for _ in range(3):  # far enough to have been sent, not far enough to have begun
        await asyncio.sleep(0)
    early.stop.request(SHORT)
    outcome = await early.ended()
    other.stop.request(LONG)

    assert outcome.exception_type == "asyncio.exceptions.CancelledError"
    assert (await other.ended()).exception_type == "asyncio.exceptions.CancelledError"


async def test_an_async_function_that_blocks_the_loop_is_killed_and_the_others_handed_back(
    python: PythonExecutor,
) -> None:
    await learned(python, "wait_async")
    await run(python, "block_the_loop", {"block": False})
    other = Started(python, "wait_async")
    await other.printed()
    blocking = Started(python, "block_the_loop")
    await blocking.printed()
    blocking.stop.request(SHORT)
    killed, handed_back = await blocking.ended(), await other.ended()
    again, _ = await run(python, "give_async", {"value": 1})

    assert (killed.reason, killed.exit_code) == ("signal", -signal.SIGKILL)
    assert handed_back.reason == "executor_lost"
    assert again.result == 1


async def test_modules_are_found_on_the_paths_that_are_set(make: Make, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f():\n    return 'mine'\n")
    outcome, _ = await run(make([str(tmp_path)]), "mine:f")

    assert outcome.result == "mine"


async def test_many_functions_run_at_once_in_as_many_processes_as_are_allowed(
    make: Make, gate: Path
) -> None:
    python = make(processes=3)
    ended = await asyncio.gather(*(run(python, "give", {"value": n}) for n in range(60)))
    together = [Started(python, "wait_for", {"file": str(gate)}) for _ in range(3)]
    processes = {await each.printed() for each in together}
    for each in together:
        each.stop.request(LONG)
        await each.ended()

    assert [outcome.result for outcome, _ in ended] == list(range(60))
    assert len(processes) == 3


async def test_a_process_that_cannot_start_says_why_and_all_that_wait_are_told(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('a broken path')\n")
    with monkeypatch.context() as broken:
        broken.setenv("PYTHONPATH", str(tmp_path))
        python = make()
        failed = await asyncio.gather(*(run(python, "give") for _ in range(3)))
    mended, _ = await run(python, "give", {"value": 1})

    for outcome, _ in failed:
        assert outcome.reason == "not_started"
        assert "RuntimeError: a broken path" in str(outcome.error_message)
    assert mended.result == 1


async def test_an_async_function_whose_process_cannot_start_is_told_so_and_can_be_closed(
    python: PythonExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(python, "give")  # whose process will find out that the other is async
    (tmp_path / "json.py").write_text("raise RuntimeError('a broken path')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outcome, _ = await run(python, "give_async")

    assert outcome.reason == "not_started"
    assert "RuntimeError: a broken path" in str(outcome.error_message)
    await python.close()


async def test_a_function_whose_process_finds_the_warden_dead_is_told_so(
    python: PythonExecutor,
) -> None:
    await run(python, "give_async")
    await run(python, "quit_async")
    warden = warden_of(os.getpid())
    os.kill(warden, signal.SIGKILL)
    wait_until_dead(warden)
    given = execution("odd_tasks:give_async")
    outcome = await python.execute(given, CollectedReports(), StopRequest())
    after, _ = await run(python, "give_async", {"value": 1})

    assert outcome.reason == "not_started"
    assert after.result == 1


@pytest.mark.parametrize("command", ["f", "m:", ":f", "m:f()", "a-b:f", "m:f:g", "m f:g"])
def test_a_command_that_names_no_function_is_refused(command: str) -> None:
    assert PythonExecutor(Containment(Path("unused"), "unused"), [], 1, 0).check(command, {})


def test_arguments_that_are_no_mapping_are_refused() -> None:
    assert PythonExecutor(Containment(Path("unused"), "unused"), [], 1, 0).check("m:f", [1])


def wait_until_dead(child: int) -> None:
    """Block the loop as well, so that the executor cannot have noticed."""
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)


def is_gone(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


async def quick_by_habit(python: PythonExecutor) -> None:
    """Let the executor learn that the function is quick."""
    for _ in range(2):
        await run(python, "quick_unless")


async def test_runs_behind_one_that_ends_its_process_go_to_another(make: Make) -> None:
    python = make(processes=1)
    await quick_by_habit(python)
    before = [Started(python, "quick_unless") for _ in range(2)]
    fatal = Started(python, "quick_unless", {"exit_code": 3})
    behind = [Started(python, "quick_unless") for _ in range(20)]

    assert (await fatal.ended()).exit_code == 3
    assert {(await each.ended()).result for each in [*before, *behind]} == {"quick"}


async def test_what_ended_before_a_process_died_is_heard_and_not_run_again(
    make: Make, tmp_path: Path
) -> None:
    python, begun = make(processes=1), tmp_path / "begun"
    await quick_by_habit(python)
    told = {"begun": str(begun)}
    before = [Started(python, "quick_unless", told) for _ in range(15)]
    fatal = Started(python, "quick_unless", told | {"exit_code": 3})
    behind = [Started(python, "quick_unless", told) for _ in range(20)]

    assert (await fatal.ended()).exit_code == 3
    assert {(await each.ended()).result for each in [*before, *behind]} == {"quick"}
    assert begun.stat().st_size == 36


async def test_runs_behind_one_that_turns_out_slow_go_to_another_process(make: Make) -> None:
    python = make(processes=2)
    await quick_by_habit(python)
    slow = Started(python, "quick_unless", {"sleep": True})
    behind = [Started(python, "quick_unless") for _ in range(20)]

    assert {(await each.ended()).result for each in behind} == {"quick"}
    slow.stop.request(SHORT)
    assert (await slow.ended()).exception_type == "tidemill.task_context.TaskCancelled"


async def test_a_run_that_is_to_end_while_it_stands_behind_another_is_not_begun(
    make: Make,
) -> None:
    python = make(processes=1)
    await quick_by_habit(python)
    slow = Started(python, "quick_unless", {"sleep": True})
    await slow.printed()
    behind = Started(python, "quick_unless", {"sleep": True})
    behind.stop.request(LONG)

    assert (await behind.ended()).succeeded is False
    assert behind.reports.lines() == []
    slow.stop.request(SHORT)
    await slow.ended()
