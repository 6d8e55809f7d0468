"""The range and the grid of a secure sum, against what clients put into it.

A sum has a range, `secure_sum.bound`, and a finite precision within it. A client cuts what is larger than the bound, so
that sums do not wrap; what is smaller than a step of the grid is rounded away. A little of either does no harm. Much of
it gives another result than training had, which would look like the price of privacy. So a run refuses weights that
leave too few steps, says how many values were cut, and ends where most clients lose many.
"""

import logging
import math
import statistics
from collections.abc import Mapping, Sequence

from fl.config.schema import FedveilConfig
from privacy.addresses import Address
from privacy.errors import ConfigError, RunRefused
from privacy.secure_sums.vectors import VectorSpec
from results.measurements import TOLD_SHARE

LEAST_STEPS = 8  # of the grid, for the largest value of the smallest client
MEAN_STEPS = 64  # likewise of the mean client: with a third of that, digits lost two points of accuracy under secagg
MOST_SHARE = 0.1  # of the values of the median client: from here on, the run ends
CUT = ("clipped_values", "noised_values_cut")  # the metrics of cut values
PRECISION = ("value_bits", "fractional_bits")  # options of sums with a fixed point
log = logging.getLogger("fedveil")


def require_steps(
    config: FedveilConfig, label: str, examples: Sequence[int], max_weight: int, spec: VectorSpec, tolerance: float
) -> None:
    """Refuse a bound on weights, or a precision, that leaves a client too few steps of the sum's grid.

    A client of weight v has v times the steps between 0 and the largest bound; `tolerance`, half a step, is that of
    the sum, which is called `label`. `examples` are the clients' numbers.

    Raises:
        ConfigError: the smallest client or the mean one has too few; the message names a value that will do.
    """
    if tolerance == 0 or config.training.weighting == "uniform":
        return
    steps = max(segment.bound for segment in spec.segments) / (2 * tolerance)
    held = [number for number in examples if number]
    least_and_mean = min(held), math.fsum(held) / len(held)
    most = steps * min(least_and_mean[0] / LEAST_STEPS, least_and_mean[1] / MEAN_STEPS)
    if max_weight <= most:
        return
    smallest, mean = (steps * number / max_weight for number in least_and_mean)
    found = (
        f"{label} has {smallest:.2g} steps for the smallest client, of {min(held)} "
        f"examples, and {mean:.2g} for the mean one; {LEAST_STEPS} and {MEAN_STEPS} are needed"
    )
    if max(held) <= most:
        raise ConfigError.of("training.max_weight", max_weight, f"{found}: at most {math.floor(most)}")
    finer = math.ceil(math.log2(max_weight / most))
    options = [(f"secure_sum.{key}", config.secure_sum[key]) for key in PRECISION if key in config.secure_sum]
    if options:
        key, bits = options[0]
        raise ConfigError.of(key, bits, f"{found}: at least {bits + finer}, or training.weighting=uniform")
    raise ConfigError.of("training.weighting", "examples", f"{found}: set uniform, or raise the sum's precision")


class CutValues:
    """The judge of a run's cut values: `length` values each, and `bound`. `on_purpose`: faults enlarge updates."""

    def __init__(self, length: int, bound: float, on_purpose: bool) -> None:
        self._length = length
        self._bound = bound
        self._on_purpose = on_purpose
        self._told = False

    def share(self, cut: Mapping[Address, float], survivors: Sequence[Address], number: int) -> float:
        """Return the share of a round's values that were cut; warn at the first that is worth it.

        Raises:
            RunRefused: most clients cut a share that makes the sum another one.
        """
        shares = [cut.get(address, 0.0) / self._length for address in survivors]
        share = math.fsum(shares) / len(shares)
        if statistics.median(shares) >= MOST_SHARE and not self._on_purpose:
            raise RunRefused(f"round {number}: {self._said(share)}; most clients lose {MOST_SHARE:.0%} or more")
        if share >= TOLD_SHARE and not self._told:
            self._told = True
            log.warning("round %d: %s", number, self._said(share))
        return share

    def _said(self, share: float) -> str:
        cut = f"{share:.2%} of the updates' values were cut to secure_sum.bound={self._bound:g}"
        return f"{cut}: raise it, or lower training.lr"
