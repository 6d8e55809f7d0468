"""Parameter sets of homomorphic encryption as values: an unsafe set cannot be built.

Bits are log2 of primes. A list of more than one prime ends with SEAL's special prime: keys and public-key encryption
use it, and no ciphertext carries it.
"""

from dataclasses import dataclass, replace
from typing import Literal

from privacy.errors import ConfigError

Scheme = Literal["ckks", "bfv"]

# The most bits of log2 q at 128 bits of classical security, ternary secret: Albrecht et al. 2018, "Homomorphic
# Encryption Security Standard", Table 1; SEAL 4 native/src/seal/util/hestdparms.h.
SECURITY_BITS = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}

MAX_PRIME_BITS = 60  # most bits of a SEAL prime
_MAX_SCALE_BITS = 120  # SEAL's encoder splits values beyond a double's integers, up to 128 bits


@dataclass(frozen=True)
class HeParameters:
    """One parameter set. `scale_bits` is for CKKS, `plain_modulus_bits` for BFV; None is derived from the sum.

    A `dense` set keeps two reals in each complex slot of CKKS and packs residues to the width of their prime. A set
    that is not dense reproduces published sizes: one real per slot, and SEAL's own compressed files.

    Raises:
        ConfigError: the set is not safe at 128 bits, or is inconsistent; the line names the allowed values.
    """

    scheme: Scheme
    poly_modulus_degree: int
    coeff_modulus_bits: tuple[int, ...]
    scale_bits: int | None = None
    plain_modulus_bits: int | None = None
    dense: bool = True

    def __post_init__(self) -> None:
        _check_security(self.poly_modulus_degree, self.coeff_modulus_bits)
        _check_plaintexts(self)

    @property
    def data_bits(self) -> tuple[int, ...]:
        """Bits of the primes that a ciphertext carries: all but the special prime."""
        return self.coeff_modulus_bits[:-1] if self.has_special_prime else self.coeff_modulus_bits

    @property
    def has_special_prime(self) -> bool:
        """True if public-key encryption ends with a modulus switch, which removes its noise."""
        return len(self.coeff_modulus_bits) > 1

    def with_scale(self, bits: int) -> "HeParameters":
        """Return the same set at a CKKS scale of 2^bits."""
        return replace(self, scale_bits=bits)

    def with_plain_modulus(self, bits: int) -> "HeParameters":
        """Return the same set with a BFV plain modulus of `bits` bits."""
        return replace(self, plain_modulus_bits=bits)


def _check_security(degree: int, bits: tuple[int, ...]) -> None:
    if degree not in SECURITY_BITS:
        raise ConfigError.of("poly_modulus_degree", degree, f"must be one of {', '.join(map(str, SECURITY_BITS))}")
    smallest = degree.bit_length() + 1  # a prime that is 1 mod 2N has at least one bit more than 2N
    if not bits or not all(isinstance(prime, int) and smallest <= prime <= MAX_PRIME_BITS for prime in bits):
        allowed = f"must hold at least one prime, each of {smallest} to {MAX_PRIME_BITS} bits at {degree} coefficients"
        raise ConfigError.of("coeff_modulus_bits", list(bits), allowed)
    if sum(bits) > SECURITY_BITS[degree]:
        raise ConfigError.of(
            "coeff_modulus_bits",
            list(bits),
            f"{sum(bits)} bits, but {degree} coefficients are secure at 128 bits up to {SECURITY_BITS[degree]}: "
            "take fewer bits, or a higher poly_modulus_degree",
        )


def _check_plaintexts(parameters: HeParameters) -> None:
    foreign = "plain_modulus_bits" if parameters.scheme == "ckks" else "scale_bits"
    if getattr(parameters, foreign) is not None:
        raise ConfigError.of(foreign, getattr(parameters, foreign), f"{parameters.scheme} has none: set it to null")
    scale = parameters.scale_bits
    plain = parameters.plain_modulus_bits
    limit = min(sum(parameters.data_bits) - 2, _MAX_SCALE_BITS)
    if scale is not None and not 0 < scale <= limit:
        raise ConfigError.of("scale_bits", scale, f"must be from 1 to {limit} for a modulus of these primes")
    low = parameters.poly_modulus_degree.bit_length() + 1
    high = min(sum(parameters.data_bits) - 2, MAX_PRIME_BITS)
    if plain is not None and not low <= plain <= high:
        raise ConfigError.of("plain_modulus_bits", plain, f"must be from {low} to {high}, so that slots can be batched")


# TenSEAL, tutorials, "Tutorial 2: Working with Approximate Numbers".
_TUTORIAL = HeParameters("ckks", 8192, (60, 40, 40, 60), scale_bits=40, dense=False)
# NVIDIA FLARE, nvflare.lighter.impl.he.HEBuilder with the settings of the project.yml of its examples.
_NVFLARE = HeParameters("ckks", 8192, (60, 40, 40), scale_bits=40, dense=False)
# FedML-HE (Jin et al., arXiv 2303.10837): PALISADE at depth 1, scale 52 bits, 4,096 values a ciphertext, as in
# FedML's python/fedml/core/fhe/fhe_agg.py and palisade_pybind/SHELFI_FHE/src/ckks.cpp. By PALISADE's defaults this
# means a first prime of 60 bits and a second of 52 bits in 8,192 coefficients: 64 bytes a value before compression,
# where Table 8 has 63.6. Its key-switching prime is the special prime here.
_FEDML_HE = HeParameters("ckks", 8192, (60, 52, 60), scale_bits=52, dense=False)

_PUBLISHED = {"tutorial": _TUTORIAL, "nvflare": _NVFLARE, "fedml_he": _FEDML_HE}

NAMES = ("lean", *_PUBLISHED)


def named(name: str, scheme: Scheme, symmetric: bool) -> HeParameters:
    """Return the set of this name: `lean` for both schemes, the published sets for CKKS.

    `lean` is one prime of 54 bits in 4,096 coefficients if the clients share the secret key. If they encrypt to a
    public key, a special prime of 50 bits removes the noise of the public key at no cost in ciphertext bytes.

    Raises:
        ConfigError: the scheme has no set of this name.
    """
    if name == "lean":
        return HeParameters(scheme, 4096, (54,) if symmetric else (54, 50))
    if scheme == "ckks" and name in _PUBLISHED:
        return _PUBLISHED[name]
    allowed = NAMES if scheme == "ckks" else ("lean",)
    raise ConfigError.of("secure_sum.parameters", name, f"{scheme} has {', '.join(allowed)}, or give the numbers")
