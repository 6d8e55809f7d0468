"""What a model keeps of its examples, beside its weights, does not leave without noise.

A buffer that training moves is part of the vector that is sent. Under a mechanism for records nothing noises it; under
one for clients noise would spoil it. So mechanisms refuse it.
"""

import math

import pytest
import torch

from privacy.errors import ConfigError
from privacy.mechanisms.dp_sgd import DpSgd
from tests.composed import vector_of, workspace_of
from tests.privacy.mechanisms.dp_sgd.one_at_a_time import CLASSES, IMAGE, model_of, plan_of


class Remembers(torch.nn.Module):
    """A layer without weights that tracks the mean of its inputs; `kind` says where it keeps it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.seen = 0.0
        if kind == "parameter":
            self.mean = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        elif kind != "attribute":
            self.register_buffer("mean", torch.zeros(1), persistent=kind == "buffer")
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scale", torch.ones(1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            if self.kind == "counter":
                self.batches += 1
            elif self.kind == "attribute":
                self.seen = 0.9 * self.seen + 0.1 * float(inputs.mean())
            elif self.kind != "constant":
                with torch.no_grad():
                    self.mean.mul_(0.9).add_(0.1 * inputs.mean())
        if self.kind in ("constant", "counter"):
            return inputs * self.scale
        return inputs - (self.seen if self.kind == "attribute" else self.mean.detach())


class Model(torch.nn.Sequential):
    """A linear model behind such a layer."""

    def __init__(self, shape=IMAGE, classes=CLASSES, kind: str = "buffer") -> None:
        super().__init__(Remembers(kind), torch.nn.Flatten(), torch.nn.Linear(math.prod(shape), classes))


OWN = ("model._target_=tests.adversary.clients.test_buffers.Model",)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("buffer", r"training changes 0\.mean without noise"),
        ("parameter", r"training changes 0\.mean without noise"),
        ("local buffer", "keeps something of the examples"),
        ("attribute", "keeps something of the examples"),
    ],
)
def test_a_model_that_keeps_something_of_its_examples_is_refused(kind, line):
    with pytest.raises(ConfigError, match=f"model=Model: .*{line}") as refusal:
        DpSgd(1.0).settle(plan_of(Model(kind=kind)))
    assert "\n" not in str(refusal.value)


def test_a_buffer_that_stays_as_it_is_and_a_counter_that_stays_local_are_fine():
    DpSgd(1.0).settle(plan_of(Model(kind="constant")))
    DpSgd(1.0).settle(plan_of(Model(kind="counter")))


def test_a_workspace_refuses_it_before_the_first_round():
    """The control: without a mechanism the mean of the inputs is in the vector, to the last digit."""
    with pytest.raises(ConfigError, match=r"model=Model: training changes 0\.mean without noise"):
        workspace_of("mechanism=dp_sgd", *OWN)
    work = workspace_of(*OWN, "training.batch_size=10000", "training.weighting=uniform")
    inputs, _ = next(iter([work.data.normalise(work.data.train.images[work.plan.partitions[0]])])), None
    assert vector_of(work)[-2] == pytest.approx(0.1 * float(inputs.mean()), rel=1e-3)


@pytest.mark.parametrize("name", ["client_dp", "local_dp", "distributed_dp_bfv"])
def test_under_a_mechanism_for_clients_a_buffer_that_moves_is_refused(name):
    """Noise would put a running variance below zero."""
    options = (f"privacy={name}", *OWN, "delta=1e-3", "training.weighting=uniform", "clients=20", "cohort=4")
    mechanism = name.removesuffix("_bfv")
    with pytest.raises(
        ConfigError, match=rf"model=Model: training changes 0\.mean .* {mechanism} would spoil it"
    ) as told:
        workspace_of(*options)
    assert "\n" not in str(told.value)


class Counting(Model):
    """A model with a layer whose running mean depends on how many batches it has seen."""

    def __init__(self, shape=IMAGE, classes=CLASSES) -> None:
        super().__init__(shape, classes, "constant")
        self.insert(0, torch.nn.BatchNorm2d(shape[0], momentum=None))


def test_a_counter_of_one_client_does_not_reach_the_next_one_of_its_process():
    """The mean over batches is weighted by their number; the control is a process that asks no other client before."""
    options = ("model._target_=tests.adversary.clients.test_buffers.Counting",)
    alone = vector_of(workspace_of(*options), 1)
    shared = workspace_of(*options)
    vector_of(shared, 0)
    assert (vector_of(shared, 1) == alone).all()


def test_the_built_in_models_pass():
    for name in ("logistic", "mlp", "cnn"):
        DpSgd(1.0).settle(plan_of(model_of(name)))
