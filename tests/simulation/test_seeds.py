"""Hundreds of stories, each from one seed; a seed that ever failed has its name below.

More of them: `TIDEMILL_SIMULATION_SEEDS=100000 .venv/bin/pytest tests/simulation`.
"""

import os
import random

import pytest

from tidemill.testing.simulation import Simulation

SEEDS = int(os.environ.get("TIDEMILL_SIMULATION_SEEDS", "400"))
CHUNKS = 20


def test_a_run_that_two_firings_take_the_place_of_is_cancelled_once() -> None:
    Simulation(0).run()


def test_a_run_that_is_tried_again_forgets_when_it_was_started_before() -> None:
    Simulation(1).run()


def test_a_run_whose_task_is_deleted_is_tried_no_more() -> None:
    Simulation(4).run()


@pytest.mark.parametrize("seed", [23, 33])
def test_a_task_that_is_edited_while_paused_accounts_for_its_old_times(seed: int) -> None:
    Simulation(seed).run()


def test_a_seed_tells_the_same_story_twice() -> None:
    def story(seed: int) -> list[tuple[str, str | None]]:
        simulation = Simulation(seed, minutes=1)
        simulation.run()
        return [(run.status.value, run.reason) for run in simulation.all_runs()]

    assert story(5) == story(5)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_invariants_hold_for_seeds_nobody_chose(chunk: int) -> None:
    # Another set each time this runs; a failure names its seed.
    first = random.SystemRandom().randrange(1_000_000_000)
    for seed in range(first, first + SEEDS // CHUNKS):
        Simulation(seed, minutes=2).run()
