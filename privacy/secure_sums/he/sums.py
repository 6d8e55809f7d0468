"""The configured forms of the three sums with one opener: CKKS, BFV, and one-time masks alone.

Both halves of their common protocol are in `privacy.secure_sums.he.protocol` and, for partial encryption, in
`privacy.secure_sums.he.selective_protocol`; the encryption of a vector under each scheme is in
`privacy.secure_sums.he.codecs`.
"""

from collections.abc import Iterator
from dataclasses import replace

from privacy.checks import positive
from privacy.errors import ConfigError
from privacy.secure_sums.he.codecs import CipherScheme, FloodingRule, bfv_scheme, ckks_scheme, pad_scheme
from privacy.secure_sums.he.parameters import HeParameters, named
from privacy.secure_sums.he.protocol import OpenedSum
from privacy.secure_sums.he.selective_protocol import SelectiveSum
from privacy.secure_sums.vectors import VectorSpec

FLOODING_BITS = 30  # OpenFHE's default: the server's advantage is at most 2^-30
MOST_FLOODING_BITS = 128


class CkksSum(SelectiveSum):
    """Approximate sums of reals (Cheon et al. 2017). `parameters` names a set, or gives its numbers.

    Without masks, flooding hides the noise of an opening with `flooding_bits` bits of security (0: no flooding, null:
    30). The opening then has an error of at most `flooding_tolerance` bounds.
    """

    name = "ckks"

    def __init__(
        self,
        keys: str = "keyholder",
        bound: float = 1.0,
        parameters: str | dict[str, object] = "lean",
        masks: bool = True,
        flooding_bits: int | None = None,
        flooding_tolerance: float = 1e-3,
        broadcast: bool = False,
        encrypt_fraction: float = 1.0,
        encrypt_by: str = "random",
    ) -> None:
        self._parameters = _parameters(parameters, "ckks", symmetric=keys == "clients")
        super().__init__(keys, bound, masks, broadcast, encrypt_fraction, encrypt_by)
        self.flooding = _flooding(masks, flooding_bits, flooding_tolerance)

    @property
    def symmetric(self) -> bool:
        """True if the clients share the key. Published sets always encrypt to a public key, as their authors do."""
        return self.keys == "clients" and self._parameters.dense

    @property
    def prepares(self) -> bool:  # type: ignore[override]
        """True where the ciphertexts are ours: published sets send SEAL's own files."""
        return self._parameters.dense

    def scheme(self, spec: VectorSpec) -> CipherScheme:
        """Return CKKS at the scale that the cohort allows."""
        return ckks_scheme(spec, self._parameters, self.symmetric, self.flooding)

    def _leakage(self) -> Iterator[str]:
        """Yield the leakage of an approximate decryption about the key (Li and Micciancio 2021)."""
        if self.flooding is None:
            yield "An opened sum tells the server the secret key of its round (secure_sum.flooding_bits=0)."
        else:
            bits = self.flooding.bits
            yield f"Noise hides the key of a round in its opened sum, to 2^-{bits} (secure_sum.flooding_bits)."


class BfvSum(SelectiveSum):
    """Exact sums of fixed-point values (Brakerski 2012; Fan and Vercauteren 2012)."""

    name = "bfv"

    def __init__(
        self,
        keys: str = "keyholder",
        bound: float = 1.0,
        value_bits: int = 16,
        rounds: int = 1,
        parameters: str | dict[str, object] = "lean",
        masks: bool = True,
        broadcast: bool = False,
        encrypt_fraction: float = 1.0,
        encrypt_by: str = "random",
    ) -> None:
        self._parameters = _parameters(parameters, "bfv", symmetric=keys == "clients")
        super().__init__(keys, bound, masks, broadcast, encrypt_fraction, encrypt_by)
        self._value_bits = value_bits
        self._rounds = rounds
        self.carries = replace(self.carries, exact=self.hides)  # the clear part of an update holds no residues

    @property
    def symmetric(self) -> bool:
        """True if the clients share the key."""
        return self.keys == "clients"

    def scheme(self, spec: VectorSpec) -> CipherScheme:
        """Return BFV with the plain modulus that packs the most values."""
        return bfv_scheme(spec, self._parameters, self.symmetric, self._value_bits, self._rounds)


class PadSum(OpenedSum):
    """Exact sums of fixed-point values under one-time masks alone: the baseline for encryption."""

    name = "pad"

    def __init__(self, keys: str = "keyholder", bound: float = 1.0, value_bits: int = 16) -> None:
        super().__init__(keys, bound)
        self.carries = replace(self.carries, exact=True)
        self._value_bits = value_bits

    @property
    def symmetric(self) -> bool:
        """False: this sum has no encryption key."""
        return False

    def scheme(self, spec: VectorSpec) -> CipherScheme:
        """Return masks modulo the power of two that holds a sum."""
        return pad_scheme(spec, self._value_bits)


def _parameters(given: str | dict[str, object], scheme: str, symmetric: bool) -> HeParameters:
    if isinstance(given, str):
        return named(given, scheme, symmetric)  # type: ignore[arg-type]
    try:
        values: dict[str, object] = {**given}
        values["coeff_modulus_bits"] = tuple(values["coeff_modulus_bits"])  # type: ignore[arg-type]
        return HeParameters(scheme, **values)  # type: ignore[arg-type]
    except (TypeError, KeyError, AttributeError) as error:
        fields = "poly_modulus_degree, coeff_modulus_bits, scale_bits, plain_modulus_bits, dense"
        raise ConfigError.of("secure_sum.parameters", given, f"takes {fields} ({error})") from None


def _flooding(masks: bool, bits: int | None, tolerance: float) -> FloodingRule | None:
    """Return the rule for noise that hides an opening's own noise; None for 0 bits, or if masks hide the plaintexts."""
    positive("secure_sum.flooding_tolerance", tolerance)
    if masks and bits is not None:
        raise ConfigError.of("secure_sum.flooding_bits", bits, "belongs to secure_sum.masks=false")
    bits = FLOODING_BITS if bits is None else bits
    if not 0 <= bits <= MOST_FLOODING_BITS:
        raise ConfigError.of("secure_sum.flooding_bits", bits, f"must be from 0 (none) to {MOST_FLOODING_BITS}")
    return None if masks or bits == 0 else FloodingRule(bits, tolerance)
