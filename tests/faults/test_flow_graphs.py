"""Random graphs of tasks, some of which fail, while processes are killed: each runs when it may."""

import pytest
from benchmarks.flow_graphs import flow_graphs


@pytest.mark.slow
@pytest.mark.timeout(600)  # a machine that is busy takes long to start so many processes
def test_graphs_of_tasks_keep_their_order_and_end_while_processes_are_killed() -> None:
    found = flow_graphs(
        seconds=20, graphs=1, fire_every_seconds=4, kill_every_seconds=5, apis=1, workers=2
    )

    assert not any(found["defects"].values()), found
    assert sum(found["flow_runs"].values()) > 8
    assert {"succeeded", "failed", "skipped"} <= found["runs"].keys()
    assert found["killed"]
    assert found["edits"]["accepted"] + found["edits"]["refused"] > 0
