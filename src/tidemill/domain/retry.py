"""Whether a failed attempt is followed by another, and when."""

import hashlib
from datetime import timedelta

from tidemill.domain.outcome import Outcome
from tidemill.domain.task import Retry
from tidemill.domain.task_run import RunHead

_IN_VAIN = frozenset({"template"})  # another attempt is given the same parameters


def may_retry(run: RunHead, policy: Retry, outcome: Outcome) -> bool:
    """Whether `outcome` of the current attempt leaves another try."""
    return attempts_used(run) < run.max_attempts and is_retryable(policy, outcome)


def may_go_on(run: RunHead) -> bool:
    """Whether any attempt may follow, a lost one's replacement included: not once the task is
    deleted, which allows no attempt more."""
    return run.max_attempts > 0


def attempts_used(run: RunHead) -> int:
    """Attempts that count: those lost or handed back are nobody's fault."""
    return run.attempt - run.losses - run.hand_backs


def is_retryable(policy: Retry, outcome: Outcome) -> bool:
    """Whether the policy lets an ending of this kind be tried again."""
    if outcome.reason in _IN_VAIN:
        return False
    names = _names(outcome)
    if names & {str(name) for name in policy.never_retry_on}:
        return False
    return not policy.retry_on or bool(names & {str(name) for name in policy.retry_on})


def _names(outcome: Outcome) -> set[str]:
    names = {outcome.reason} if outcome.reason else set()
    if outcome.exit_code is not None:
        names.add(str(outcome.exit_code))
    if outcome.exception_type:
        names |= {outcome.exception_type, outcome.exception_type.rpartition(".")[2]}
    return names


def delay_before_retry(run: RunHead, policy: Retry) -> timedelta:
    """How long to wait after the current attempt.

    With jitter, between half of the backoff and the whole of it; a function of run and attempt,
    so that whoever computes it gets the same instant.
    """
    tried = attempts_used(run)
    seconds = min(_backoff_seconds(policy, tried), policy.max_delay_seconds)
    if policy.jitter:
        seconds *= 0.5 + 0.5 * _fraction(f"{run.id}:{run.attempt}")
    return timedelta(seconds=seconds)


def _backoff_seconds(policy: Retry, tried: int) -> float:
    match policy.backoff:
        case "fixed":
            return policy.delay_seconds
        case "linear":
            return policy.delay_seconds * tried
        case "exponential":
            # Beyond 64 doublings the cap decides anyway; the bound keeps the power finite.
            return policy.delay_seconds * policy.factor ** min(tried - 1, 64)


def _fraction(text: str) -> float:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
