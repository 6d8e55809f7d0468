"""Sums that exceed their modulus: they decode to a wrong number, and the value that the opener checks looks right.

The weak settings bypass the checks that refuse them: each scheme is built for a smaller range than it carries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from experiments.attacks import AttackCase, Finding
from experiments.attacks.scene import scene
from fl.workspace import Workspace
from privacy.addresses import Address, client_address
from privacy.errors import ConfigError
from privacy.secure_sums.he.codecs import CipherScheme
from privacy.secure_sums.he.protocol import OpenedSum
from privacy.secure_sums.he.sums import BfvSum, CkksSum, PadSum
from privacy.secure_sums.vectors import Vector, VectorSpec

HOLDS = "nothing: nobody attacks"
# the default bound, and a value above it
BOUND = 1.0
BEYOND = 5.0
SPREAD = 4095  # values of the first ciphertext
WRAPPED = "what the opener checks is as it should be"
RIGHT = "the sum is right"
KEPT_BACK = "the update of a contribution reaches 5, over 1 (nothing leaves the client)"


class CkksForOne(CkksSum):
    """CKKS with a scale for one contribution, whatever the cohort."""

    def scheme(self, spec: VectorSpec) -> CipherScheme:
        """The scheme for a cohort of one, which bypasses the check that a sum over the cohort fits."""
        return super().scheme(replace(spec, cohort_size=1))


class BfvForOne(BfvSum):
    """BFV with slots that leave no room for carries."""

    def scheme(self, spec: VectorSpec) -> CipherScheme:
        """The scheme for a cohort of one, which bypasses the check that carries fit."""
        return super().scheme(replace(spec, cohort_size=1))


class PadForOne(PadSum):
    """Pad with a modulus for one contribution."""

    def scheme(self, spec: VectorSpec) -> CipherScheme:
        """The scheme for a cohort of one, which bypasses the check that the modulus holds the sum."""
        return super().scheme(replace(spec, cohort_size=1))


class CkksForUnits(CkksSum):
    """CKKS with a scale for values up to 1, whatever the bound."""

    def scheme(self, spec: VectorSpec) -> CipherScheme:
        """The scheme for values up to 1, which bypasses the check that no larger value is encrypted."""
        units = replace(spec, segments=tuple(replace(segment, bound=1.0) for segment in spec.segments))
        made: Any = super().scheme(units)
        return replace(made, ckks=replace(made.ckks, bound=self.carries.bound))  # type: ignore[no-any-return]


def mount(overrides: Sequence[str], value: float) -> Finding:
    """Have all clients contribute large values to an honest round, and compare the opening with the true sum."""
    try:
        with scene(overrides, partial(_large, value=value)) as here:
            attempt = here.attempt()
            if attempt.opened is None:
                return Finding(False, attempt.refusal + ("" if attempt.uploads else " (nothing leaves the client)"))
            error_D = np.abs(attempt.opened - here.sum_D)
            if error_D.max() <= here.allowed_error:
                return Finding(False, f"{RIGHT}: largest error {error_D.max():.1g}")
            worst = int(error_D.argmax())
            decoded = f"a sum of {here.sum_D[worst]:.4g} decodes to {attempt.opened[worst]:.4g}"
            return Finding(True, f"{decoded}; {WRAPPED}")
    except ConfigError as error:
        return Finding(False, str(error))


def _large(work: Workspace, value: float) -> Mapping[Address, Vector]:
    """Vectors with every second value of a ciphertext large; the other value packed in the same slot stays small."""
    vector_D = np.zeros(work.spec.length, np.float32)
    vector_D[:SPREAD:2] = value
    vector_D[-1] = 1
    return {client_address(client): vector_D for client in work.plan.cohort(1)}


def _case(*overrides: str, shows: str, value: float = BOUND) -> AttackCase:
    return AttackCase(overrides, shows == WRAPPED, partial(mount, value=value), HOLDS, shows, f"values up to {value:g}")


def _past(kind: type[OpenedSum]) -> str:
    return f"secure_sum._target_={__name__}.{kind.__name__}"


def _numbers(last: str) -> str:
    return f"secure_sum.parameters={{poly_modulus_degree:4096,coeff_modulus_bits:[54,50],{last}}}"


CASES = (
    _case("secure_sum=ckks", _past(CkksForOne), shows=WRAPPED),
    _case("secure_sum=bfv", _past(BfvForOne), shows=WRAPPED),
    _case("secure_sum=pad", _past(PadForOne), shows=WRAPPED),
    _case("secure_sum=ckks", "secure_sum.bound=8", _past(CkksForUnits), shows=WRAPPED, value=BEYOND),
    _case("secure_sum=ckks", shows=RIGHT),
    _case("secure_sum=ckks", _numbers("scale_bits:51"), shows="a sum of 10 values up to 1 wraps above 2^48"),
    _case("secure_sum=ckks", shows=KEPT_BACK, value=BEYOND),
    _case("secure_sum=ckks", "secure_sum.bound=8", shows=RIGHT, value=BEYOND),
    _case("secure_sum=bfv", shows=RIGHT),
    _case("secure_sum=bfv", _numbers("plain_modulus_bits:17"), shows="a sum of 10 values of 16 bits takes 20 bits"),
    _case("secure_sum=bfv", shows=KEPT_BACK, value=BEYOND),
    _case("secure_sum=pad", shows=RIGHT),
    _case("secure_sum=pad", shows=KEPT_BACK, value=BEYOND),
)
