"""CrypTen's randomness from ChaCha20 streams, in place of `torch.Generator`, whose CPU seed has 32 bits.

CrypTen draws uniform integers from a generator that two parties share (zero-shares), that a party shares with the
dealer (Beaver triples), or that belongs to one party alone, always through the two functions of
`crypten/common/rng.py`. This module makes both functions draw from a `Stream`, in every CrypTen module that imported
them, and refuse any other generator. The only other draw of CrypTen is dropout, from a generator called `global`
(`crypten/gradients.py`). That generator is not installed, so dropout fails.

Stream keys are derived from pair keys of 32 bytes, on which two parties agree outside this module, and from nonces
that all members draw afresh at each start. So a party that restarts under the same pair keys never draws the same
stream again.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from privacy.errors import ConfigError
from privacy.randomness import KEY_BYTES, Randomness
from privacy.sealing import mac, uniform
from privacy.secure_sums.mpc.crypten.compat import CUDALongTensor, crypten, tfp_provider, ttp_provider

WORD_BITS = 64
USERS = (  # modules of CrypTen that hold the two functions by name
    crypten.common.rng,
    crypten.mpc.primitives.arithmetic,
    crypten.mpc.primitives.binary,
    tfp_provider,
    ttp_provider,
)
CPU = torch.device("cpu")


class Stream:
    """A stream of integers, the same for all holders of the key: draw n is the ChaCha20 stream of a key derived for n.

    Integers are drawn on the CPU and then moved, so that parties on different devices, and the dealer, agree.
    """

    device = CPU  # CrypTen's dealer asks for it

    def __init__(self, key: bytes) -> None:
        assert len(key) == KEY_BYTES
        self._key = key
        self._drawn = 0

    def integers(self, size: tuple[int, ...], bits: int, device: torch.device | str | None = None) -> Any:
        """Return a tensor of this size, uniform in [0, 2^bits), or over all of int64 for 64 bits."""
        self._drawn += 1
        key = mac(self._key, [self._drawn.to_bytes(8, "little")])
        words = uniform(key, math.prod(size), 1 << bits).view(np.int64)
        drawn = torch.from_numpy(words).reshape(size)
        if device is None or torch.device(device).type == "cpu":
            return drawn
        return CUDALongTensor(drawn.to(device))


def pair_key_of(pair_keys: Mapping[int, bytes], peer: int) -> bytes:
    """Return the key shared with the peer of this rank.

    Raises:
        ConfigError: the key is missing, or of a wrong length.
    """
    key = pair_keys.get(peer)
    if key is None or len(key) != KEY_BYTES:
        raise ConfigError.of("pair_keys", f"none for party {peer}", f"needs a key of {KEY_BYTES} bytes for each peer")
    return key


def link(pair_key: bytes, nonces: bytes, label: str) -> Stream:
    """Return the stream of one purpose (`party 0 to 1`, `dealer 2`) between two holders of a pair key, this session."""
    return Stream(mac(pair_key, [b"fedveil crypten stream 1", nonces, label.encode()]))


def install(rank: int, parties: int, pair_keys: Mapping[int, bytes], nonces: bytes, randomness: Randomness) -> None:
    """Install a party's streams as CrypTen's generators, and the functions that draw from them.

    `next` is shared with the party after this one, `prev` with the party before (`_setup_prng` of CrypTen). With two
    parties these are the same party, so streams are labelled by direction.

    Raises:
        ConfigError: a pair key is missing.
    """
    after = (rank + 1) % parties
    before = (rank - 1) % parties
    streams = {
        "next": link(pair_key_of(pair_keys, after), nonces, f"party {rank} to {after}"),
        "prev": link(pair_key_of(pair_keys, before), nonces, f"party {before} to {rank}"),
        "local": Stream(randomness.key()),
    }
    crypten.generators.clear()
    for name, stream in streams.items():
        crypten.generators[name] = _on_any_device(stream)
    draw_from_streams()


def _on_any_device(stream: Stream) -> "defaultdict[torch.device, Stream]":
    return defaultdict(lambda: stream)


def draw_from_streams() -> None:
    """Make CrypTen draw from streams only, in this process."""
    for module in USERS:
        for function in (generate_random_ring_element, generate_kbit_random_tensor):
            if hasattr(module, function.__name__):
                setattr(module, function.__name__, function)


def generate_random_ring_element(
    size: tuple[int, ...],
    ring_size: int = 1 << WORD_BITS,
    generator: Stream | None = None,
    device: torch.device | str | None = None,
) -> Any:
    """Replace CrypTen's function: int64, uniform (CrypTen's own function never draws the largest value)."""
    assert ring_size == 1 << WORD_BITS
    return _stream(generator).integers(size, WORD_BITS, device)


def generate_kbit_random_tensor(
    size: tuple[int, ...],
    bitlength: int | None = None,
    generator: Stream | None = None,
    device: torch.device | str | None = None,
) -> Any:
    """Replace CrypTen's function: int64, uniform in [0, 2^bitlength), or over all of int64 for 64 bits."""
    return _stream(generator).integers(size, bitlength or WORD_BITS, device)


def _stream(generator: Stream | None) -> Stream:
    stream = crypten.generators["local"][CPU] if generator is None else generator
    assert isinstance(stream, Stream), "CrypTen drew from another generator than a stream"
    return stream
