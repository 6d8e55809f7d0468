"""By what a sum is divided when clients have dropped out."""

import numpy as np
import pytest

from privacy.secure_sums.vectors import Total
from tests.composed import server_of, workspace_of

LENGTH = 650
SILENT = ("noise=seeded", "delta=1e-3", "accountant=rdp", "clients=5", "rounds=3")
NOISELESS = 1e-6  # a multiplier whose noise no float32 update shows


def step_of(folder, *overrides: str, weight: float) -> np.ndarray:
    """The step of the weights on a sum of ones times a hundredth over three survivors of a cohort of five."""
    server = server_of(workspace_of(*overrides), folder)
    survivors = ("client/0", "client/2", "client/3")
    server.step(1, Total(np.full(LENGTH, 0.03), weight, survivors))
    return (server.weights.detach() - server.work.initial_D).numpy()


@pytest.mark.parametrize("weight", [3.0, 1.5])
def test_without_a_mechanism_it_is_the_weight_of_who_survived(tmp_path, weight):
    assert step_of(tmp_path, "clients=5", weight=weight) == pytest.approx(np.full(LENGTH, 0.03 / weight), abs=1e-7)


@pytest.mark.parametrize("mechanism", ["client_dp", "dp_ftrl"])
def test_with_noise_on_the_sum_it_is_the_cohort_whoever_survived(tmp_path, mechanism):
    """The number of survivors is not public: a division by it would release it."""
    overrides = (f"mechanism={mechanism}", f"mechanism.{mechanism}.noise_multiplier={NOISELESS}", *SILENT)
    assert step_of(tmp_path, *overrides, weight=3.0) == pytest.approx(np.full(LENGTH, 0.03 / 5), abs=1e-5)


def test_with_noise_on_the_sum_a_cohort_is_as_large_as_is_asked_for(tmp_path):
    """Five of eight clients are asked, and three answer."""
    noiseless = f"mechanism.client_dp.noise_multiplier={NOISELESS}"
    overrides = ("mechanism=client_dp", noiseless, *SILENT, "clients=8", "cohort=5")
    assert step_of(tmp_path, *overrides, weight=3.0) == pytest.approx(np.full(LENGTH, 0.03 / 5), abs=1e-5)
