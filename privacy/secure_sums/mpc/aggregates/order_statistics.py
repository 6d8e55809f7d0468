"""`trimmed_mean` and `median`: robust means of each coordinate, by the order of its values, compared inside MPC.

The shares of a block of coordinates are converted to bits once, and go through a sorting network as bits. There a
comparison is one of signed words, so no difference of two values can wrap, whatever a client sent. The values between
the trimmed ranks are added up as bits and opened. Ties may be exchanged or not: the result is the same.

Both need equal weights and ignore the weights that were sent: the total weight of n contributions is n, and the sum is
n times the mean. A coordinate of the median is the value of one contributor, or the mean of two, and is opened as such.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.checks import positive
from privacy.errors import ConfigError, TooFewContributors
from privacy.randomness import Randomness
from privacy.secure_sums.mpc.aggregates.contract import Aggregate, blocks, decoded, require_range, require_updates
from privacy.secure_sums.mpc.aggregates.sorting_network import middle
from privacy.secure_sums.vectors import VectorSpec


class _Middle(Aggregate):
    """The mean of the middle values of each coordinate, after `_trim` values are dropped at each end."""

    uniform = True

    def __init__(self, memory_mib: float) -> None:
        positive("secure_sum.aggregate.memory_mib", memory_mib)
        self._memory_mib = memory_mib

    def _trim(self, contributors: int) -> int:
        """The number of values to drop at each end.

        Raises:
            TooFewContributors: no value would be left.
        """
        raise NotImplementedError

    def check(self, spec: VectorSpec, fractional_bits: int, parties: int) -> None:  # noqa: ARG002
        """Check that the cohort's sum fits the ring.

        Raises:
            ConfigError: the sum does not fit.
        """
        require_updates(self.name, spec)
        require_range(spec, fractional_bits)

    def _revealed(
        self,
        shares_CL: torch.Tensor,
        fractional_bits: int,
        randomness: Randomness,  # noqa: ARG002
        least: int,  # noqa: ARG002
    ) -> NDArray[np.float64]:
        contributors = len(shares_CL)
        dimension = shares_CL.shape[1] - 1
        trim = self._trim(contributors)
        steps = blocks(dimension, contributors, self._memory_mib)
        sums = torch.cat([_middle_sum(shares_CL[:, block], trim) for block in steps])
        means = decoded(sums, fractional_bits) / (contributors - 2 * trim)
        return np.append(means * contributors, float(contributors))


def _middle_sum(shares_CN: torch.Tensor, trim: int) -> torch.Tensor:
    """The sum over the middle ranks of each coordinate, opened, shape (N,)."""
    from privacy.secure_sums.mpc.crypten import bit_circuits as mpc

    contributors, length = shares_CN.shape
    bits_CN = mpc.masked(mpc.padded(shares_CN)).bits()
    for layer in middle(contributors, trim):
        low, high = map(list, zip(*layer, strict=True))
        bits_CN[low], bits_CN[high] = mpc.sorted_pair(bits_CN[low], bits_CN[high])
    return mpc.opened_bits(mpc.summed(bits_CN[trim : contributors - trim]))[:length]


class TrimmedMean(_Middle):
    """The mean without the `trim` smallest and the `trim` largest values of each coordinate (Yin et al. 2018)."""

    name = "trimmed_mean"

    def __init__(self, trim: int, memory_mib: float = 256.0) -> None:
        super().__init__(memory_mib)
        if trim < 1:
            raise ConfigError.of(
                "secure_sum.aggregate.trim", trim, "must be at least 1: the number of values dropped at each end"
            )
        self._dropped = trim

    def check(self, spec: VectorSpec, fractional_bits: int, parties: int) -> None:
        """Check that the cohort's sum fits the ring, and that the smallest cohort is larger than the number dropped.

        Raises:
            ConfigError: one of the two does not hold.
        """
        super().check(spec, fractional_bits, parties)
        if spec.min_contributors <= 2 * self._dropped:
            allowed = f"must be above 2 * secure_sum.aggregate.trim = {2 * self._dropped}"
            raise ConfigError.of("server.min_contributors", spec.min_contributors, allowed)

    def limits(self, spec: VectorSpec) -> Iterator[str]:
        """The sentence about the number of clients in the value of a coordinate."""
        least = max(1, spec.least - 2 * self._dropped)
        few = "the value of one client" if least == 1 else f"the mean over {least} clients"
        yield f"A coordinate of the result can be {few}; nobody learns whose."

    def _trim(self, contributors: int) -> int:
        if contributors <= 2 * self._dropped:
            needed = 2 * self._dropped + 1
            raise TooFewContributors(f"{contributors} contributors are left, trimmed_mean needs {needed}")
        return self._dropped


class Median(_Middle):
    """The middle value of each coordinate; the mean of the middle two of an even number (Yin et al. 2018)."""

    name = "median"

    def __init__(self, memory_mib: float = 256.0) -> None:
        super().__init__(memory_mib)

    def limits(self, spec: VectorSpec) -> Iterator[str]:  # noqa: ARG002
        """The sentence about the client whose value is opened."""
        yield "Each coordinate of the result is the value of one client, or the mean of two; nobody learns whose."

    def _trim(self, contributors: int) -> int:
        return (contributors - 1) // 2
