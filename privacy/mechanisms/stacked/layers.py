"""Layers with parameters, for the examples of several clients: their outputs, and what their backward pass leaves.

A layer's backward pass computes the gradient of its input, and no gradient of a parameter. It keeps what gives two
things afterwards: the norm of each example's gradient, and the sum of the clipped ones. This is the book-keeping of
Bu et al. 2023 ("Differentially Private Optimization on Large and Small Models at Lower Cost", arXiv:2210.00038): one
forward and one backward pass.

What is summed is what was measured. `Linear` sums products whose norms are known by their factors. Each other layer
holds the gradients of single examples as tensors, measures these, and sums these; where they would take too much
memory, it computes them a second time from the same values by the same calls.

Shapes: M examples of a pass, N clients, P positions of an output, O outputs and I inputs of a layer.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from privacy.mechanisms.dp_sgd_optimizers import VANISHING, norms_of
from privacy.mechanisms.stacked.parts import Parts, Segment

KEPT_BYTES = 128 * 2**20  # of one layer's gradients of single examples, held from their norms to their sum
PART_BYTES = 4 * 2**20  # of those that are computed in one call: more do not fit into a processor's cache
FEW = 32  # number of squares that are added in float32: the norm of a row rounds by 2^-20
LARGEST = 2.0**96  # the largest norm of a linear layer's input: beyond it, a clipped product could round in subnormals


class Layer(ABC):
    """One use of one layer in one pass.

    Args:
        parts: the clients' parameters, and the examples of the pass.
        places: the places of the weight, and of the bias where there is one, in the stack.
    """

    def __init__(self, parts: Parts, places: Sequence[int]) -> None:
        self.parts = parts
        self.places = places

    def own(self, segment: Segment) -> list[torch.Tensor | None]:
        """Return the weight and the bias of a segment's client; a bias that is not there is None."""
        found: list[torch.Tensor | None] = [self.parts.stack[place][segment.client] for place in self.places]
        return [*found, None][:2]

    def __call__(self, x: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """Return the outputs for inputs (M, ...). `token` requires a gradient and gets none."""
        outputs: torch.Tensor = _Kept.apply(self.laid_out(x), token, self)  # type: ignore[no-untyped-call]
        return outputs

    def laid_out(self, x: torch.Tensor) -> torch.Tensor:
        """Return the inputs in the layout in memory that the layer computes with."""
        return x

    @abstractmethod
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs."""

    @abstractmethod
    def input_gradient(self, x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the inputs from that of the outputs."""

    @abstractmethod
    def keep(self, x: torch.Tensor, gradient: torch.Tensor) -> None:
        """Keep what the next two functions need."""

    @abstractmethod
    def norms(self) -> torch.Tensor:
        """Return the norms of the examples' gradients, shape (M,), float64; NaN or infinite where one is not finite."""

    @abstractmethod
    def add(self, factors_M: torch.Tensor, finite: bool, sums: Sequence[torch.Tensor]) -> None:
        """Add the sums of the gradients times their factors to those of the clients, each (N, ...).

        Where not all are `finite`, an example with a factor of 0 takes no part: 0 times infinity is NaN.
        """


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, _token: torch.Tensor, layer: Layer) -> torch.Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x)  # autograd refuses a backward pass after a change in place
        return layer.forward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x = ctx.saved_tensors[0].detach()
        gradient = ctx.layer.laid_out(gradients[0])
        ctx.layer.keep(x, gradient)
        return ctx.layer.input_gradient(x, gradient) if ctx.needs_input_grad[0] else None, None, None


class Linear(Layer):
    """A linear layer over vectors (M, I): an example's gradient is one product g x^T, and its norm |g| |x|."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs, (M, O)."""
        return _joined([F.linear(x[one.rows], *_pair(self.own(one))) for one in self.parts.segments])

    def input_gradient(self, x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return the gradient of the inputs, (M, I)."""
        return _joined([gradient[one.rows] @ _pair(self.own(one))[0] for one in self.parts.segments])

    def keep(self, x: torch.Tensor, gradient: torch.Tensor) -> None:
        """Keep both factors."""
        self._x = x
        self._gradient = gradient

    def norms(self) -> torch.Tensor:
        """Return |g| sqrt(|x|^2 + 1), or |g| |x| without a bias."""
        inputs_M = rows_norms(self._x)
        ones = 1.0 if len(self.places) > 1 else 0.0
        norms_M = rows_norms(self._gradient) * (inputs_M.square() + ones).sqrt()
        return torch.where(inputs_M > LARGEST, torch.full_like(norms_M, torch.inf), norms_M)

    def add(self, factors_M: torch.Tensor, finite: bool, sums: Sequence[torch.Tensor]) -> None:
        """Add the products of the scaled gradients and the inputs."""
        x = self._x
        gradient = self._gradient
        if not finite:
            x = _without(x, factors_M)
            gradient = _without(gradient, factors_M)
        scaled = gradient * factors_M[:, None]
        for one in self.parts.segments:
            sums[self.places[0]][one.client].addmm_(scaled[one.rows].T, x[one.rows])
            for place in self.places[1:]:
                sums[place][one.client].add_(scaled[one.rows].sum(0))


class Sampled(Layer):
    """A layer that holds the gradients of single examples."""

    _held: list[list[torch.Tensor]] | None = None

    @abstractmethod
    def samples(self, x: torch.Tensor, gradient: torch.Tensor) -> list[torch.Tensor]:
        """Return the gradients of single examples, by parameter, for the inputs and the outputs' gradients of some."""

    @abstractmethod
    def bytes_of_work(self, x: torch.Tensor) -> int:
        """Return the bytes that the gradients of one example, and what they are computed from, take."""

    def keep(self, x: torch.Tensor, gradient: torch.Tensor) -> None:
        """Compute the gradients; keep what they are computed from in their place where they are too large."""
        self._x = x
        self._gradient = gradient
        size = max(1, PART_BYTES // self.bytes_of_work(x))
        self._ranges = [slice(begin, begin + size) for begin in range(0, len(x), size)]
        values = sum(self.parts.stack[place][0].numel() for place in self.places)
        if 4 * values * len(x) <= KEPT_BYTES:
            self._held = [self._samples_of(rows) for rows in self._ranges]
            del self._x, self._gradient

    def norms(self) -> torch.Tensor:
        """Return the norms of the tensors that are summed."""
        return torch.cat([norms_of(samples) for _, samples in self._parts()])

    def add(self, factors_M: torch.Tensor, finite: bool, sums: Sequence[torch.Tensor]) -> None:
        """Add the tensors whose norms were taken."""
        for rows, samples in self._parts():
            factors = factors_M[rows]
            for place, sample in zip(self.places, samples, strict=True):
                values = sample.reshape(len(sample), -1)
                if not finite:
                    values = _without(values, factors)
                for one in self.parts.within(rows):
                    own = self.restored(place, factors[one.rows] @ values[one.rows])
                    sums[place][one.client].add_(own)

    def _parts(self) -> Iterator[tuple[slice, list[torch.Tensor]]]:
        """Yield the gradients of some examples at a time: those that are held, or the same ones computed again."""
        for number, rows in enumerate(self._ranges):
            yield rows, self._samples_of(rows) if self._held is None else self._held[number]

    def _samples_of(self, rows: slice) -> list[torch.Tensor]:
        return self.samples(self._x[rows], self._gradient[rows])

    def restored(self, place: int, sum_D: torch.Tensor) -> torch.Tensor:
        """Return a sum of gradients in the shape of its parameter."""
        return sum_D.view_as(self.parts.stack[place][0])


class Sequences(Sampled):
    """A linear layer over sequences (M, ..., I)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs, (M, ..., O)."""
        return _joined([F.linear(x[one.rows], *_pair(self.own(one))) for one in self.parts.segments])

    def input_gradient(self, x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return the gradient of the inputs, (M, ..., I)."""
        return _joined([gradient[one.rows] @ _pair(self.own(one))[0] for one in self.parts.segments])

    def samples(self, x: torch.Tensor, gradient: torch.Tensor) -> list[torch.Tensor]:
        """Return (M, O, I), and (M, O) of a bias."""
        g_MPO = gradient.flatten(1, -2)
        return [torch.bmm(g_MPO.mT, x.flatten(1, -2)), g_MPO.sum(1)][: len(self.places)]

    def bytes_of_work(self, x: torch.Tensor) -> int:
        """Return the bytes of an example's gradients and inputs."""
        return 4 * (self.parts.stack[self.places[0]][0].numel() + x[0].numel())


class Convolution(Sampled):
    """A convolution over images (M, C, H, W), whose channels come last in memory.

    Args:
        stride: pairs for height and width, here and below.
        padding: zeros around an image.
        dilation: the distance of the kernel's points.
    """

    def __init__(
        self,
        parts: Parts,
        places: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
    ) -> None:
        super().__init__(parts, places)
        self._options = (list(stride), list(padding), list(dilation))

    def laid_out(self, x: torch.Tensor) -> torch.Tensor:
        """Return the images with their channels last in memory."""
        last = x.permute(0, 2, 3, 1).contiguous()
        # with C = 1 it counts as contiguous whatever the stride of C, and oneDNN looks
        return last.view(-1).view(last.shape).permute(0, 3, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs, (M, O, H', W')."""
        parts = [F.conv2d(x[one.rows], *_pair(self.own(one)), *self._options) for one in self.parts.segments]
        return _joined(parts).contiguous(memory_format=torch.channels_last)  # no view: a model may change it in place

    def input_gradient(self, x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the images."""
        none = (False, [0, 0], 1, [True, False, False])  # of a transposed convolution, of weights and of a bias
        backward = torch.ops.aten.convolution_backward
        return _joined(
            [
                backward(gradient[one.rows], x[one.rows], _pair(self.own(one))[0], None, *self._options, *none)[0]
                for one in self.parts.segments
            ]
        )

    def samples(self, x: torch.Tensor, gradient: torch.Tensor) -> list[torch.Tensor]:
        """Return (M, O, I), where an example's I are the points of the kernel with their channels, and (M, O)."""
        g_MPO = gradient.permute(0, 2, 3, 1).flatten(1, 2)
        patches_MPI = self._patches(x.permute(0, 2, 3, 1), gradient.shape[2:])
        return [torch.bmm(g_MPO.mT, patches_MPI), g_MPO.sum(1)][: len(self.places)]

    def _patches(self, images: torch.Tensor, out: Sequence[int]) -> torch.Tensor:
        """Return what the kernel sees at each position, from images (M, H, W, C)."""
        stride, padding, dilation = self._options
        kernel = self.parts.stack[self.places[0]].shape[3:]
        if any(padding):
            images = F.pad(images, (0, 0, padding[1], padding[1], padding[0], padding[0]))
        to_image, to_row, to_column, to_channel = images.stride()
        steps = (stride[0] * to_row, stride[1] * to_column, dilation[0] * to_row, dilation[1] * to_column)
        shape = (len(images), *out, *kernel, images.shape[3])
        seen = images.as_strided(shape, (to_image, *steps, to_channel), images.storage_offset())
        return seen.reshape(len(images), out[0] * out[1], -1)

    def bytes_of_work(self, x: torch.Tensor) -> int:
        """Return the bytes of an example's gradients and patches."""
        weight = self.parts.stack[self.places[0]][0]
        size = zip(x.shape[2:], weight.shape[2:], *self._options, strict=True)
        positions = 1
        for length, kernel, stride, padding, dilation in size:
            positions *= (length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        return 4 * (weight.numel() + positions * weight[0].numel())

    def restored(self, place: int, sum_D: torch.Tensor) -> torch.Tensor:
        """Return the sum in the shape of the weight, (O, C, h, w)."""
        like = self.parts.stack[place][0]
        if like.dim() == 1:
            return sum_D
        outputs, channels, height, width = like.shape
        return sum_D.view(outputs, height, width, channels).permute(0, 3, 1, 2)


class Scale(Sampled):
    """The weights and biases behind a normalisation of (M, ...), which stand at the dimensions from `first` on.

    Args:
        first: the first dimension of the inputs that a weight has.
        last: that behind the last one.
    """

    def __init__(self, parts: Parts, places: Sequence[int], first: int, last: int) -> None:
        super().__init__(parts, places)
        self._first = first
        self._last = last

    def _spread(self, place: int, x: torch.Tensor) -> torch.Tensor:
        """Return each example's own values of a parameter, which can be broadcast to the inputs."""
        own = self.parts.stack[place][self.parts.owners_M]
        shape = [length if self._first <= dim < self._last else 1 for dim, length in enumerate(x.shape)]
        return own.view(len(own), *shape[1:])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs, in the shape of the inputs."""
        outputs = x * self._spread(self.places[0], x)
        for place in self.places[1:]:
            outputs += self._spread(place, x)
        return outputs

    def input_gradient(self, x: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the inputs."""
        return gradient * self._spread(self.places[0], x)

    def samples(self, x: torch.Tensor, gradient: torch.Tensor) -> list[torch.Tensor]:
        """Return the gradients in the shape of the parameter, (M, ...)."""
        others = [dim for dim in range(1, x.dim()) if not self._first <= dim < self._last]
        own = [x * gradient, gradient][: len(self.places)]
        return [one.sum(others) if others else one for one in own]

    def bytes_of_work(self, x: torch.Tensor) -> int:
        """Return the bytes of an example's inputs."""
        return 4 * x[0].numel()


def rows_norms(rows: torch.Tensor) -> torch.Tensor:
    """Return the norms of rows (M, I), float64, shape (M,): closer than `norms_of`, as two are multiplied."""
    whole = rows.shape[1] // FEW * FEW
    parts = torch.linalg.vector_norm(rows[:, :whole].reshape(len(rows), whole // FEW, FEW), dim=2)
    rest = torch.linalg.vector_norm(rows[:, whole:], dim=1, keepdim=True)
    norms_M: torch.Tensor = torch.linalg.vector_norm(torch.cat([parts, rest], dim=1).double(), dim=1)
    odd_M = ~(norms_M.isfinite() & (norms_M > VANISHING))
    if odd_M.any():
        norms_M[odd_M] = torch.linalg.vector_norm(rows[odd_M].double(), dim=1)
    return norms_M


def _without(rows: torch.Tensor, factors_M: torch.Tensor) -> torch.Tensor:
    """Return rows (M, ...) with zeros in those whose factor is 0."""
    return torch.where((factors_M != 0)[:, None], rows, torch.zeros_like(rows))


def _pair(own: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, torch.Tensor | None]:
    weight, bias = own
    assert weight is not None
    return weight, bias


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
