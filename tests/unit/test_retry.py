"""Whether a failed attempt is followed by another, and when."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.new_run import fired_run
from tidemill.domain.outcome import Outcome, failure
from tidemill.domain.retry import delay_before_retry, is_retryable, may_retry
from tidemill.domain.task import Retry
from tidemill.domain.task_run import TaskRun
from tidemill.testing.builders import task
from tidemill.testing.clock import START

EXIT_75 = failure("exit_code", "exit code 75", exit_code=75)
RAISED = failure("exception", "boom", exception_type="builtins.ValueError")


def tried(attempt: int, run_id: int = 7, **fields: Any) -> TaskRun:
    run = fired_run(task(), START, START)
    return msgspec.structs.replace(run, id=run_id, attempt=attempt, **fields)


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [
        ("fixed", [10, 10, 10, 10]),
        ("linear", [10, 20, 30, 40]),
        ("exponential", [10, 30, 90, 100]),
    ],
)
def test_the_wait_grows_as_the_policy_says_up_to_its_cap(
    backoff: Any, expected: list[float]
) -> None:
    policy = Retry(5, 10, backoff, factor=3.0, max_delay_seconds=100, jitter=False)

    waits = [delay_before_retry(tried(attempt), policy) for attempt in (1, 2, 3, 4)]
    assert waits == [timedelta(seconds=each) for each in expected]


@given(
    attempt=st.integers(1, 10_000),
    run_id=st.integers(1, 2**40),
    backoff=st.sampled_from(["fixed", "linear", "exponential"]),
    delay=st.floats(0, 1e6),
    factor=st.floats(1, 1e3),
    cap=st.floats(0, 1e6),
)
def test_jitter_stays_between_half_of_the_backoff_and_the_whole_and_is_no_accident(
    attempt: int, run_id: int, backoff: Any, delay: float, factor: float, cap: float
) -> None:
    run = tried(attempt, run_id)
    steady = Retry(1, delay, backoff, factor, cap, jitter=False)
    spread = msgspec.structs.replace(steady, jitter=True)
    whole, found = delay_before_retry(run, steady), delay_before_retry(run, spread)

    assert whole <= timedelta(seconds=cap) + timedelta(microseconds=1)
    assert whole / 2 - timedelta(microseconds=1) <= found <= whole
    assert delay_before_retry(run, spread) == found


def test_jitter_differs_between_runs_and_attempts() -> None:
    policy = Retry(5, 3_600, "fixed")
    waits = {delay_before_retry(tried(n, run_id), policy) for n in (1, 2) for run_id in range(50)}

    assert len(waits) == 100


def test_lost_and_handed_back_attempts_count_neither_as_tries_nor_for_the_wait() -> None:
    policy = Retry(1, 10, "linear", jitter=False)
    run = tried(4, losses=2, hand_backs=1, max_attempts=2)

    assert may_retry(run, policy, EXIT_75)
    assert delay_before_retry(run, policy) == timedelta(seconds=10)
    assert not may_retry(msgspec.structs.replace(run, attempt=5), policy, EXIT_75)


@pytest.mark.parametrize(
    ("retry_on", "never_retry_on", "outcome", "expected"),
    [
        ([], [], EXIT_75, True),
        ([75], [], EXIT_75, True),
        (["75"], [], EXIT_75, True),
        ([76], [], EXIT_75, False),
        (["exit_code"], [], EXIT_75, True),
        ([], [75], EXIT_75, False),
        (["exit_code"], [75], EXIT_75, False),  # never wins
        (["ValueError"], [], RAISED, True),
        (["builtins.ValueError"], [], RAISED, True),
        (["exception"], [], RAISED, True),
        (["KeyError"], [], RAISED, False),
        ([], ["ValueError"], RAISED, False),
        (["execution_timeout"], [], failure("execution_timeout", "took too long"), True),
        ([0], [], failure("exception", "boom"), False),
    ],
)
def test_an_ending_is_tried_again_where_the_policy_names_it(
    retry_on: list[str | int], never_retry_on: list[str | int], outcome: Outcome, expected: bool
) -> None:
    policy = Retry(1, retry_on=retry_on, never_retry_on=never_retry_on)

    assert is_retryable(policy, outcome) is expected
    assert may_retry(tried(1, max_attempts=2), policy, outcome) is expected
