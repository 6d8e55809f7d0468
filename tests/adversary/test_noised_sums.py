"""What the server's half of a mechanism tells is a function of the noised sum, and of nothing else."""

from typing import Any

import numpy as np
import pytest

from privacy.mechanisms.client_dp import ClientDp
from privacy.mechanisms.dp_ftrl import DpFtrl
from tests.privacy.mechanisms.client_jobs import PLAN, server_job


class Fixed:
    """A source whose Gaussian noise is known."""

    def __init__(self, noise_D: np.ndarray) -> None:
        self._noise_D = noise_D

    def generator(self) -> "Fixed":
        return self

    def standard_normal(self, length: int) -> np.ndarray:
        assert length == len(self._noise_D)
        return self._noise_D.copy()


@pytest.mark.parametrize("kind", [ClientDp, DpFtrl])
def test_sums_that_noise_makes_equal_are_told_alike(kind):
    mechanism = kind(noise_multiplier=1.3, clip=2.0)
    mechanism.settle(PLAN)
    generator = np.random.default_rng(1)
    noise_D = generator.standard_normal(500)
    total_D = generator.normal(0, 3, 500)
    std = float((mechanism.on_total(_job(np.ones(500)), np.zeros(500)))[0])
    moved_D = generator.normal(0, 3, 500)
    jobs = _job(noise_D), _job(noise_D - moved_D / std)
    released_D, again_D = mechanism.on_total(jobs[0], total_D), mechanism.on_total(jobs[1], total_D + moved_D)
    assert np.allclose(released_D, again_D)
    assert jobs[0].diagnostics
    assert jobs[0].diagnostics == pytest.approx(jobs[1].diagnostics)


def _job(noise_D: np.ndarray) -> Any:
    job = server_job(clip=2.0)
    job.randomness = Fixed(noise_D)
    return job
