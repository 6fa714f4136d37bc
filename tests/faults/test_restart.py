"""SIGKILL of the whole process while it works: what was promised is kept."""

import pytest
from benchmarks.crashes import crashes

_FIGURES = {  # everything else that is counted is a defect
    "kills", "seed", "runs", "effects", "attempts_lost", "restart_p50_seconds",
    "restart_max_seconds", "fire_times", "promised", "one_shots",
}  # fmt: skip


@pytest.mark.slow
def test_a_server_that_is_killed_again_and_again_loses_and_doubles_nothing() -> None:
    found = crashes(kills=5)

    assert {name: n for name, n in found.items() if n and name not in _FIGURES} == {}, found
    assert found["runs"] > 20
    assert found["attempts_lost"] > 0
