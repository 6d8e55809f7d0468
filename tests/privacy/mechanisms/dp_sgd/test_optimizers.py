"""The release of a step, against a microbatch loop in float64: one example at a time. D values of the model."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from privacy.mechanisms.dp_sgd import DpSgd
from privacy.mechanisms.dp_sgd_modes import MODES
from tests.privacy.mechanisms.dp_sgd.one_at_a_time import (
    CLIPPINGS,
    EXPECTED,
    LR,
    MODELS,
    NOBODY,
    SIGMA,
    STEPS,
    Scripted,
    assert_close,
    drawn,
    examples_of,
    flat_clip,
    job_of,
    microbatches,
    model_of,
    norms,
    plan_of,
    trained,
    within,
)

# what a clipped gradient stays below its bound, for its rounding, times the sum of all steps
TOLERANCE = dict.fromkeys(MODES, 5e-5) | {"ghost": 5e-4}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mode", MODES)
def test_flat_clipping_is_that_of_a_microbatch_loop(mode, name):
    model = model_of(name)
    examples = examples_of()
    source = Scripted()
    bound = float(np.median(norms(model, examples)))
    seen = list[float]()
    job = job_of(model, examples, source)
    found_D = trained(DpSgd(SIGMA, clip=bound, mode=mode), job)
    wanted_D = microbatches(model, examples, source.draws, flat_clip(bound, seen))
    assert len(source.draws) == STEPS
    assert 0.2 < np.mean(np.array(seen) > bound) < 0.8
    assert_close(found_D, wanted_D, TOLERANCE[mode])
    if mode != "ghost":
        assert job.diagnostics["dp_sgd.clipped_fraction"] == pytest.approx(np.mean(np.array(seen) > bound))


@pytest.mark.parametrize("mode", MODES)
def test_under_a_public_rate_the_public_batch_size_divides(mode):
    model = model_of()
    examples = examples_of()
    source = Scripted()
    bound = float(np.median(norms(model, examples)))
    found_D = trained(
        DpSgd(SIGMA, clip=bound, mode=mode), job_of(model, examples, source), plan_of(model, sample_rate=0.4)
    )
    assert_close(found_D, microbatches(model, examples, source.draws, flat_clip(bound), 0.4, 8.0), TOLERANCE[mode])


@pytest.mark.parametrize("mode", MODES[:3])
def test_each_parameter_has_a_bound_of_its_own(mode):
    model = model_of("cnn")
    examples = examples_of()
    source = Scripted()
    bound = float(np.median(norms(model, examples)))
    found_D = trained(DpSgd(SIGMA, clip=bound, clipping="per_layer", mode=mode), job_of(model, examples, source))
    own = bound / math.sqrt(8)  # four layers with weights and biases

    def clip(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return [within(own, [tensor])[0] for tensor in tensors]

    wanted_D = microbatches(model, examples, source.draws, clip)
    assert_close(found_D, wanted_D)
    assert (wanted_D - microbatches(model, examples, source.draws, flat_clip(bound))).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("mode", "clipping"),
    CLIPPINGS,
)
def test_a_batch_in_pieces_is_the_whole_batch(mode, clipping):
    model = model_of("cnn")
    examples = examples_of()
    bound = float(np.median(norms(model, examples)))
    whole_D, pieces_D = (
        trained(
            DpSgd(
                SIGMA, clip=bound, clipping=clipping, mode=mode, max_physical_batch_size=size, clip_learning_rate=1.0
            ),
            job_of(model, examples, Scripted(gaussian=0.1)),
        )
        for size in (256, 3)
    )
    assert_close(pieces_D, whole_D, 1e-6)


@pytest.mark.parametrize(("mode", "clipping"), CLIPPINGS)
def test_a_step_without_examples_is_noise_alone(mode, clipping):
    model = model_of("cnn")
    clip = 0.8
    dp = DpSgd(SIGMA, clip=clip, clipping=clipping, mode=mode)
    found_D = trained(dp, job_of(model, examples_of(), Scripted(1.0, [NOBODY])), plan_of(model, steps=1))
    multiplier = SIGMA
    if clipping == "adaptive":
        multiplier = 1 / math.sqrt(SIGMA**-2 - (2 * 0.51 * SIGMA) ** -2)
    assert found_D.numpy() == pytest.approx(-LR * multiplier * clip / EXPECTED, rel=1e-5)


@pytest.mark.parametrize(("mode", "clipping"), CLIPPINGS)
def test_an_empty_draw_between_two_others_changes_nothing_but_the_noise(mode, clipping):
    model = model_of()
    examples = examples_of()
    bound = float(np.median(norms(model, examples)))
    full = [drawn(1, 5, 24), drawn(2, 23, 24, 25)]

    def update_of(*script: NDArray[np.float64]) -> torch.Tensor:
        dp = DpSgd(SIGMA, clip=bound, clipping=clipping, mode=mode, clip_learning_rate=1e-9)
        return trained(dp, job_of(model, examples, Scripted(0.0, script)), plan_of(model, steps=len(script)))

    wanted_D = update_of(*full)
    assert_close(update_of(full[0], NOBODY, full[1]), wanted_D, 1e-6)
    assert_close(update_of(NOBODY, *full, NOBODY, NOBODY), wanted_D, 1e-6)
