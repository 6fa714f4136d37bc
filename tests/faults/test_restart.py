"""SIGKILL of the whole process while it works: what was promised is kept."""

import pytest
from benchmarks.crashes import crashes


@pytest.mark.slow
def test_a_server_that_is_killed_again_and_again_loses_and_doubles_nothing() -> None:
    found = crashes(kills=5)

    assert not any(found["defects"].values()), found
    assert found["runs"] > 20
    assert found["attempts_lost"] > 0
