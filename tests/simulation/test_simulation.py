"""Many seeds without a violation; planted bugs that are found; the same seed twice."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.plants import PLANTS
from tests.simulation.world import World

SEEDS, AT_A_TIME = 200, 25
ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(0, SEEDS, AT_A_TIME))
def test_no_seed_breaks_a_promise(first: int) -> None:
    failed = [seed for seed in range(first, first + AT_A_TIME) if World(seed).run().violations]
    assert not failed, f"python -m tests.simulation --seed {failed[0]} (of {failed})"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_found(name: str) -> None:
    plant = PLANTS[name]
    for seed in plant.seeds:
        violations = World(seed, plant=plant).run().violations
        if any(violation.check in plant.finds for violation in violations):
            return
    pytest.fail(f"{name} was not found in seeds {plant.seeds}: python -m tests.simulation --plant {name}")


def test_the_same_seed_is_the_same_run_in_any_process() -> None:
    def digest(hash_seed: str) -> str:
        command = [sys.executable, "-c", "from tests.simulation.world import World; print(World(5).run().digest())"]
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout

    assert digest("1") == digest("2") == World(5).run().digest() + "\n"
