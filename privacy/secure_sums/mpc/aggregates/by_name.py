"""The aggregates that parties can compute, by name."""

import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.errors import ConfigError, shown
from privacy.randomness import Randomness
from privacy.secure_sums.mpc.aggregates.contract import Aggregate, decoded, require_range
from privacy.secure_sums.mpc.aggregates.noised_sum import NoisedSum
from privacy.secure_sums.mpc.aggregates.norm_bounded import NormBounded
from privacy.secure_sums.mpc.aggregates.order_statistics import Median, TrimmedMean
from privacy.secure_sums.vectors import VectorSpec

__all__ = ["Aggregate", "Sum", "named"]


class Sum(Aggregate):
    """The sum of updates and weights, exact."""

    name = "sum"
    linear = True

    def check(self, spec: VectorSpec, fractional_bits: int, parties: int) -> None:  # noqa: ARG002
        """Check that the cohort's sum fits the ring. Residues always fit: their modulus divides that of the shares.

        Raises:
            ConfigError: the sum does not fit.
        """
        if spec.modulus_bits is None:
            require_range(spec, fractional_bits)

    def _revealed(
        self,
        shares_CL: torch.Tensor,
        fractional_bits: int,
        randomness: Randomness,  # noqa: ARG002
        least: int,  # noqa: ARG002
    ) -> NDArray[np.float64]:
        return decoded(_total(shares_CL), fractional_bits)

    def residues(self, shares_CL: torch.Tensor) -> NDArray[np.int64]:
        """The sum of residues, modulo 2^64, shape (L,). Every party makes the same call.

        Raises:
            PeerLost: a peer is dead or stalled.
        """
        from privacy.secure_sums.mpc.crypten import party as crypten_party

        with crypten_party.computing():
            words: NDArray[np.int64] = _total(shares_CL).cpu().numpy()
        return words


def _total(shares_CL: torch.Tensor) -> torch.Tensor:
    from privacy.secure_sums.mpc.crypten.bit_circuits import opened

    return opened(shares_CL.sum(0))


AGGREGATES: dict[str, type[Aggregate]] = {
    kind.name: kind for kind in (Sum, NormBounded, TrimmedMean, Median, NoisedSum)
}


def named(name: str, **options: Any) -> Aggregate:
    """The aggregate with this name.

    Raises:
        ConfigError: there is no such aggregate, or it does not take these options.
    """
    kind = AGGREGATES.get(name)
    if kind is None:
        raise ConfigError.of("secure_sum.aggregate.name", shown(name), f"allowed are {', '.join(AGGREGATES)}")
    taken = inspect.signature(kind).parameters
    for option in options:
        if option not in taken:
            allowed = f"{name} takes {', '.join(taken) or 'no options'}"
            raise ConfigError.of(f"secure_sum.aggregate.{option}", shown(options[option]), allowed)
    missing = [option for option, one in taken.items() if one.default is one.empty and options.get(option) is None]
    if missing:
        raise ConfigError.of(f"secure_sum.aggregate.{missing[0]}", "null", f"{name} needs it")
    return kind(**options)
