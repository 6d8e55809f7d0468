"""The bounds of per-layer clipping: their squares add up to that of the clip, which the noise and its price are for."""

import math

import pytest
import torch

from privacy.mechanisms.dp_sgd import DpSgd
from privacy.randomness import SeededRandomness
from tests.privacy.mechanisms.dp_sgd.one_at_a_time import examples_of, job_of, model_of, plan_of

CLIP = 3.0
SIGMA = 1.5


def optimizer_of(name: str):
    model = model_of(name)
    dp = DpSgd(SIGMA, clip=CLIP, clipping="per_layer")
    dp.settle(plan_of(model))
    job = job_of(model, examples_of(), SeededRandomness("bounds"))
    dp.prepare(job)
    return job.optimizer


@pytest.mark.parametrize(("name", "parameters"), [("logistic", 2), ("cnn", 8)])
def test_the_bounds_of_all_parameters_make_up_the_clip(name, parameters):
    optimizer = optimizer_of(name)
    assert len(optimizer.max_grad_norms) == len(optimizer.params) == parameters
    assert math.sqrt(sum(bound**2 for bound in optimizer.max_grad_norms)) == pytest.approx(CLIP)
    assert len(set(optimizer.max_grad_norms)) == 1
    assert optimizer.noise_std == pytest.approx(SIGMA * CLIP)


@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_an_example_counts_no_more_than_the_clip_and_a_small_one_in_full(size):
    """Gradients set by hand, of one example: what is summed has the norm of each parameter's bound at most."""
    optimizer = optimizer_of("logistic")
    for parameter in optimizer.params:
        parameter.grad_sample = torch.full((1, *parameter.shape), size)
    whole = math.sqrt(sum(parameter.numel() for parameter in optimizer.params)) * size
    optimizer.clip_and_accumulate()
    summed = math.sqrt(sum(float(parameter.summed_grad.square().sum()) for parameter in optimizer.params))
    assert summed == pytest.approx(min(whole, CLIP), rel=1e-4)
    assert (optimizer.seen, optimizer.clipped) == (1, int(size > 1))
