"""The adaptive bound: it follows its quantile, and costs no more than is accounted. D values of the model."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from privacy.mechanisms.dp_sgd import DpSgd
from tests.privacy.mechanisms.dp_sgd.one_at_a_time import (
    EVERYBODY,
    EXPECTED,
    LR,
    NOBODY,
    SIGMA,
    STEPS,
    N,
    Scripted,
    assert_close,
    drawn,
    examples_of,
    flat,
    flat_clip,
    job_of,
    microbatches,
    model_of,
    norms,
    plan_of,
    trained,
)


@pytest.mark.parametrize("gaussian", [0.0, 0.5])
@pytest.mark.parametrize("mode", ["hooks", "functorch", "ew"])
def test_the_adaptive_bound_follows_the_quantile(mode, gaussian):
    """Andrew et al. 2021, section 2.1: C <- C exp(-eta (b - gamma)); everybody is drawn, so b is beyond dispute."""
    model = model_of("cnn")
    examples = examples_of()
    source = Scripted(gaussian)
    bound = float(np.median(norms(model, examples)))
    dp = DpSgd(SIGMA, clip=bound, clipping="adaptive", mode=mode, clip_learning_rate=0.7, target_unclipped_quantile=0.3)
    found_D = trained(dp, job_of(model, examples, source), plan_of(model, batch_size=N))

    count_std = max(0.05 * N, 0.51 * SIGMA)
    twin = deepcopy(model)
    wanted_D = torch.zeros_like(found_D, dtype=torch.float64)
    bounds = [bound]
    for _ in range(STEPS):
        below = sum(one <= bounds[-1] for one in norms(twin, examples))
        step_D = microbatches(twin, examples, [EVERYBODY], flat_clip(bounds[-1]), 1.0, N)
        step_D -= LR / N * gaussian * bounds[-1] / math.sqrt(SIGMA**-2 - (2 * count_std) ** -2)
        wanted_D += step_D
        torch.nn.utils.vector_to_parameters((flat(model.parameters()).double() + wanted_D).float(), twin.parameters())
        bounds.append(bounds[-1] * math.exp(-0.7 * ((below + gaussian * count_std) / N - 0.3)))
    assert abs(bounds[-1] / bound - 1) > 0.1
    assert_close(found_D, wanted_D)


def adaptive_release(draw: NDArray[np.float64], gaussian: float = 0.0, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """The release of one adaptive step: the noised sum of gradients (D,), and the log of the next bound."""
    model = model_of()
    examples = examples_of()
    bound = float(np.median(norms(model, examples)))
    job = job_of(model, examples, Scripted(gaussian, [draw]))
    update_D = trained(DpSgd(SIGMA, clip=bound, clipping="adaptive", **options), job, plan_of(model, steps=1))
    return update_D.double(), torch.tensor([math.log(job.optimizer.max_grad_norm)], dtype=torch.float64)


def test_the_count_is_divided_by_what_is_expected_and_not_by_who_was_drawn():
    order = [int(i) for i in np.argsort(norms(model_of(), examples_of()))]
    _, fewer = adaptive_release(drawn(*order[:1], *order[-2:]), clip_learning_rate=0.7)
    _, more = adaptive_release(drawn(*order[:2], *order[-1:]), clip_learning_rate=0.7)
    assert float(more - fewer) == pytest.approx(-0.7 / EXPECTED)


def test_the_adaptive_bound_costs_no_more_than_is_accounted():
    """One record more moves both releases together by at most 1/sigma of their noise; here it is just not clipped."""
    zero = adaptive_release(drawn(25))
    one = adaptive_release(drawn(25), gaussian=1.0)
    stds = [float((a - b).abs().mean()) for a, b in zip(one, zero, strict=True)]
    order = [int(i) for i in np.argsort(norms(model_of(), examples_of()))]
    more = adaptive_release(drawn(25, order[N // 2 - 1]))
    moved = [float((a - b).norm()) / std for a, b, std in zip(more, zero, stds, strict=True)]
    assert math.hypot(*moved) <= 1 / SIGMA * 1.001


def test_the_adaptive_bound_moves_when_nobody_was_drawn():
    """The noised count is released at each step; here it is the noise alone, which is far above the quantile."""
    start = math.log(float(np.median(norms(model_of(), examples_of()))))
    _, bound = adaptive_release(NOBODY, gaussian=30.0)
    assert bound < start - 0.1
