"""Every part of a cluster is restarted, or everything is killed at once: nothing is lost by it."""

import pytest
from benchmarks.failover import everything_killed, rolling_restart


@pytest.mark.slow
def test_nobody_notices_that_every_role_is_restarted_in_turn() -> None:
    found = rolling_restart("postgres", rounds=1)["postgres"]

    assert found["failed"] == 0, found
    assert found["attempts_lost"] == 0, found
    assert found["attempts"] == found["runs"]  # none is wasted
    assert found["promises_broken"] == 0
    assert found["retried"] > 0


@pytest.mark.slow
def test_all_that_was_answered_survives_when_everything_is_killed_at_once() -> None:
    found = everything_killed("redis", times=1)["redis"]

    assert not any(found["defects"].values()), found
    assert found["promised"] > 0
