"""A cluster whose parts die, stand still and lose the network: what was promised is kept."""

import pytest
from benchmarks.chaos import chaos

_FIGURES = {  # everything else that is counted is a defect
    "queue", "seconds", "seed", "faults", "runs", "attempts", "attempts_lost", "poison", "held",
    "promised", "firings_due", "late_p50_seconds", "late_p99_seconds", "late_max_seconds",
}  # fmt: skip


@pytest.mark.slow
def test_a_cluster_under_faults_loses_and_doubles_nothing() -> None:
    found = chaos(seconds=20, scheduled=4, workers=2)

    assert {name: n for name, n in found.items() if n and name not in _FIGURES} == {}, found
    assert found["firings_due"] > 60
    assert found["faults"]
