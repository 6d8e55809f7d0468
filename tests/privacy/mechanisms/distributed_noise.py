"""The mechanism of distributed noise under the plan of all tests, and updates within its clip."""

import numpy as np
import torch

from privacy.mechanisms.contract import Plan
from privacy.mechanisms.distributed_dp import DistributedDp
from tests.privacy.mechanisms.plans import PLAN


def settled(plan: Plan = PLAN, **settings_: object) -> DistributedDp:
    mechanism = DistributedDp(**{"noise_multiplier": 1.0} | settings_)
    mechanism.settle(plan)
    return mechanism


def updates_of(count: int, dimension: int, seed: int = 0, norm: float = 0.9) -> list[torch.Tensor]:
    generator = np.random.default_rng(seed)
    drawn = generator.standard_normal((count, dimension))
    scaled = norm * drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return list(torch.from_numpy(scaled.astype(np.float32)))
