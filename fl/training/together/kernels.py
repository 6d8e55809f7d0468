"""The convolutions and poolings of many clients, on the CPU: faster ways than those that `torch.vmap` takes.

`vmap` makes one grouped convolution of those of N clients, and pools in the layout (N, C, H, W). On a CPU the kernels
for one client at a time, in the layout (N, H, W, C), take a third to two thirds of that time: a pooling of 2x2 with a
stride of 1 a sixth (torch 2.13, by `fedveil bench runtime`). A layer of another kind is left to `vmap`.

Shapes: N clients, B examples, C channels, H and W height and width.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

Dims = tuple[int | None, ...]


class OfClients(TorchFunctionMode):
    """Within the block, convolutions and poolings under `vmap` take the ways of this module."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, or what replaces it."""
        return REPLACED.get(func, func)(*args, **(kwargs or {}))


def _convolved(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> torch.Tensor:
    options = (stride, padding, dilation, groups)
    if input.dim() != 4:
        return torch.conv2d(input, weight, bias, *options)
    convolved: torch.Tensor = _Convolution.apply(input, weight, bias, options)  # type: ignore[no-untyped-call]
    return convolved


def _pooled(input: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
    if input.dim() != 4:
        return torch.max_pool2d(input, *args, **options)
    pooled: torch.Tensor = _Pooling.apply(input, (args, options))  # type: ignore[no-untyped-call]
    return pooled


def _transformed(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if input.dim() < 2:
        return torch.nn.functional.linear(input, weight, bias)
    transformed: torch.Tensor = _Linear.apply(input, weight, bias)  # type: ignore[no-untyped-call]
    return transformed


def _normalised(
    input: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,  # torch.group_norm has a flag for cuDNN
) -> torch.Tensor:
    normalised: torch.Tensor = _Normalisation.apply(input, num_groups, weight, bias, eps)  # type: ignore[no-untyped-call]
    return normalised


REPLACED: dict[Any, Callable[..., Any]] = {
    torch.conv2d: _convolved,
    torch.max_pool2d: _pooled,
    torch.nn.functional.linear: _transformed,
    torch.group_norm: _normalised,
    torch.nn.functional.group_norm: _normalised,
}


class _UnderVmap(torch.autograd.Function):
    """A function whose rule for `vmap` is made of functions of torch, which have gradients of their own."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(_ctx: Any, *_gradients: Any) -> Any:
        """Refuse: without clients there is no need for this function."""
        raise NotImplementedError("a layer whose input does not depend on the examples")


class _Convolution(_UnderVmap):
    @staticmethod
    def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, options: Any) -> torch.Tensor:
        return torch.conv2d(x, weight, bias, *options)

    @staticmethod
    def vmap(
        info: Any, in_dims: Dims, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, options: Any
    ) -> tuple[torch.Tensor, int]:
        size = info.batch_size
        if in_dims[0] is not None and in_dims[1] is None and in_dims[2] is None:  # frozen weights, the same for all
            return _split(torch.conv2d(_joined(x, in_dims[0]), weight, bias, *options), size), 0
        images = _each(x, in_dims[0], size)
        weights = [weight] * size if in_dims[1] is None else weight.movedim(in_dims[1], 0).unbind(0)
        biases = [bias] * size if bias is None or in_dims[2] is None else bias.movedim(in_dims[2], 0).unbind(0)
        parts = [
            torch.conv2d(image, own, shift, *options) for image, own, shift in zip(images, weights, biases, strict=True)
        ]
        return torch.stack([part.movedim(1, -1) for part in parts]).movedim(-1, 2), 0


class _Pooling(_UnderVmap):
    @staticmethod
    def forward(x: torch.Tensor, options: Any) -> torch.Tensor:
        return torch.max_pool2d(x, *options[0], **options[1])

    @staticmethod
    def vmap(info: Any, in_dims: Dims, x: torch.Tensor, options: Any) -> tuple[torch.Tensor, int]:
        assert in_dims[0] is not None
        joined = _joined(x, in_dims[0])
        return _split(torch.max_pool2d(joined, *options[0], **options[1]), info.batch_size), 0


class _Normalisation(_UnderVmap):
    """A group normalisation, which `vmap` cannot map: it asks for a layout in memory."""

    @staticmethod
    def forward(x: torch.Tensor, groups: int, weight: Any, bias: Any, eps: float) -> torch.Tensor:
        return torch.nn.functional.group_norm(x, groups, weight, bias, eps)

    @staticmethod
    def vmap(
        info: Any, in_dims: Dims, x: torch.Tensor, groups: int, weight: Any, bias: Any, eps: float
    ) -> tuple[torch.Tensor, int]:
        size = info.batch_size
        own = _first_dim(x, in_dims[0], size)
        outputs = torch.nn.functional.group_norm(own.flatten(0, 1), groups, None, None, eps).view(own.shape)
        shape = (size, 1, own.shape[2], *[1] * (own.dim() - 3))
        if weight is not None:
            outputs = outputs * _first_dim(weight, in_dims[2], size).reshape(shape)
        if bias is not None:
            outputs = outputs + _first_dim(bias, in_dims[3], size).reshape(shape)
        return outputs, 0


class _Linear(_UnderVmap):
    @staticmethod
    def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    def vmap(
        info: Any, in_dims: Dims, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> tuple[torch.Tensor, int]:
        size = info.batch_size
        x = _first_dim(x, in_dims[0], size)
        weight = _first_dim(weight, in_dims[1], size)
        bias = None if bias is None else _first_dim(bias, in_dims[2], size)
        x_NBI = x.flatten(1, -2)
        if not torch.is_autocast_enabled(x.device.type):
            outputs = _Products.apply(x_NBI, weight)  # type: ignore[no-untyped-call]
            outputs = outputs if bias is None else outputs + bias[:, None]
        elif bias is None:
            outputs = torch.bmm(x_NBI, weight.mT)
        else:  # a sum of its own would be in float32
            outputs = torch.baddbmm(bias[:, None], x_NBI, weight.mT)
        return outputs.reshape(*x.shape[:-1], -1), 0


class _Products(torch.autograd.Function):
    """The products of a linear layer, x (N, B, I) by its weights (N, O, I), to (N, B, O).

    The gradient of the weights comes out in their own layout; that of torch's `bmm` is transposed, and copying it takes
    as long as the product.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return torch.bmm(x, weight.mT)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        needs_x, needs_weight = ctx.needs_input_grad
        return (
            torch.bmm(gradient, weight) if needs_x else None,
            torch.bmm(gradient.mT, x) if needs_weight else None,
        )


def _first_dim(tensor: torch.Tensor, dim: int | None, size: int) -> torch.Tensor:
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _each(x: torch.Tensor, dim: int | None, size: int) -> list[torch.Tensor]:
    """Return the clients' images, each (B, C, H, W) with its channels last in memory, and so their gradients."""
    if dim is None:
        return [x.contiguous(memory_format=torch.channels_last)] * size
    return [one.movedim(-1, 1) for one in _channels_last(x, dim).unbind(0)]


def _joined(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the images of all clients, (N * B, C, H, W), with their channels last in memory."""
    return _channels_last(x, dim).flatten(0, 1).movedim(-1, 1)


def _channels_last(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Return images with the clients at `dim` as (N, B, H, W, C), contiguous."""
    moved = x.movedim(dim, 0).movedim(2, -1).contiguous()
    return moved.view(-1).view(moved.shape)  # the stride of a single channel may be any, and oneDNN looks at it


def _split(x: torch.Tensor, size: int) -> torch.Tensor:
    last = x.movedim(1, -1)
    return last.reshape(size, -1, *last.shape[1:]).movedim(-1, 2)
