import random

import numpy as np
import pytest
import torch

from fl import runtimes
from fl.server import Errand
from fl.training.generators import preserved_generators, seed_generators
from privacy.errors import FedveilError
from tests.composed import PROBE, workspace_of

CPU = torch.device("cpu")


def states() -> tuple:
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()


def test_a_run_leaves_the_global_generators_as_they_were(tmp_path):
    work = workspace_of()
    np.random.standard_normal()  # it keeps a second one back, which is part of its state
    before = states()
    runtimes.run(work, tmp_path, Errand(tmp_path / "checkpoints"))
    assert states() == before


def test_a_run_that_fails_does_so_too(tmp_path):
    work = workspace_of(*PROBE, "+mechanism.probe.faults={client/0: crash}", "clients=1", "cohort=1")
    before = states()
    with pytest.raises(FedveilError, match="crashed on purpose"):
        runtimes.run(work, tmp_path, Errand(tmp_path / "checkpoints"))
    assert states() == before


def draws(*labels) -> tuple[float, ...]:
    with preserved_generators(CPU):
        seed_generators(CPU, *labels)
        return random.random(), np.random.rand(), torch.rand(1).item()


def test_every_global_generator_is_seeded_by_the_labels():
    first = draws(1, "train", 2, 3)
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    assert draws(1, "train", 2, 3) == first
    for labels in ((2, "train", 2, 3), (1, "train", 3, 2), (1, "train", 23), (1, "train", "2", 3)):
        assert all(one != two for one, two in zip(draws(*labels), first, strict=True))


def test_the_second_of_a_pair_of_normals_does_not_come_in():
    """NumPy's and Python's generators keep the second of each pair of normals for the next call."""

    def normals() -> tuple[float, float]:
        return np.random.standard_normal(), random.gauss(0, 1)

    def seeded() -> tuple[tuple[float, float], ...]:
        seed_generators(CPU, 1)
        return normals(), normals(), normals()

    first = seeded()
    for _ in range(3):
        normals()
        assert seeded() == first
