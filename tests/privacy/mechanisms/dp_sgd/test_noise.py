"""The noise of DP-SGD: Gaussian, growing with the steps, and reproducible where it is seeded. D values of the model."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from privacy.mechanisms.dp_sgd import DpSgd
from privacy.randomness import OsRandomness, Randomness, SeededRandomness
from tests.privacy.mechanisms.dp_sgd.one_at_a_time import (
    BATCH,
    LR,
    SIGMA,
    examples_of,
    job_of,
    model_of,
    plan_of,
    trained,
)


@pytest.mark.parametrize("source", [OsRandomness(), SeededRandomness("noise", 1)], ids=["os", "seeded"])
@pytest.mark.parametrize("mode", ["ew", "ghost"])
def test_noise_is_gaussian_and_grows_with_the_steps(mode, source):
    """False alarms of the system's source: one in a million runs."""
    model = model_of("mlp")
    clip = 0.8
    steps = 5
    plan = plan_of(model, sample_rate=1e-12, steps=steps)
    noise_D = trained(DpSgd(SIGMA, clip=clip, mode=mode), job_of(model, examples_of(), source), plan).double().numpy()
    std = math.sqrt(steps) * LR * SIGMA * clip / BATCH
    assert kstest(noise_D, norm(0, std).cdf).pvalue > 1e-6
    assert np.std(noise_D) == pytest.approx(std, rel=5 / math.sqrt(2 * len(noise_D)))
    assert abs(np.corrcoef(noise_D[:-1], noise_D[1:])[0, 1]) < 5 / math.sqrt(len(noise_D))


def test_seeded_noise_is_reproducible_and_the_systems_is_not():
    def noise_of(randomness: Randomness) -> torch.Tensor:
        model = model_of()
        return trained(DpSgd(SIGMA), job_of(model, examples_of(), randomness), plan_of(model, sample_rate=1e-12))

    first_D = noise_of(SeededRandomness(1, "noise", "client/0", 1))
    assert torch.equal(noise_of(SeededRandomness(1, "noise", "client/0", 1)), first_D)
    others = [SeededRandomness(1, "noise", "client/0", 2), SeededRandomness(1, "noise", "client/1", 1)]
    all_ND = torch.stack([first_D, *map(noise_of, [*others, OsRandomness(), OsRandomness()])])
    off_diagonal = torch.corrcoef(all_ND) - torch.eye(5)
    assert off_diagonal.abs().max() < 6 / math.sqrt(len(first_D))
