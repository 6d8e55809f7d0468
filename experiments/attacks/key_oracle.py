"""The secret key of an opener that decrypts any ciphertext: a sum with a polynomial of the server's own in it.

A ciphertext (c0, c1) decrypts to c0 + c1 s. With e added to c1, the opening shows e s beside the sum, masks or none.
The server takes the sum off with the opening of an honest attempt. It chooses e without a part in the reserved slot,
so that the value that the opener checks there stays right. Chenal and Tang (LATINCRYPT 2014) recover the keys of
several schemes from decryptions of chosen ciphertexts, Brakerski's of 2012 among them, on which BFV rests.

Shapes: D values of an opened sum, N coefficients of the key.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.attacks import AttackCase, Finding
from experiments.attacks.ckks_key import Ternary, coefficients, secret_coefficients, ternary
from experiments.attacks.scene import CONTROL_ROUND, AttackAttempt, Scene, Uploads, scene
from privacy.secure_sums.contract import Records, bytes_of
from privacy.secure_sums.he.bfv import Bfv
from privacy.secure_sums.he.ckks import Ckks
from privacy.secure_sums.he.codecs import CipherScheme
from privacy.secure_sums.he.linear_check import LinearCheck
from privacy.secure_sums.he.ring import add_mod, ring, subtract_mod
from privacy.secure_sums.he.seal_files import RawPolynomials, save
from privacy.secure_sums.he.sums import BfvSum, CkksSum

HOLDS = "all uploads, and an opener for two attempts at a round"
OTHER_SUM = "another sum"


class UncheckedCkks(CkksSum):
    """CKKS under masks, with an opener that takes any ciphertext."""

    def linear_check(self, scheme: CipherScheme) -> LinearCheck | None:  # noqa: ARG002
        """No check."""
        return None


class UncheckedBfv(BfvSum):
    """BFV under masks, with an opener that takes any ciphertext."""

    def linear_check(self, scheme: CipherScheme) -> LinearCheck | None:  # noqa: ARG002
        """No check."""
        return None


def mount(overrides: Sequence[str]) -> Finding:
    """Have an honest sum and a crafted one opened, and solve their difference for the key."""
    with scene(overrides) as here:
        honest = here.honest_round()
        crafted = here.attempt(CONTROL_ROUND, partial(forged, here))
        if crafted.opened is None:
            return Finding(False, crafted.refusal)
        key_N = recovered(here, honest, crafted)
        if key_N is None:
            return Finding(False, "no ternary key explains the difference of the openings")
        parameters = here.scheme.parameters
        assert parameters is not None
        right = int((key_N == secret_coefficients(parameters, here.secret(crafted))).sum())
        return Finding(right == len(key_N), f"{right:,} of {len(key_N):,} key coefficients, from two openings")


def _inner(here: Scene) -> Ckks | Bfv:
    scheme: Any = here.scheme
    return scheme.ckks if here.secure_sum.name == "ckks" else scheme.bfv  # type: ignore[no-any-return]


def forged(here: Scene, request: Records, uploads: Uploads) -> Records:  # noqa: ARG001
    """The request to open the sum with a polynomial added to c1 of its first ciphertext."""
    inner = _inner(here)
    its_ring = ring(inner.parameters)
    first, *others = its_ring.parse(bytes_of(request, "sum"), inner.ciphertexts(here.spec.length))
    return {**request, "sum": its_ring.message([_with_polynomial(inner, first), *others])}


def _with_polynomial(inner: Ckks | Bfv, raw: RawPolynomials) -> RawPolynomials:
    """The ciphertext with a plaintext added to its second polynomial, scaled as SEAL scales it for the first one."""
    here = ring(inner.parameters)
    cipher = here.cipher(raw)
    here.evaluator.add_plain_inplace(cipher, _probe(inner))
    moduli_K1 = np.array(here.moduli, np.uint64)[:, None]
    added_KN = subtract_mod(here.raw(cipher).residues_PKN[0], raw.residues_PKN[0], moduli_K1)
    crafted_PKN = raw.residues_PKN.copy()
    crafted_PKN[1] = add_mod(crafted_PKN[1], added_KN, moduli_K1)
    return RawPolynomials(crafted_PKN)


def _probe(inner: Ckks | Bfv) -> Any:
    """A plaintext with the same number in all slots and 0 in the last one."""
    if isinstance(inner, Bfv):
        slots_CN = np.ones((1, inner.parameters.poly_modulus_degree), np.uint64)
        slots_CN[0, -1] = 0
        return next(inner.plaintexts(slots_CN))
    values_V = np.zeros(inner.values_per_ciphertext)
    values_V[:-1:2] = inner.cohort  # the real parts; the last slot holds the reserved value
    return next(inner.plaintexts(values_V, 0.0))


def recovered(here: Scene, honest: AttackAttempt, crafted: AttackAttempt) -> Ternary | None:
    """The key's coefficients, shape (N,), from the difference of two openings; None if none are ternary."""
    inner = _inner(here)
    assert honest.opened is not None
    assert crafted.opened is not None
    first = slice(inner.values_per_ciphertext)
    if isinstance(inner, Bfv):
        return _bfv_key(inner, _integers(here, honest.opened)[first], _integers(here, crafted.opened)[first])
    difference_D = (crafted.opened - honest.opened) / here.spec.bounds_D
    return _ckks_key(inner, difference_D[first] / inner.cohort)


def _integers(here: Scene, opened_D: NDArray[np.float64]) -> NDArray[np.uint64]:
    scheme: Any = here.scheme
    offset = len(here.clients) * scheme.fixed.levels
    integers_D: NDArray[np.uint64] = np.rint(opened_D / here.spec.bounds_D * scheme.fixed.levels + offset).astype(
        np.uint64
    )
    return integers_D


def _ckks_key(ckks: Ckks, products_V: NDArray[np.float64]) -> Ternary | None:
    """The key from its values at all slots but a part of the last one, which moves no coefficient by a half."""
    here = ring(ckks.parameters)
    plaintext = next(ckks.plaintexts(products_V, 0.0))
    residues_N = coefficients(ckks.parameters, here.plaintext.parse(save(plaintext)).residues_PKN[0, 0])
    centred_N = residues_N.astype(np.int64)
    centred_N[centred_N > here.moduli[0] // 2] -= here.moduli[0]
    rounded_N = np.rint(centred_N / ckks.scale)
    return rounded_N.astype(np.int8) if np.abs(rounded_N).max() <= 1 else None


def _bfv_key(bfv: Bfv, honest_V: NDArray[np.uint64], crafted_V: NDArray[np.uint64]) -> Ternary | None:
    """The key from its values modulo t in all slots but the last one, whose value makes the first coefficient ternary.

    Each slot weighs equally in the first coefficient, so three values of the last slot come into question.
    """
    t = ring(bfv.parameters).plain_modulus
    slots_CN = subtract_mod(bfv.slots(crafted_V, 0), bfv.slots(honest_V, 0), np.uint64(t))
    first = int(_coefficients_mod_t(bfv, slots_CN)[0])
    for guess in (-1, 0, 1):
        slots_CN[0, -1] = (guess - first) * bfv.parameters.poly_modulus_degree % t
        key_N = ternary(_coefficients_mod_t(bfv, slots_CN), t)
        if key_N is not None:
            return key_N
    return None


def _coefficients_mod_t(bfv: Bfv, slots_CN: NDArray[np.uint64]) -> NDArray[np.uint64]:
    plaintext = next(bfv.plaintexts(slots_CN))
    coefficients_N = np.zeros(bfv.parameters.poly_modulus_degree, np.uint64)
    held = plaintext.coeff_count()
    coefficients_N[:held] = [plaintext[place] for place in range(held)]
    return coefficients_N


def _unchecked(kind: type[CkksSum] | type[BfvSum]) -> str:
    return f"secure_sum._target_={__name__}.{kind.__name__}"


def _case(*overrides: str, succeeds: bool) -> AttackCase:
    shows = "4,096 of 4,096 key coefficients" if succeeds else OTHER_SUM
    return AttackCase(overrides, succeeds, mount, HOLDS, shows)


SHARED = "secure_sum.keys=clients"
UNMASKED = "secure_sum.masks=false"
CASES = (
    _case("secure_sum=ckks", UNMASKED, succeeds=True),
    _case("secure_sum=ckks", UNMASKED, SHARED, succeeds=True),
    _case("secure_sum=bfv", UNMASKED, succeeds=True),
    _case("secure_sum=ckks", _unchecked(UncheckedCkks), succeeds=True),
    _case("secure_sum=ckks", SHARED, _unchecked(UncheckedCkks), succeeds=True),
    _case("secure_sum=bfv", _unchecked(UncheckedBfv), succeeds=True),
    _case("secure_sum=bfv", SHARED, _unchecked(UncheckedBfv), succeeds=True),
    _case("secure_sum=ckks", succeeds=False),
    _case("secure_sum=ckks", SHARED, succeeds=False),
    _case("secure_sum=bfv", succeeds=False),
    _case("secure_sum=bfv", SHARED, succeeds=False),
)
