"""NVIDIA FLARE's pair of CIFAR-10 runs, FedAvg with and without homomorphic encryption, as rounds on this machine.

Source: NVIDIA FLARE, examples/advanced/cifar10/pt/cifar10-real-world/cifar10_fedavg_he/README.md. Their runs train on
an H100; on CPUs, the 3,125 steps of a round take far longer than its protection. So a round is the sum of
measured parts: the training steps, and the encryption, addition and opening of every client.
"""

import statistics
import time
from collections.abc import Mapping
from typing import Any

from experiments.published.he import System

EXAMPLES = 50_000  # training examples of CIFAR-10, over all clients
STEPS = 5


def flare_round(
    parameters: Mapping[str, Any], clients: int, epochs: int, batch_size: int, lr: float, values: int | None = None
) -> dict[str, float]:
    """A round of all clients in turn on one thread; each client trains, encrypts and opens the sum.

    Args:
        parameters: the CKKS parameters, as `secure_sum.parameters` takes them.
        clients: the number of clients that train and open.
        epochs: epochs of local training.
        batch_size: examples of a step of local training.
        lr: learning rate of local training.
        values: how many parameters are encrypted for the measurement; the others cost as much each. None: all.
    """
    import torch

    from fl.models.plain import ModerateCnn

    model = ModerateCnn((3, 32, 32), 10)
    size = sum(parameter.numel() for parameter in model.parameters())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    step_s = _step_s(model, batch_size, lr)
    torch.set_num_threads(threads)
    system = System(clients, {**parameters})
    system.aggregate(1000)  # loads the keys
    measured = values or size
    cost = system.aggregate(measured)
    protect_s = clients * (cost.client_s + cost.add_s + cost.open_s) * size / measured
    training_s = epochs * EXAMPLES / batch_size * step_s
    return {
        "training (s/round)": training_s,
        "HE, all clients in turn (s/round)": protect_s,
        "round with HE / without": 1 + protect_s / training_s,
        "upload with HE / without": cost.up_bytes / (4 * measured),
    }


def _step_s(model: Any, batch_size: int, lr: float) -> float:
    """Median seconds of a training step, after a first one."""
    import torch
    from torch.nn.functional import cross_entropy

    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    images = torch.randn(batch_size, 3, 32, 32)
    labels = torch.randint(10, (batch_size,))
    times_s = []
    for _ in range(1 + STEPS):
        start_s = time.process_time()
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        times_s.append(time.process_time() - start_s)
    return statistics.median(times_s[1:])
