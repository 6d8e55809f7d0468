"""Circuits over bits that parties share by exclusive or: conversion from additive shares and back, comparisons, sums.

CrypTen's circuits spend 13 bitwise products of 64-bit words on an addition or a comparison, and convert additive shares
by adding those of all parties, one after the other. Here the dealer shares a random word both additively and by
exclusive or. That word masks the value, and the masked value is opened (`masked`). The products of each level of a
carry tree are packed into as few words as they fill: 2 words for a sign, 3 for an addition to the opened value, 3 for a
comparison. This takes up to twice as many communication rounds.

Tensors are one party's shares, int64; the last axis is packed and a multiple of 64 long (`padded`). A product of shares
is CrypTen's Beaver protocol (`beaver.AND`), everything else is local. Shapes: N words, W = N / 64 packed words.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch.nn.functional import pad

from privacy.secure_sums.mpc.crypten.compat import ArithmeticSharedTensor, BinarySharedTensor, beaver, crypten
from privacy.secure_sums.mpc.crypten.dealer import word_masks

WORD_BITS = 64
STRIDES = (1, 2, 4, 8, 16, 32)  # distances between the groups of bits that each level of the carry tree joins
TOP = -(1 << 63)
ALL = -1


def _low(stride: int) -> int:
    """The mask of all positions whose index has the bit `stride` clear: 0x5555..., 0x3333..., as int64."""
    mask: int = sum(1 << position for position in range(WORD_BITS) if not position & stride)
    return mask - (1 << WORD_BITS) if mask >> 63 else mask


LOW = {stride: _low(stride) for stride in STRIDES}


def padded(share: torch.Tensor) -> torch.Tensor:
    """Append shares of zero to the last axis, up to a multiple of 64."""
    return pad(share, (0, -share.shape[-1] % WORD_BITS))


def flipped(share: torch.Tensor, public: int | torch.Tensor = ALL) -> torch.Tensor:
    """The exclusive or of a share with a public value: only party 0 applies it."""
    return share ^ public if _is_first() else share


def parties() -> int:
    """The number of parties that compute."""
    return int(crypten.communicator.get().get_world_size())


def _is_first() -> bool:
    return bool(crypten.communicator.get().get_rank() == 0)


def _plain(words: Any) -> torch.Tensor:
    """The torch tensor of some words: on a GPU CrypTen wraps its tensors."""
    tensor = words if isinstance(words, torch.Tensor) else words.tensor()
    assert isinstance(tensor, torch.Tensor)
    return tensor


def _binary(share: torch.Tensor) -> Any:
    return BinarySharedTensor.from_shares(share, precision=0)


def _additive(share: torch.Tensor) -> Any:
    return ArithmeticSharedTensor.from_shares(share, precision=0)


def both(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Bitwise product of two shared tensors of one shape."""
    return _plain(beaver.AND(_binary(left), _binary(right)).share)


def opened_bits(share: torch.Tensor) -> torch.Tensor:
    """Open a value that is shared by exclusive or to all parties."""
    return _plain(_binary(share).reveal())


def opened(share: torch.Tensor) -> torch.Tensor:
    """Open a value that is shared additively to all parties, as signed words."""
    return _plain(_additive(share).reveal())


def bits_to_integers(share: torch.Tensor) -> torch.Tensor:
    """Additive shares of 0 or 1, from shared bits in the lowest position of each word."""
    return _plain(beaver.B2A_single_bit(_binary(share)).share)


def plus(share: torch.Tensor, public: int | torch.Tensor) -> torch.Tensor:
    """Additive shares of the sum with a public value: only party 0 adds it."""
    return share + public if _is_first() else share + torch.zeros_like(torch.as_tensor(public))


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Additive shares of the product, element by element, modulo 2^64."""
    return _plain(beaver.mul(_additive(left), _additive(right)).share)


def matrix_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Additive shares of (..., I, K) times (..., K, J), modulo 2^64."""
    return _plain(beaver.matmul(_additive(left), _additive(right)).share)


def squared(share: torch.Tensor) -> torch.Tensor:
    """Additive shares of the squares, modulo 2^64."""
    return _plain(beaver.square(_additive(share)).share)


@dataclass(frozen=True)
class Masked:
    """A value x under a mask r: the public c = x + r, and shares of the bits of r. Both have the shape (..., N)."""

    public: torch.Tensor
    mask: torch.Tensor

    def bits(self) -> torch.Tensor:
        """The bits of x. In two's complement c - r = ~(~c + r)."""
        return flipped(_add_public(~self.public, self.mask))

    def at_least(self, low: int) -> torch.Tensor:
        """True where x - low is at least 0 as a signed word: shared bits, packed, shape (..., W)."""
        return _sign_of_sum(~(self.public - low), self.mask)

    def at_most(self, high: int) -> torch.Tensor:
        """True where high - x is at least 0 as a signed word: shared bits, packed, shape (..., W)."""
        return flipped(_sign_of_sum(high - self.public, self.mask))


def masked(share: torch.Tensor) -> Masked:
    """Mask a value and open the masked value, in one opening; `share` is additive, shape (..., N)."""
    assert share.shape[-1] % WORD_BITS == 0
    additive, bits = word_masks(share.shape, share.device)
    return Masked(opened(share + _plain(additive.share)), _plain(bits.share))


def _sign_of_sum(public: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """The highest bit of the sum, packed: the two highest bits of the terms, and the carry from the bits below."""
    generate = share & public & ~TOP
    propagate = flipped(share, public)
    carry = _carried(generate, flipped(propagate & ~TOP, TOP))
    return carry ^ _packed((propagate >> 63) & 1)


def _packed(bits: torch.Tensor) -> torch.Tensor:
    """Pack bits in the lowest position of N words into W words."""
    return reduce(_joined, STRIDES, bits)


def unpacked(words: torch.Tensor) -> torch.Tensor:
    """The bits of W packed words, each in the lowest position of one of N words."""
    return reduce(_parted, reversed(STRIDES), words)


def _joined(words: torch.Tensor, stride: int) -> torch.Tensor:
    """Join pairs of words whose bits fill only the low positions of a stride: two words become one."""
    half = words.shape[-1] // 2
    return words[..., :half] | (words[..., half:] << stride)


def _parted(words: torch.Tensor, stride: int) -> torch.Tensor:
    """The inverse of `_joined`."""
    return torch.cat([words & LOW[stride], (words >> stride) & LOW[stride]], -1)


@dataclass(frozen=True)
class _Level:
    """One level of the carry tree: generate and propagate bits of the lower group of each pair, packed."""

    generate: torch.Tensor
    propagate: torch.Tensor


def _carried(generate: torch.Tensor, propagate: torch.Tensor) -> torch.Tensor:
    """The carry out of each word, packed: the up-sweep of Brent and Kung (1982)."""
    return _upward(generate, propagate, [])


def _upward(generate: torch.Tensor, propagate: torch.Tensor, levels: list[_Level]) -> torch.Tensor:
    """Join neighbouring groups: (G, P) = (G1 + P1 G0, P1 P0), with one product of full words per level."""
    for stride in STRIDES:
        low = LOW[stride]
        lower_generate = generate & low
        lower_propagate = propagate & low
        upper_propagate = (propagate >> stride) & low
        product = both(upper_propagate | (upper_propagate << stride), lower_generate | (lower_propagate << stride))
        levels.append(_Level(_joined(lower_generate, stride), _joined(lower_propagate, stride)))
        generate = _joined(((generate >> stride) & low) ^ (product & low), stride)
        propagate = _joined((product >> stride) & low, stride)
    return generate


def _carries(generate: torch.Tensor, propagate: torch.Tensor) -> torch.Tensor:
    """The carry into each bit, shape (..., N): an up-sweep, then a down-sweep (Brent and Kung 1982)."""
    levels: list[_Level] = []
    carry = torch.zeros_like(_upward(generate, propagate, levels))  # into the whole word
    for stride, level in zip(reversed(STRIDES), reversed(levels), strict=True):
        upper = level.generate if stride == STRIDES[-1] else level.generate ^ both(level.propagate, carry)
        carry = _parted(carry, stride) | (_parted(upper, stride) << stride)
    return carry


def _add_public(public: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    propagate = flipped(share, public)
    return propagate ^ _carries(share & public, propagate)


def added(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The sum modulo 2^64 of words shared by exclusive or, shape (..., N)."""
    propagate = left ^ right
    return propagate ^ _carries(both(left, right), propagate)


def summed(share: torch.Tensor) -> torch.Tensor:
    """The sum over the first axis of (K, ..., N), shape (..., N), by the adder of Wallace (1964).

    Three words become two without a carry, until two words are left; these two are added with carries.
    """
    while len(share) > 2:
        thirds = len(share) // 3
        first, second, third = share[: 3 * thirds].reshape(3, thirds, *share.shape[1:])
        majority = both(first ^ third, second ^ third) ^ third
        share = torch.cat([first ^ second ^ third, majority << 1, share[3 * thirds :]])
    return added(share[0], share[1]) if len(share) == 2 else share[0]


def sorted_pair(left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The smaller and the greater of two signed words, each of shape (..., N)."""
    swap = -unpacked(_carried(both(flipped(left, TOP), flipped(right, ~TOP)), flipped(left ^ right)))
    difference = both(left ^ right, swap)
    return left ^ difference, right ^ difference


def all_set(packed: torch.Tensor) -> torch.Tensor:
    """True where all bits of the last axis of (..., W) are set: a shared bit in the lowest position, shape (...)."""
    while packed.shape[-1] > 1:
        packed = torch.cat([packed, flipped(torch.zeros_like(packed[..., :1]))], -1) if packed.shape[-1] % 2 else packed
        half = packed.shape[-1] // 2
        packed = both(packed[..., :half], packed[..., half:])
    word = packed[..., 0]
    for stride in reversed(STRIDES):
        word = both(word, word >> stride)
    return word & 1


def rounded_shift(share: torch.Tensor, bits: int) -> torch.Tensor:
    """The value over 2^bits, rounded to the nearest integer (halves upwards) and opened, shape (N,).

    The result is exact, and the bits below it are not opened. CrypTen would truncate each share, which is off by one at
    random, and far off once in 2^64 / |x| times.
    """
    raised = plus(share, (1 << bits) >> 1)
    return opened_bits(masked(padded(raised)).bits() >> bits)[: len(share)]
