"""The plain sum: no protection. Overheads are taken against it."""

from collections.abc import Sequence

import numpy as np

from privacy.addresses import Address
from privacy.secure_sums.contract import (
    Contribution,
    Exchange,
    Flow,
    Participant,
    Records,
    SecureSum,
    Value,
    require_contributors,
    unknown_stage,
)
from privacy.secure_sums.traits import Carries
from privacy.secure_sums.vectors import OrderedSum, VectorSpec
from privacy.spans import span


class PlainSum(SecureSum):
    """No protection: each client sends its vector and the server adds. It is the baseline of all overheads."""

    name = "plain"
    assumption = "the server is trusted: it sees every client's update"
    carries = Carries(exact=True)  # float64 additions of float32 values
    stages = ("collect",)

    def server(self, cohort: Sequence[Address], spec: VectorSpec) -> Flow:
        """Run the one stage `collect`: each reply is one vector, added in cohort order."""
        require_contributors(cohort, spec)
        ordered = OrderedSum(cohort, spec)

        def receive(address: Address, records: Records) -> None:
            with span("add"):
                ordered.add(address, spec.check(_from_wire(records.get("vector"), spec)))

        outbox = {address: dict[str, Value]() for address in cohort}
        respondents = yield Exchange("collect", outbox, receive, collect=True, names=("vector",))
        require_contributors(respondents, spec)
        return spec.total(ordered.close(), respondents)

    def respond(self, stage: str, inbound: Records, me: Participant, contribution: Contribution) -> Records:  # noqa: ARG002
        """Send the contribution unprotected."""
        if stage != "collect":
            raise unknown_stage(stage)
        return {"vector": me.spec.check(contribution()).astype(_wire_type(me.spec), copy=False)}


def _wire_type(spec: VectorSpec) -> np.dtype[np.generic]:
    """The type of a vector in a message: for residues the narrowest NumPy type that holds them."""
    return spec.dtype if spec.modulus_bits is None else np.min_scalar_type((1 << spec.modulus_bits) - 1)


def _from_wire(vector: object, spec: VectorSpec) -> object:
    """The vector from a message, with residues widened again. `check` refuses values of any other type."""
    if isinstance(vector, np.ndarray) and vector.dtype == _wire_type(spec):
        return vector.astype(spec.dtype, copy=False)
    return None if spec.modulus_bits is not None else vector
