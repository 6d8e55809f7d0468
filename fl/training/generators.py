"""The global random generators of a process: seeded for a client, and given back to the caller."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from privacy.randomness import seed_from


def seed_generators(device: torch.device, *labels: int | str) -> int:
    """Seed every global generator from the labels, and return the seed."""
    seed = seed_from(*labels)
    # not torch.manual_seed: without a GPU it queues a stack trace for CUDA's start, two milliseconds a call
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    return seed


@contextmanager
def preserved_generators(device: torch.device) -> Iterator[None]:
    """Restore every global generator after the block, so that seeding has no effect on the caller."""
    cuda = device.type == "cuda"
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    before_cuda = torch.cuda.get_rng_state(device) if cuda else None
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
        if before_cuda is not None:
            torch.cuda.set_rng_state(before_cuda, device)
