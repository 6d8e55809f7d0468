"""Dropout under DP-SGD is secret: a server that knows the seed of a run does not know which values were dropped.

The place of an example in the draw decides what is dropped of it. If that were known, one example more would change the
gradients of all that come behind it, and clipping each would not bound what the example does.
"""

import math

import pytest
import torch

from privacy.mechanisms.dp_sgd import DpSgd
from privacy.mechanisms.dp_sgd_modes import MODES
from privacy.randomness import OsRandomness, SeededRandomness
from tests.composed import vector_of, workspace_of
from tests.privacy.mechanisms.dp_sgd.one_at_a_time import CLASSES, IMAGE, N, examples_of, job_of, plan_of, trained

SILENT = 1e-9  # a noise multiplier whose noise vanishes beside any gradient


class Dropping(torch.nn.Sequential):
    """A linear model behind dropout."""

    def __init__(self, shape=IMAGE, classes=CLASSES) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(math.prod(shape), classes))


def update_of(randomness, mode: str) -> torch.Tensor:
    """The release of a client that draws everybody in one step, under a global seed that the server knows."""
    torch.manual_seed(3)
    model = Dropping()
    job = job_of(model, examples_of(), randomness)
    torch.manual_seed(17)
    return trained(DpSgd(SILENT, mode=mode), job, plan_of(model, steps=1, batch_size=N))


@pytest.mark.parametrize("mode", MODES)
def test_what_is_dropped_comes_from_the_clients_own_randomness(mode):
    first_D, second_D = (update_of(OsRandomness(), mode) for _ in range(2))
    assert float((first_D - second_D).norm()) > 0.1 * float(first_D.norm())
    same_D, again_D = (update_of(SeededRandomness(1), mode) for _ in range(2))
    assert torch.equal(same_D, again_D)


def test_a_client_of_a_run_drops_what_the_runs_seed_does_not_tell():
    """The control: without a mechanism the seed of the run decides, and two clients' answers are the same."""
    own = (
        "model._target_=tests.adversary.clients.test_known_dropout.Dropping",
        "training.batch_size=10000",
        "noise=os",
    )
    private = workspace_of("mechanism=dp_sgd", f"mechanism.dp_sgd.noise_multiplier={SILENT}", *own)
    first, second = (torch.from_numpy(vector_of(private)) for _ in range(2))
    assert float((first - second).norm()) > 0.1 * float(first[:-1].norm())
    plain = workspace_of(*own)
    assert (vector_of(plain) == vector_of(plain)).all()
