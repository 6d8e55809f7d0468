"""Rounds of pfl-research 0.6.0, in an environment of its own: this file imports nothing of this project.

    PYTHON rounds.py FOLDER

The folder holds inputs (N, 1, 28, 28), labels (N,), the clients' indices one after the other, and where each ends. A
line of standard input names the cohort of a round; a line of standard output tells its wall and processor seconds.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import nn
from torch.nn.functional import cross_entropy

BATCH = 32
LR = 0.2


class Cnn(nn.Sequential):
    """The `cnn` of the benchmark."""

    def __init__(self) -> None:
        first = nn.Conv2d(1, 16, 8, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(2, stride=1)
        second = nn.Conv2d(16, 32, 4, stride=2), nn.ReLU(), nn.MaxPool2d(2, stride=1)
        super().__init__(*first, *second, nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10))

    def loss(self, inputs: torch.Tensor, labels: torch.Tensor, is_eval: bool = False) -> torch.Tensor:
        """The loss that clients train on."""
        self.train(not is_eval)
        return cross_entropy(self(inputs), labels)

    def metrics(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:  # noqa: ARG002
        """No figures: nothing is evaluated."""
        return {}


class Rounds(TrainingProcessCallback):  # type: ignore[misc]
    """Waits for the cohort of the next round, and tells the times of the last."""

    def __init__(self) -> None:
        self.cohort: list[int] = []
        self._begin()

    def _begin(self) -> None:
        line = sys.stdin.readline()
        if not line:
            raise SystemExit
        self.cohort[:] = json.loads(line)[::-1]
        self._wall_s = time.perf_counter()
        self._cpu_s = time.process_time()

    def after_central_iteration(self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int) -> Any:  # noqa: ARG002
        """Tell the times, and wait."""
        print(json.dumps([time.perf_counter() - self._wall_s, time.process_time() - self._cpu_s]), flush=True)
        self._begin()
        return False, Metrics()


def main(folder: Path) -> None:
    """Serve rounds until the input ends."""
    torch.set_num_threads(1)
    inputs = torch.from_numpy(np.load(folder / "inputs.npy"))
    labels = torch.from_numpy(np.load(folder / "labels.npy"))
    parts = np.split(np.load(folder / "indices.npy"), np.load(folder / "ends.npy")[:-1])

    def dataset(client: int) -> PyTorchTensorDataset:
        index = torch.from_numpy(parts[client])
        return PyTorchTensorDataset((inputs[index], labels[index]))

    rounds = Rounds()
    data = FederatedDataset(dataset, rounds.cohort.pop)
    network = Cnn()
    model = PyTorchModel(
        network,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
    )
    backend = SimulatedBackend(training_data=data, val_data=data, postprocessors=[WeightByDatapoints()])
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(10**6, 10**6, train_cohort_size=len(rounds.cohort), val_cohort_size=None),
        backend=backend,
        model=model,
        model_train_params=NNTrainHyperParams(BATCH, 1, LR),
        callbacks=[rounds],
        send_metrics_to_platform=False,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
