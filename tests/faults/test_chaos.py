"""A cluster whose parts die, stand still and lose the network: what was promised is kept."""

import pytest
from benchmarks.chaos import chaos


@pytest.mark.slow
def test_a_cluster_under_faults_loses_and_doubles_nothing() -> None:
    found = chaos(seconds=20, scheduled=4, dispatchers=2, workers=2)

    assert not any(found["defects"].values()), found
    assert found["firings_due"] > 60
    assert found["faults"]
