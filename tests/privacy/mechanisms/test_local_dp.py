"""The local mechanism: each update with its own noise, after it was clipped."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from privacy.mechanisms.local_dp import LocalDp
from tests.privacy.accounting.exact import gaussian_delta
from tests.privacy.mechanisms.client_jobs import PLAN, SILENT, client_job


def test_each_local_update_carries_its_own_noise():
    mechanism = LocalDp(noise_multiplier=0.7, clip=1.5)
    mechanism.settle(PLAN)
    update_D = torch.zeros(20_000)
    update_D[0] = 10.0  # clipped to 1.5, which a test of 20,000 values does not see
    noised = [mechanism.on_update(client_job(client, n), update_D) for client, n in ((0, 1), (1, 1), (0, 2))]
    for noised_D in noised:
        assert noised_D.dtype == torch.float32
        assert kstest(noised_D.numpy() / (2 * 1.5 * 0.7), norm.cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(np.stack(noised)) - np.eye(3)).max() < 0.03


def test_a_local_update_is_clipped_before_it_is_noised():
    mechanism = LocalDp(noise_multiplier=SILENT, clip=1.5)
    job = client_job()
    assert mechanism.on_update(job, torch.tensor([3.0, 4.0])).tolist() == pytest.approx([0.9, 1.2])
    assert job.diagnostics == {"local_dp.update_norm": 5.0, "local_dp.clipped_fraction": 1.0}
    assert mechanism.on_update(job, torch.tensor([0.6, 0.8])).tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_epsilon_per_round_takes_the_least_noise_that_is_enough(epsilon: float, delta: float) -> None:
    mechanism = LocalDp(epsilon_per_round=epsilon)
    mechanism.settle(replace(PLAN, delta=delta))
    assert mechanism.noise_multiplier is not None
    assert gaussian_delta(mechanism.noise_multiplier, epsilon) <= delta * (1 + 1e-6)
    assert gaussian_delta(mechanism.noise_multiplier * 0.999, epsilon) > delta
