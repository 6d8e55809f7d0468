"""Backends from outside that say much about themselves on the threat card, and others that say nothing."""

from collections.abc import Mapping, Sequence

from privacy.mechanisms.contract import Mechanism
from privacy.secure_sums.trust import Trust
from privacy.secure_sums.vectors import VectorSpec
from tests.outside.masked_sum import MaskedSum


class ToldSum(MaskedSum):
    """A sum with sentences of its own, also under a topic that no other backend has."""

    def trust(self, spec: VectorSpec) -> Trust:
        return Trust(
            coalitions=(("the server", "the notary"),),
            drop_out="A client that drops out is left out.",
            holds={"the notary": "the seeds"},
            reads="the sign of each value",
            sentences={
                "protocol": ("The notary is one process.",),
                "trust": ("A notary was sworn in.",),
                "notary": ("The notary charges a fee.",),
            },
        )


class SilentSum(MaskedSum):
    """A sum that says that it hides contributions, and nothing else."""

    hides = True


class ToldNoise(Mechanism):
    """A mechanism that says all about itself."""

    name = "told"
    unit = "client"
    noised_by = "client"
    floating_noise = True

    def sentences(self) -> Mapping[str, Sequence[str]]:
        return {"in sight": ("The length of the update tells its rank.",)}


class SilentNoise(Mechanism):
    """A mechanism with a unit that says nothing about its noise."""

    name = "silent"
    unit = "client"
