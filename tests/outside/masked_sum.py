"""A toy secure sum in one file: two stages, fixed point, masks. It hides nothing from a server that keeps the seeds.

Shapes: D is the length of the vector.
"""

import numpy as np
from numpy.typing import NDArray

from privacy.addresses import Address
from privacy.errors import MalformedContribution
from privacy.randomness import Randomness, SeededRandomness
from privacy.secure_sums.contract import (
    Contribution,
    Exchange,
    Flow,
    Participant,
    Records,
    SecureSum,
    array_of,
    require_contributors,
    unknown_stage,
)
from privacy.secure_sums.traits import Carries
from privacy.secure_sums.vectors import VectorSpec

SEED_BYTES = 16


class MaskedSum(SecureSum):
    """mask: x 2^bits + r mod 2^64, r expanded from a seed that waits in memory; unmask: the seed."""

    name = "masked"
    assumption = "toy: the server learns every mask"
    carries = Carries(exact=True)

    def __init__(self, fractional_bits: int = 24, leave_before_unmask: tuple[str, ...] = ()) -> None:
        self._scale = 2.0**fractional_bits
        self._leave = tuple(leave_before_unmask)

    def tolerance(self, spec: VectorSpec) -> float:
        return 1 / self._scale

    def server(self, cohort: list[Address], spec: VectorSpec) -> Flow:
        require_contributors(cohort, spec)
        masked: dict[Address, NDArray[np.uint64]] = {}
        total_D = np.zeros(spec.length, np.uint64)

        def receive_masked(address: Address, records: Records) -> None:
            masked[address] = array_of(records, "masked", np.uint64, spec.length)

        def receive_seed(address: Address, records: Records) -> None:
            seed = records.get("seed")
            if not isinstance(seed, bytes) or len(seed) != SEED_BYTES:
                raise MalformedContribution(f"seed must be {SEED_BYTES} bytes")
            np.add(total_D, masked[address] - mask(seed, spec.length), out=total_D)

        there = yield Exchange("mask", {address: {} for address in cohort}, receive_masked, collect=True)
        require_contributors(there, spec)
        there = yield Exchange("unmask", {address: {"there": len(there)} for address in there}, receive_seed)
        require_contributors(there, spec)
        if spec.modulus_bits is not None:
            return spec.total(total_D.view(np.int64) & ((1 << spec.modulus_bits) - 1), there)
        return spec.total(total_D.view(np.int64) / self._scale, there)

    def respond(self, stage: str, inbound: Records, me: Participant, contribution: Contribution) -> Records:
        if stage == "mask":
            seed = me.randomness.bytes(SEED_BYTES)
            me.memory["seed"] = seed
            vector = me.spec.check(contribution())
            if me.spec.modulus_bits is None:
                vector = np.rint(vector.astype(np.float64) * self._scale).astype(np.int64)
            return {"masked": vector.view(np.uint64) + mask(seed, me.spec.length)}
        if stage == "unmask":
            if me.address in self._leave:
                raise RuntimeError("gone before unmask")
            return {"seed": me.memory["seed"]}
        raise unknown_stage(stage)


def mask(seed: bytes, length: int) -> NDArray[np.uint64]:
    """Uniform mod 2^64, shape (D,)."""
    source: Randomness = SeededRandomness(seed.hex())
    return np.frombuffer(source.bytes(8 * length), np.uint64)
