"""Client-level differential privacy with noise from the parties of an MPC: the client's clip, and the privacy cost.

The noise is set by `secure_sum.aggregate=noised_sum` (`privacy.noise.parties`). The guarantee holds against the server,
and
against as many colluding parties as the noise was sized for, with or without the server. Outsiders know no party's
share, so they face more noise. The noise does not come from clients, so no minimum number of clients has to survive.
"""

import logging

import torch

from privacy.accounting import charges
from privacy.accounting import epsilon as accounting
from privacy.accounting.charges import Charge
from privacy.errors import ConfigError
from privacy.mechanisms.client_clipping import clip_update, require_uniform
from privacy.mechanisms.contract import PARTIES, ClientJob, Mechanism, Plan
from privacy.noise.parties import PartyNoise

log = logging.getLogger("fedveil")


class PartyDp(Mechanism):
    """Clip each update to the norm that the parties' noise was sized for, and charge for each participation."""

    name = "party_dp"
    unit = "client"
    noised_by = PARTIES
    floating_noise = False

    def __init__(self) -> None:
        self._noise: PartyNoise | None = None
        self._charge: Charge | None = None
        self._rounding = 0.0

    def settle(self, plan: Plan) -> None:
        """Check the plan, and compute the privacy cost against each coalition.

        Raises:
            ConfigError: the parties of the sum add no noise, clients are weighted by examples, or delta is invalid.
        """
        require_uniform(self.name, plan)
        if plan.party_noise is None:
            allowed = "needs parties that add noise: secure_sum=crypten with secure_sum/aggregate=noised_sum"
            raise ConfigError.of("mechanism", self.name, allowed)
        noise = self._noise = plan.party_noise
        self.noise_multiplier = noise.noise_multiplier
        self._rounding = plan.rounding
        coalition = _coalition(noise.colluders)
        self.holds_against = tuple(dict.fromkeys(("outsider", "server", coalition)))
        self._charge = self._charged(plan, noise.colluders)
        self.epsilons = {coalition: self._epsilon(plan, noise.colluders), "outsider": self._epsilon(plan, 0)}
        for who, epsilon in self.epsilons.items():
            log.info("party_dp: epsilon=%.4g against %s", epsilon, who)

    def _charged(self, plan: Plan, known: int) -> Charge:
        assert self._noise is not None
        event = self._noise.event(plan.dimension, known, max(1, *plan.participations), plan.delta)
        return Charge(self.name, "client", "zero_out", event)

    def _epsilon(self, plan: Plan, known: int) -> float:
        """The epsilon of the client that takes part most often, over the whole run."""
        whole = charges.compose([(self._charged(plan, known), max(plan.participations))])
        return accounting.epsilon(whole.event, plan.delta, "rdp", whole.relation)

    def charge(self, client: int) -> Charge | None:  # noqa: ARG002
        """The cost of one participation, at the noise that the colluding parties cannot subtract."""
        return self._charge

    def on_update(self, job: ClientJob, update_D: torch.Tensor) -> torch.Tensor:
        """Clip the update, with room for the rounding to steps."""
        assert self._noise is not None
        return clip_update(job, self.name, update_D, self._noise.clip, self._rounding)[0]


def _coalition(colluders: int) -> str:
    if colluders == 0:
        return "server"
    return f"server with {colluders} {'party' if colluders == 1 else 'parties'}"
