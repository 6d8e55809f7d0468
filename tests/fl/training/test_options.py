"""Accumulated steps, class weights, smoothed labels and mixed precision, against computations by hand."""

import numpy as np
import pytest
import torch

from fl.training.loss import WeightedLoss, loss_of
from privacy.errors import ConfigError
from privacy.mechanisms.dp_sgd_modes import MODES
from tests.composed import examples_of, run, vector_of, workspace_of

WEIGHTS = [0.5, 1.0, 2.0, 0.0, 1.0, 3.0, 1.0, 0.25, 1.0, 1.0]
WEIGHED = (f"training.class_weights={WEIGHTS}", "training.label_smoothing=0.2")
UNIFORM = "training.weighting=uniform"


def gradient_by_hand(flat_D, inputs_NP, labels_N, weights_K, smoothing):
    """Gradient of the mean of weighted, smoothed cross entropies of softmax(W x + b), in float64."""
    split = flat_D.size - 10
    logits_NK = inputs_NP @ flat_D[:split].reshape(10, -1).T + flat_D[split:]
    exps_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    wanted_NK = np.full_like(exps_NK, smoothing / 10)
    wanted_NK[np.arange(len(labels_N)), labels_N] += 1 - smoothing
    error_NK = exps_NK / exps_NK.sum(axis=1, keepdims=True) - wanted_NK
    error_NK *= (np.asarray(weights_K)[labels_N] / len(labels_N))[:, None]
    return np.concatenate([(error_NK.T @ inputs_NP).ravel(), error_NK.sum(axis=0)])


def expected_update(work, client, weights_K, smoothing):
    """One step of plain gradient descent on all examples of a client."""
    inputs_NP, labels_N = examples_of(work, work.plan.partitions[client])
    start_D = work.initial_D.numpy().astype(np.float64)
    return -0.05 * gradient_by_hand(start_D, inputs_NP, labels_N, weights_K, smoothing)


@pytest.mark.parametrize(
    ("options", "weights_K", "smoothing"),
    [
        (WEIGHED, WEIGHTS, 0.2),
        (WEIGHED[:1], WEIGHTS, 0.0),
        (WEIGHED[1:], [1.0] * 10, 0.2),
        ((), [1.0] * 10, 0.0),
    ],
    ids=["both", "weights", "smoothing", "neither"],
)
def test_a_plain_step_follows_the_weighted_gradient(options, weights_K, smoothing):
    work = workspace_of(*options, "training.batch_size=10000", UNIFORM)
    update_D = vector_of(work, 1)[:-1]
    assert np.abs(update_D - expected_update(work, 1, weights_K, smoothing)).max() < 1e-6


@pytest.mark.parametrize("mode", MODES)
def test_dp_sgd_clips_the_weighted_gradients(mode):
    """All examples drawn, negligible noise; no gradient reaches the clip, and then each of them does."""
    options = ("mechanism=dp_sgd", "noise=seeded", f"mechanism.dp_sgd.mode={mode}", "training.batch_size=10000")
    quiet = "mechanism.dp_sgd.noise_multiplier=1e-9"
    work = workspace_of(*options, *WEIGHED, quiet, "mechanism.dp_sgd.clip=1e3")
    assert np.abs(vector_of(work, 1)[:-1] - expected_update(work, 1, WEIGHTS, 0.2)).max() < 1e-6
    work = workspace_of(*options, *WEIGHED, quiet, "mechanism.dp_sgd.clip=1e-3")
    inputs_NP, labels_N = examples_of(work, work.plan.partitions[1])
    start_D = work.initial_D.numpy().astype(np.float64)
    each_ND = np.stack(
        [gradient_by_hand(start_D, inputs_NP[[i]], labels_N[[i]], WEIGHTS, 0.2) for i in range(len(labels_N))]
    )
    norms_N = np.linalg.norm(each_ND, axis=1)
    assert (norms_N[np.asarray(WEIGHTS)[labels_N] > 0] > 1e-3).all(), "all of these are clipped"
    clipped_ND = each_ND * np.minimum(1, 1e-3 / np.maximum(norms_N, 1e-12))[:, None]
    assert np.abs(vector_of(work, 1)[:-1] + 0.05 * clipped_ND.mean(axis=0)).max() < 1e-8


def test_an_examples_gradient_does_not_depend_on_its_batch():
    loss = WeightedLoss(torch.tensor([1.0, 5.0, 0.5]), 0.1)
    outputs = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    labels = torch.tensor([0, 1, 2])
    [whole] = torch.autograd.grad(loss(outputs, labels, reduction="sum"), outputs)
    alone = [torch.autograd.grad(loss(outputs[[i]], labels[[i]]), outputs)[0] for i in range(3)]
    assert torch.allclose(whole, sum(alone))
    assert torch.equal(loss(outputs, labels, reduction="none").mean(), loss(outputs, labels))


def test_without_either_the_loss_is_torchs_own():
    assert loss_of(None, 0.0, 10, torch.device("cpu")) is torch.nn.functional.cross_entropy


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ("training.class_weights=[1,2]",),
            "training.class_weights=2 numbers: must hold one weight for each of",
        ),
        (
            ("training.class_weights=[-1,1]",),
            r"training.class_weights=\[-1.0, 1.0\]: must be finite numbers of",
        ),
        (("training.class_weights=[0,0]",), "training.class_weights=.*: must be finite numbers .*, and not all 0"),
        (("training.label_smoothing=1",), "training.label_smoothing=1.0: must be at least 0 and below 1"),
        (("training.accumulate=0",), "training.accumulate=0: must be at least 1"),
        (("training.precision=fp16",), "training.precision=fp16: allowed are float32, bf16"),
        (("mechanism=dp_sgd", "training.accumulate=2"), "training.accumulate=2: a step of DP-SGD is one sample"),
        (("mechanism=dp_sgd", "training.precision=bf16"), "training.precision=bf16: rounds the gradients that DP-SGD"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(overrides, said):
    with pytest.raises(ConfigError, match=f"^{said}"):
        workspace_of(*overrides)


@pytest.mark.parametrize("schedule", [("training.epochs=2",), ("training.epochs=null", "training.steps=7")])
def test_accumulated_batches_make_the_steps_of_large_ones(schedule):
    """449 examples: the last batch of an epoch has 1, and its last step the rest of 29 or 65."""
    small = workspace_of("training.batch_size=28", "training.accumulate=3", *schedule)
    large = workspace_of("training.batch_size=84", *schedule)
    assert np.abs(vector_of(small, 1) - vector_of(large, 1)).max() < 1e-6
    other = workspace_of("training.batch_size=28", *schedule)
    assert np.abs(vector_of(small, 1) - vector_of(other, 1)).max() > 1e-3


def test_no_pass_holds_more_than_a_batch():
    work = workspace_of("training.batch_size=28", "training.accumulate=3", "runtime.together=1")
    sizes = []
    work.model.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    vector_of(work, 1)
    assert max(sizes) == 28
    assert sum(sizes) == len(work.plan.partitions[1])


def test_mixed_precision_computes_in_bfloat16_and_keeps_weights_in_float32(tmp_path):
    work = workspace_of("training.precision=bf16")
    assert work.together.choice.size == 4  # the trial that says so has passes in float32, too
    kinds = set()
    layer = next(module for module in work.model.modules() if isinstance(module, torch.nn.Linear))
    layer.register_forward_hook(lambda _, __, outputs: kinds.add(outputs.dtype))
    update_D = vector_of(work, 1)[:-1]
    assert kinds == {torch.bfloat16}
    assert {parameter.dtype for parameter in work.model.parameters()} == {torch.float32}
    exact_D = vector_of(workspace_of(), 1)[:-1]
    apart = np.linalg.norm(update_D - exact_D) / np.linalg.norm(exact_D)
    assert 0 < apart < 0.02, "the rounding of 8 bits, and no more"
    assert run(tmp_path, "training.precision=bf16").round == 2


def test_a_clients_update_in_mixed_precision_keeps_its_clip():
    private = ("mechanism=client_dp", "delta=1e-2", "accountant=rdp", "mechanism.client_dp.clip=0.01")
    work = workspace_of(*private, "training.precision=bf16", UNIFORM)
    state = work.plan.backend.initial_state()
    update_D = vector_of(work, 1, state=state)[:-1].astype(np.float64)
    assert 0.0099 < np.linalg.norm(update_D) <= 0.01
