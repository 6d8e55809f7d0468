"""Layers that take the place of recurrent ones and of attention: same outputs, right gradients, and whole rounds."""

import copy
import math

import numpy as np
import pytest
import torch
from opacus.layers import DPMultiheadAttention
from torch import nn

from privacy.errors import ConfigError
from privacy.mechanisms.dp_sgd_layers import swapped
from tests.composed import vector_of, workspace_of

INPUTS = torch.randn(5, 7, 6, generator=torch.Generator().manual_seed(1))
MASK = torch.ones(7, 7).triu(1).bool()
PADDED = torch.zeros(5, 7).bool().index_fill(1, torch.tensor([6]), True)
DP = ("mechanism=dp_sgd", "noise=seeded", "mechanism.dp_sgd.swap_layers=true")
QUIET = (
    "mechanism.dp_sgd.noise_multiplier=1e-9",
    "mechanism.dp_sgd.clip=1e3",
    "training.batch_size=10000",
    "training.lr=1",
)


def attention(**options):
    return nn.MultiheadAttention(6, 2, batch_first=True, **options)


def encoder():
    return nn.TransformerEncoderLayer(6, 2, 16, dropout=0.0, batch_first=True)


CALLS = {
    "lstm": (lambda: nn.LSTM(6, 8, batch_first=True), lambda layer: layer(INPUTS)[0]),
    "lstm, two ways and deep": (
        lambda: nn.LSTM(6, 8, 2, bidirectional=True, batch_first=True),
        lambda layer: layer(INPUTS)[0],
    ),
    "lstm without biases": (lambda: nn.LSTM(6, 8, bias=False, batch_first=True), lambda layer: layer(INPUTS)[0]),
    "gru": (lambda: nn.GRU(6, 8, batch_first=True), lambda layer: layer(INPUTS)[0]),
    "attention": (attention, lambda layer: layer(INPUTS, INPUTS, INPUTS, need_weights=False)[0]),
    "attention, weights": (attention, lambda layer: layer(INPUTS, INPUTS, INPUTS)[1]),
    "attention, weights by head": (
        attention,
        lambda layer: layer(INPUTS, INPUTS, INPUTS, average_attn_weights=False)[1],
    ),
    "attention without biases": (lambda: attention(bias=False), lambda layer: layer(INPUTS, INPUTS, INPUTS)[0]),
    "attention, other keys": (
        lambda: attention(kdim=4, vdim=3),
        lambda layer: layer(INPUTS, INPUTS[:, :5, :4], INPUTS[:, :5, :3])[0],
    ),
    "attention, causal": (attention, lambda layer: layer(INPUTS, INPUTS, INPUTS, attn_mask=MASK)[0]),
    "attention, added mask": (
        attention,
        lambda layer: layer(INPUTS, INPUTS, INPUTS, attn_mask=INPUTS[0, :, :1] @ INPUTS[0, :, :1].T)[0],
    ),
    "attention, masks by head": (
        attention,
        lambda layer: layer(INPUTS, INPUTS, INPUTS, attn_mask=MASK.expand(10, 7, 7))[0],
    ),
    "attention, padded": (attention, lambda layer: layer(INPUTS, INPUTS, INPUTS, key_padding_mask=PADDED)[0]),
    "encoder layer": (encoder, lambda layer: layer(INPUTS)),
    "encoder layer, evaluated": (lambda: encoder().eval(), lambda layer: layer(INPUTS)),
    "encoder of padded sequences, evaluated": (
        lambda: nn.TransformerEncoder(encoder(), 2).eval(),
        lambda layer: layer(INPUTS, src_key_padding_mask=PADDED)[:, :6],
    ),
    "float64": (
        lambda: nn.LSTM(6, 8, batch_first=True).double(),
        lambda layer: layer(INPUTS.double())[0],
    ),
    "encoder, causal": (
        lambda: nn.TransformerEncoder(encoder(), 2, enable_nested_tensor=False),
        lambda layer: layer(INPUTS, mask=torch.zeros(7, 7).masked_fill(MASK, -math.inf)),
    ),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # of the encoder that is replaced
@pytest.mark.parametrize("case", CALLS)
def test_the_other_layer_computes_the_same(case):
    make, call = CALLS[case]
    torch.manual_seed(3)
    layer = make()
    other = swapped(copy.deepcopy(layer))
    assert all(type(module) not in (nn.LSTM, nn.GRU, nn.MultiheadAttention) for module in other.modules())
    assert other.training == layer.training
    with torch.no_grad():
        expected = call(layer)
        assert expected.abs().max() > 0.01
        assert (call(other) - expected).abs().max() < 1e-6
    count = sum(parameter.numel() for parameter in layer.parameters())
    assert sum(parameter.numel() for parameter in other.parameters()) == count


def test_opacuss_own_attention_computes_something_else():
    """Version 1.6.0: with batch_first and two heads. When this fails, `SplitAttention` may go."""
    layer = attention()
    theirs = DPMultiheadAttention(6, 2, batch_first=True)
    theirs.load_state_dict(layer.state_dict())
    with torch.no_grad():
        assert (theirs(INPUTS, INPUTS, INPUTS)[0] - layer(INPUTS, INPUTS, INPUTS)[0]).abs().max() > 0.1


@pytest.mark.parametrize(
    "kind", [*(pytest.param(one, marks=pytest.mark.slow) for one in ("Lstm", "Gru", "Attention")), "Transformer"]
)
def test_a_private_step_without_noise_is_the_plain_step_of_the_unswapped_model(kind):
    """All examples drawn, none clipped. Parameters lie elsewhere, so updates agree by their effect on outputs."""
    model = f"model._target_=tests.fl.models.zoo.{kind}"
    private = workspace_of(model, *DP, *QUIET)
    plain = workspace_of(model, *QUIET[2:], "training.weighting=uniform")
    images = private.data.normalise(private.data.test.images[:20])

    def outputs(work, moved):
        work.load(work.initial_D + moved)
        with torch.no_grad():
            return work.model.eval()(images)

    start = outputs(plain, 0.0)
    assert (outputs(private, 0.0) - start).abs().max() < 1e-5
    moved = [torch.from_numpy(vector_of(work, 1)[:-1].copy()) for work in (plain, private)]
    learned = [outputs(work, update_D) for work, update_D in zip((plain, private), moved, strict=True)]
    assert (learned[0] - start).abs().max() > 0.005
    assert (learned[0] - learned[1]).abs().max() < 1e-4


@pytest.mark.parametrize("kind", [pytest.param("Transformer", marks=pytest.mark.slow), "Theirs"])
def test_a_client_trains_the_models_that_it_is_given_in_each_round(kind):
    where = "tests.fl.models.zoo" if kind != "Theirs" else "tests.outside.theirs"
    work = workspace_of(f"model._target_={where}.{kind}", *DP, *QUIET)
    vector_of(work, 1)
    other_D = work.initial_D.numpy() * np.float32(1.5)
    fresh = workspace_of(f"model._target_={where}.{kind}", *DP, *QUIET)
    again = vector_of(work, 1, model_D=other_D.copy())
    assert np.abs(again - vector_of(fresh, 1, model_D=other_D.copy())).max() < 1e-6


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.LSTM(6, 8, proj_size=3), "an LSTM with proj_size has no counterpart"),
        (nn.MultiheadAttention(6, 2), "attention needs batch_first=True"),
        (attention(add_bias_kv=True), "and neither add_bias_kv nor add_zero_attn"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(layer, said):
    with pytest.raises(ConfigError, match=f"^model=Sequential: 0 cannot be swapped .*{said}"):
        swapped(nn.Sequential(layer))


def test_the_key_changes_no_hash_where_it_is_off():
    assert (
        workspace_of("mechanism=dp_sgd").plan.hash == workspace_of("mechanism=dp_sgd", DP[2][:-4] + "false").plan.hash
    )
    assert workspace_of("mechanism=dp_sgd").plan.hash != workspace_of("mechanism=dp_sgd", DP[2]).plan.hash


@pytest.mark.parametrize("make", [lambda: nn.LSTM(6, 6), lambda: nn.GRU(6, 6), attention])
def test_a_layer_in_two_places_stays_one_and_what_is_frozen_stays_frozen(make):
    model = nn.Module()
    model.first = make()
    model.second = model.first
    for name, parameter in model.first.named_parameters():
        parameter.requires_grad_("bias" in name)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    other = swapped(model)
    assert other.first is other.second
    assert sum(parameter.numel() for parameter in other.parameters() if parameter.requires_grad) == trained
