"""A model over examples of several clients: each layer with trained parameters takes those of the example's client.

The model is called as it is, on the examples of all clients one behind the other: clipping asks for a model that
treats each example alone. Its own parameters are tokens. A layer that gets one takes the clients' parameters in its
place. Any other use of a token would be measured by nothing, so it is refused: it leaves a gradient in the token.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from privacy.mechanisms.stacked.layers import Convolution, Layer, Linear, Scale, Sequences
from privacy.mechanisms.stacked.parts import Parts, Unstackable

USES = "takes part otherwise than as the weight or the bias of one linear layer, convolution or normalisation"


class Rules(TorchFunctionMode):
    """Within the block, layers with tokens compute with the clients' parameters. A block holds one pass.

    Args:
        tokens: the trained parameters of the model by name, in the order of the stack.
        parts: the clients' parameters, and the examples of the pass.
    """

    def __init__(self, tokens: Mapping[str, torch.nn.Parameter], parts: Parts) -> None:
        super().__init__()
        self._tokens = tokens
        self._places = {id(token): place for place, token in enumerate(tokens.values())}
        self._parts = parts
        self.layers: list[Layer] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, or the layer that replaces it."""
        options = dict(kwargs or {})
        rule = RULES.get(func)
        if rule is None or not self._holds_token((*args, *options.values())):
            return func(*args, **options)
        return rule(self, *args, **options)

    def require_whole(self) -> None:
        """Refuse a pass in which a trained parameter took part in no layer, in two, or in something else.

        Raises:
            Unstackable: the message names the parameter.
        """
        uses = Counter(place for layer in self.layers for place in layer.places)
        for place, (name, token) in enumerate(self._tokens.items()):
            if uses[place] != 1 or token.grad is not None:
                raise Unstackable(f"{name} {USES}")

    def layer(self, kind: type[Layer], x: torch.Tensor, tokens: Sequence[torch.Tensor | None], *options: Any) -> Any:
        """Return the outputs of a layer for inputs (M, ...)."""
        given = [token for token in tokens if token is not None]
        places = [self._places.get(id(token)) for token in given]
        if None in places or tokens[0] is None:
            raise Unstackable("a layer with a part of its parameters trained")
        if len(x) != self._parts.examples:
            raise Unstackable("a layer does not have the examples in the first dimension of its inputs")
        if x.dtype != torch.float32 or given[0].dtype != torch.float32:
            raise Unstackable("a layer computes in another type than float32")
        made = kind(self._parts, places, *options)  # type: ignore[arg-type]
        self.layers.append(made)
        return made(x, given[0])

    def _holds_token(self, values: Sequence[Any]) -> bool:
        return any(id(value) in self._places for value in values)


def _linear(rules: Rules, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
    return rules.layer(Linear if input.dim() == 2 else Sequences, input, (weight, bias))


def _convolution(
    rules: Rules,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    if input.dim() != 4 or groups != 1 or isinstance(padding, str):
        raise Unstackable("a convolution in groups, or with padding by name")
    return rules.layer(Convolution, input, (weight, bias), _both(stride), _both(padding), _both(dilation))


def _group_norm(
    rules: Rules,
    input: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,  # torch.group_norm has a flag for cuDNN
) -> Any:
    return rules.layer(Scale, F.group_norm(input, num_groups, None, None, eps), (weight, bias), 1, 2)


def _layer_norm(
    rules: Rules,
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Any:
    normalised = F.layer_norm(input, normalized_shape, None, None, eps)
    first = input.dim() - len(normalized_shape)
    if first < 1:
        raise Unstackable("a normalisation over all examples")
    return rules.layer(Scale, normalised, (weight, bias), first, input.dim())


def _both(value: Any) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else (value * 2)[:2]
    return height, width


RULES: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    torch.conv2d: _convolution,
    F.group_norm: _group_norm,
    torch.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
}
