"""Hundreds of stories, each from one seed.

More of them: `TIDEMILL_SIMULATION_SEEDS=100000 .venv/bin/pytest tests/simulation`. A seed tells its
story only as long as the simulation chooses as it did; so what a seed has found is told again by a
test of the use case at fault, in tests/application.
"""

import os
import random

import pytest

from tidemill.testing.simulation import Simulation

SEEDS = int(os.environ.get("TIDEMILL_SIMULATION_SEEDS", "400"))
CHUNKS = 20


# In the second two flow runs begin within one millisecond, and parts are run again in a version
# that waits for nothing.
@pytest.mark.parametrize("seed", [5, 811270951])
def test_a_seed_tells_the_same_story_each_time(seed: int) -> None:
    def story() -> list[tuple[str, str | None]]:
        simulation = Simulation(seed, minutes=2)
        simulation.run()
        return [(run.status.value, run.reason) for run in simulation.all_runs()]

    first = story()
    assert all(story() == first for _ in range(4))


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_invariants_hold_for_seeds_nobody_chose(chunk: int) -> None:
    # Another set each time this runs; a failure names its seed.
    first = random.SystemRandom().randrange(1_000_000_000)
    for seed in range(first, first + SEEDS // CHUNKS):
        Simulation(seed, minutes=2).run()
