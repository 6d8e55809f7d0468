"""Sums of clipped gradients: against one example at a time and Opacus's hooks, and the bound that examples keep."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from fl.models.plain import ResNet18Gn
from privacy.mechanisms.dp_sgd_modes import wrapped
from privacy.mechanisms.stacked import layers
from privacy.mechanisms.stacked.sums import ClippedSums, Tally, passes
from tests.privacy.mechanisms.stacked.clients import (
    COLOUR,
    MODELS,
    clipped_sum,
    draws_of,
    models_of,
    singles_of,
    sums_of,
)

SIZES = (5, 0, 9, 1)
TINY = ("logistic", "cnn", "residual", "attentive", "odd")  # each kind of layer


def bound_of(models, draws) -> float:
    """The median norm, so that half of the examples are clipped."""
    norms = [singles_of(*own).norm(dim=1) for own in zip(models, draws, strict=True) if own[1] is not None]
    return float(torch.cat(norms).median())


# ---- the sum is right


@pytest.mark.parametrize("most", [256, 4])
@pytest.mark.parametrize("name", MODELS)
def test_sums_are_those_of_a_microbatch_loop(name, most):
    models = models_of(name, len(SIZES))
    draws = draws_of(name, SIZES)
    bound = bound_of(models, draws)
    tallies = [Tally() for _ in models]
    sums_ND = sums_of(models, draws, bound, most, tallies=tallies)
    for model, draw, sum_D, tally in zip(models, draws, sums_ND, tallies, strict=True):
        if draw is None:
            assert not sum_D.any()
            assert tally == Tally()
            continue
        singles_BD = singles_of(model, draw)
        assert (sum_D - clipped_sum(singles_BD, bound)).norm() < 1e-5 * bound
        assert tally.seen == len(draw[1])
        assert abs(tally.clipped - int((singles_BD.norm(dim=1) > bound).sum())) <= 1, "the median is the bound"
    assert 0.3 < sum(tally.clipped for tally in tallies) / sum(SIZES) < 0.7


@pytest.mark.parametrize("name", MODELS)
def test_sums_are_those_of_opacus_hooks(name):
    """Its hooks do not know of circular padding: there, of its functorch mode."""
    mode = "functorch" if name == "odd" else "hooks"
    models = models_of(name, len(SIZES))
    draws = draws_of(name, SIZES)
    bound = bound_of(models, draws)
    for model, draw, sum_D in zip(models, draws, sums_of(models, draws, bound), strict=True):
        if draw is None:
            continue
        assert (sum_D - clipped_sum(hooked(model, draw, mode), bound)).norm() < 1e-5 * bound


def hooked(model, draw, mode: str = "hooks") -> torch.Tensor:
    """The gradients of single examples by Opacus, (B, D)."""
    model = wrapped(model, mode)
    for module in model.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False  # which Opacus cannot take
    cross_entropy(model(draw[0]), draw[1], reduction="sum").backward()
    return torch.cat([own.grad_sample.flatten(1) for own in model.parameters()], dim=1)


@pytest.mark.slow
def test_sums_of_a_deep_residual_model(monkeypatch):
    """Its ReLUs are made smooth, as rounding puts some on their other side; its largest layers are computed twice."""
    monkeypatch.setattr(torch.nn.functional, "relu", lambda x, inplace=False: torch.tanh(x))
    monkeypatch.setitem(MODELS, "resnet18_gn", (ResNet18Gn, COLOUR))
    monkeypatch.setattr(layers, "KEPT_BYTES", 2**20)
    models = models_of("resnet18_gn", 2)
    draws = draws_of("resnet18_gn", (3, 2))
    bound = bound_of(models, draws)
    for model, draw, sum_D in zip(models, draws, sums_of(models, draws, bound), strict=True):
        for singles_BD in (hooked(model, draw), singles_of(model, draw)):
            wanted_D = clipped_sum(singles_BD, bound)
            assert (sum_D - wanted_D).norm() < 1e-5 * wanted_D.norm()


@pytest.mark.parametrize("name", TINY)
def test_gradients_that_are_not_held_are_computed_again_to_the_bit(name, monkeypatch):
    models = models_of(name, len(SIZES))
    draws = draws_of(name, SIZES)
    for size in (layers.PART_BYTES, 1):
        monkeypatch.setattr(layers, "PART_BYTES", size)
        monkeypatch.setattr(layers, "KEPT_BYTES", 2**30)
        held = sums_of(models, draws, 0.5)
        monkeypatch.setattr(layers, "KEPT_BYTES", 0)
        again = sums_of(models, draws, 0.5)
        assert (again - held).norm() < 1e-6


def test_the_models_own_parameters_are_tokens_that_stay_as_they_are():
    (model,) = models_of("cnn", 1)
    before = [own.detach().clone() for own in model.parameters()]
    for own in model.parameters():
        own.grad = torch.ones_like(own)  # of whatever was trained before
    stack = [torch.stack([own.detach(), 2 * own.detach()]) for own in model.parameters()]
    ClippedSums(model, cross_entropy, 1.0, 256).of(stack, draws_of("cnn", (2, 3)), [Tally(), Tally()])
    assert all(torch.equal(own, then) for own, then in zip(model.parameters(), before, strict=True))
    assert all(own.grad is None for own in model.parameters())


# ---- the bound


class Scaled:
    """A loss whose gradient for the label 0 is multiplied: the worst that an example can do."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, outputs, labels, reduction):
        assert reduction == "none"
        return cross_entropy(outputs, labels, reduction="none") * torch.where(labels == 0, self.scale, 1.0)


SCALES = (1e30, 1e38, math.inf, math.nan, 1e-38, 0.0)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", TINY)
def test_an_adversary_moves_the_sum_by_at_most_the_clip(name, scale):
    """By the gradient of its loss, and by its pixels; the example is in the middle of its client's draw."""
    bound = 0.5
    models = models_of(name, 3)
    draws = draws_of(name, (4, 5, 3))
    inputs, labels = draws[1]
    labels = torch.where(labels == 0, 1, labels)
    draws = [draws[0], (inputs, labels), draws[2]]
    without = (torch.cat([inputs[:2], inputs[3:]]), torch.cat([labels[:2], labels[3:]]))
    bad_labels = labels.clone()
    bad_labels[2] = 0
    bad_inputs = inputs.clone()
    bad_inputs[2] *= scale
    one_pixel = inputs.clone()
    one_pixel[2, 0, 3, 3] = scale
    fewer_ND = sums_of(models, [draws[0], without, draws[2]], bound)
    cases = [((inputs, bad_labels), Scaled(scale)), ((bad_inputs, labels), cross_entropy)]
    for bad, loss in [*cases, ((one_pixel, labels), cross_entropy)]:
        tallies = [Tally() for _ in models]
        sums_ND = sums_of(models, [draws[0], bad, draws[2]], bound, loss=loss, tallies=tallies)
        assert sums_ND.isfinite().all()
        moved_N = (sums_ND.double() - fewer_ND.double()).norm(dim=1)
        assert moved_N[1] <= bound * (1 + 1e-6)
        assert sum(tally.not_finite for tally in tallies) == tallies[1].not_finite <= 1
        if not math.isfinite(scale):
            assert tallies[1].not_finite == 1
            assert moved_N[1] < 1e-6
        if loss is not cross_entropy:
            assert torch.equal(sums_ND[2], sums_of(models, draws, bound, loss=loss)[2])


@pytest.mark.parametrize("name", TINY)
def test_an_example_alone_adds_at_most_the_bound(name):
    """At contrasts and losses from 1e-20 to 1e30, without any allowance for rounding: the sum is exact in float64."""
    (model,) = models_of(name, 1)
    generator = torch.Generator().manual_seed(3)
    reached = 0.0
    for number in range(60):
        ((inputs, labels),) = draws_of(name, (1,), seed=number)
        contrast, scale, power = torch.rand(3, generator=generator).tolist()
        bound = 10 ** (6 * power - 4)
        inputs = inputs * 10 ** (40 * contrast - 20)
        sum_D = sums_of([model], [(inputs, labels * 0)], bound, loss=Scaled(10 ** (50 * scale - 20)))[0]
        norm = float(sum_D.double().norm())
        assert norm <= bound
        reached = max(reached, norm / bound)
    assert reached > 1 - 1e-4, "the bound was met"


def linear_of(bias: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    layer = torch.nn.Linear(1000, 10, bias=bias)
    torch.nn.init.zeros_(layer.weight)  # so that outputs are finite whatever the inputs
    return torch.nn.Sequential(torch.nn.Flatten(), layer)


@pytest.mark.parametrize("contrast", [1e-40, 1e-25, 1e-21, 1e21, 1e25])
def test_inputs_whose_squares_leave_the_range_of_float32_are_measured(contrast):
    """Their norm is neither zero, which would clip nothing, nor infinite, which would take the example out."""
    inputs = contrast * torch.rand(1, 1000, generator=torch.Generator().manual_seed(0))
    tally = Tally()
    loss = Scaled(min(1e38, 1e5 / contrast))
    bound = 1e-4
    sum_D = sums_of([linear_of(False)], [(inputs, torch.tensor([0]))], bound, loss=loss, tallies=[tally])[0]
    assert (1 - 1e-4) * bound < float(sum_D.double().norm()) <= bound
    assert tally == Tally(1, 1, 0)


@pytest.mark.parametrize("bias", [True, False])
def test_no_rounding_of_subnormal_numbers_exceeds_the_bound(bias):
    """Inputs at the end of the range: the clipped gradient of the outputs would have a handful of bits."""
    generator = torch.Generator().manual_seed(0)
    for number in range(100):
        model = linear_of(bias)
        if bias:
            torch.nn.init.normal_(model[1].bias, std=3.0, generator=generator)
        contrast = 10 ** (24 + 14 * number / 100)
        inputs = contrast * (1 + torch.rand(1, 1000, generator=generator))
        label = torch.randint(10, (1,), generator=generator)
        norm = sums_of([model], [(inputs, label)], 1e-3)[0].double().norm()
        assert norm <= 1e-3
        assert norm > 0.999e-3 or contrast > 1e26


@pytest.mark.parametrize("name", TINY)
def test_neighbours_differ_by_at_most_the_clip(name):
    """One example more, over many draws of all sizes."""
    models = models_of(name, 2)
    most = 0.0
    for number in range(20):
        bound = 10 ** (number / 4 - 3)
        sizes = (1 + number % 7, 3)
        draws = draws_of(name, sizes, seed=number)
        inputs, labels = draws[0]
        fewer = [(inputs[1:], labels[1:]) if sizes[0] > 1 else None, draws[1]]
        apart_N = (sums_of(models, draws, bound).double() - sums_of(models, fewer, bound).double()).norm(dim=1)
        assert apart_N[0] <= bound * (1 + 1e-6)
        assert apart_N[1] <= 1e-6 * bound
        most = max(most, float(apart_N[0]) / bound)
    assert most > 0.99, "some draws come near to the clip"


# ---- clients apart


@pytest.mark.parametrize("name", MODELS)
def test_not_a_bit_of_a_client_depends_on_the_data_of_another(name):
    models = models_of(name, 3)
    draws = draws_of(name, (4, 3, 5))
    others = draws_of(name, (4, 3, 5), seed=9)
    for swapped in ([draws[0], others[1], draws[2]], [draws[0], None, draws[2]]):
        one_ND = sums_of(models, draws, 0.5)
        other_ND = sums_of(models, swapped, 0.5)
        assert not torch.equal(one_ND[1], other_ND[1])
        if swapped[1] is not None:
            assert torch.equal(one_ND[[0, 2]], other_ND[[0, 2]])
        assert (one_ND[[0, 2]] - other_ND[[0, 2]]).norm() < 1e-6


def test_not_a_bit_of_a_client_depends_on_the_weights_of_another():
    draws = draws_of("cnn", (4, 3))
    first, second, third = models_of("cnn", 3)
    assert torch.equal(sums_of([first, second], draws, 0.5)[0], sums_of([first, third], draws, 0.5)[0])


def test_passes_hold_no_more_than_they_may_and_divide_no_draw_that_fits():
    draws = draws_of("logistic", (3, 0, 2, 9, 1, 4))
    found = list(passes(draws, 4))
    sizes = [[(client, len(labels)) for client, _, labels in one] for one in found]
    assert sizes == [[(0, 3)], [(2, 2)], [(3, 4)], [(3, 4)], [(3, 1), (4, 1)], [(5, 4)]]
    for client, draw in enumerate(draws):
        parts = [labels for one in found for own, _, labels in one if own == client]
        assert draw is None or torch.equal(torch.cat(parts), draw[1])


def test_a_loss_of_weighted_classes_is_what_is_clipped():
    models = models_of("cnn", 1)
    draws = draws_of("cnn", (6,))
    doubled = sums_of(models, draws, 1e9, loss=lambda *own, reduction: 2 * cross_entropy(*own, reduction=reduction))
    assert (doubled - 2 * sums_of(models, draws, 1e9)).norm() < 1e-5 * doubled.norm()
