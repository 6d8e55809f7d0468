"""Layers whose gradients of single examples cannot be had, and those that take their places with the same weights.

Shapes: B examples, L positions of the query, S positions of the key, E values of an embedding, H heads.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from opacus.validators.gru import fix as gru
from opacus.validators.lstm import fix as lstm

from privacy.errors import one_line, refusal

KEY = "mechanism.dp_sgd.swap_layers"


class SplitAttention(torch.nn.Module):
    """`torch.nn.MultiheadAttention` with `batch_first`, of linear layers for queries, keys, values and outputs.

    Opacus 1.6.0 has a `DPMultiheadAttention`, but with `batch_first` and several heads it mixes heads and positions;
    without `batch_first` its linear layers have the positions first, which hooks take for the examples.
    """

    def __init__(self, other: torch.nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim = other.embed_dim
        self.num_heads = other.num_heads
        self.batch_first = True
        # a TransformerEncoderLayer looks at these, and then leaves its fused path alone
        self._qkv_same_embed_dim = False
        self.in_proj_weight = None
        self.in_proj_bias = None
        together = other.in_proj_weight
        apart = (other.q_proj_weight, other.k_proj_weight, other.v_proj_weight)
        weights: Sequence[torch.Tensor] = apart if together is None else together.chunk(3)
        biases = (None,) * 3 if other.in_proj_bias is None else other.in_proj_bias.chunk(3)
        bias_trained = other.in_proj_bias is not None and other.in_proj_bias.requires_grad
        trained = [(apart[i] if together is None else together).requires_grad for i in range(3)]
        self.query, self.key, self.value = (
            _linear(weight, bias, (own, bias_trained))
            for weight, bias, own in zip(weights, biases, trained, strict=True)
        )
        self.out_proj = other.out_proj
        self.dropout = torch.nn.Dropout(other.dropout)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return outputs (B, L, E), and weights (B, L, S), or (B, H, L, S) by head.

        Takes queries (B, L, E), keys and values (B, S, ...), and the masks of `torch.nn.MultiheadAttention`.
        `is_causal` is a hint there, and says nothing beside the mask that it comes with.
        """
        heads = (self._heads(layer(tensor)) for layer, tensor in zip(self._inputs, (query, key, value), strict=True))
        query_BHLe, key_BHSe, value_BHSe = heads
        scores_BHLS = query_BHLe @ key_BHSe.transpose(-1, -2) / math.sqrt(query_BHLe.shape[-1])
        if attn_mask is not None:
            mask = _added(attn_mask, scores_BHLS)
            scores_BHLS = scores_BHLS + (mask if mask.dim() == 2 else mask.view(-1, self.num_heads, *mask.shape[1:]))
        if key_padding_mask is not None:
            scores_BHLS = scores_BHLS + _added(key_padding_mask, scores_BHLS)[:, None, None]
        weights_BHLS = self.dropout(scores_BHLS.softmax(-1))
        outputs = self.out_proj((weights_BHLS @ value_BHSe).transpose(1, 2).flatten(2))
        if not need_weights:
            return outputs, None
        return outputs, weights_BHLS.mean(1) if average_attn_weights else weights_BHLS

    @property
    def _inputs(self) -> tuple[torch.nn.Module, ...]:
        return self.query, self.key, self.value

    def _heads(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view(*tensor.shape[:2], self.num_heads, -1).transpose(1, 2)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None, trained: tuple[bool, bool]) -> torch.nn.Linear:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device)
    layer.to(weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    layer.weight.requires_grad_(trained[0])
    if bias is not None:
        layer.bias.requires_grad_(trained[1])
    return layer


def _added(mask: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Return a mask as values to add to the scores: what is True takes no part."""
    if mask.dtype != torch.bool:
        return mask.to(scores.dtype)
    return torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device).masked_fill(mask, -math.inf)


def _attention(other: torch.nn.MultiheadAttention) -> SplitAttention:
    if not other.batch_first or other.bias_k is not None or other.add_zero_attn:
        raise ValueError("attention needs batch_first=True, and neither add_bias_kv nor add_zero_attn")
    return SplitAttention(other)


def _lstm(other: torch.nn.LSTM) -> torch.nn.Module:
    if other.proj_size:
        raise ValueError("an LSTM with proj_size has no counterpart")
    return _recurrent(other, lstm)


def _gru(other: torch.nn.GRU) -> torch.nn.Module:
    return _recurrent(other, gru)


def _recurrent(other: torch.nn.RNNBase, fix: Callable[[Any], Any]) -> torch.nn.Module:
    """Return Opacus's layer in the type, on the device and with the frozen weights of the other one."""
    layer: torch.nn.Module = fix(other)
    first = next(other.parameters())
    layer.to(first.device, first.dtype)
    theirs = dict(other.named_parameters())
    with torch.no_grad():
        for name, own in layer.named_parameters():
            own.copy_(theirs[name])
            own.requires_grad_(theirs[name].requires_grad)
    return layer


SWAPS: dict[type[torch.nn.Module], Callable[[Any], torch.nn.Module]] = {
    torch.nn.LSTM: _lstm,
    torch.nn.GRU: _gru,
    torch.nn.MultiheadAttention: _attention,
}
SWAPPED = tuple(f"nn.{kind.__name__}" for kind in SWAPS)


def swapped(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model with another layer of the same weights in each place of an LSTM, a GRU or an attention.

    Raises:
        ConfigError: one of them has an option that the other one lacks.
    """
    done: dict[torch.nn.Module, torch.nn.Module] = {}  # a layer may stand in several places
    for name, layer in [*model.named_modules(remove_duplicate=False)]:
        swap = SWAPS.get(type(layer))
        if swap is None:
            continue
        try:
            other = done.setdefault(layer, done[layer] if layer in done else swap(layer).train(layer.training))
        except (ValueError, RuntimeError) as error:
            raise refusal(model, f"{name or 'the model'} cannot be swapped ({KEY}): {one_line(error)}") from error
        if not name:
            return other
        model.set_submodule(name, other)
    for module in model.modules():
        if isinstance(module, torch.nn.TransformerEncoder):
            module.use_nested_tensor = False  # it chose that by the layers that it was made of
    return model
