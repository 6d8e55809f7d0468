"""The plan of a run: all that follows from its configuration and the clients' numbers of examples, without a model."""

import math
import os
from collections import Counter
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.lr_scheduler import LRScheduler

from fl import cohorts
from fl.config.build import build
from fl.config.identity import from_json, hash_of
from fl.config.schema import RELAYED
from fl.data.image_data import load_data
from fl.data.partition import partition
from privacy.addresses import Address, client_address, client_index
from privacy.backend import PrivacyBackend
from privacy.errors import ConfigError, FedveilError, ProtocolError
from privacy.mechanisms.contract import Mechanism
from privacy.randomness import OsRandomness, Randomness, SeededRandomness
from privacy.secure_sums.contract import SecureSum
from privacy.secure_sums.vectors import Segment, VectorSpec

UPDATE = "update"
EXTRA = "extra"
WEIGHT = "weight"
HIDDEN_AMONG = 2  # contributions at least, by default
_ROUNDING = 1e-9  # 7 % of 100 clients are 7, though 0.07 * 100 is a little more in floating point


class RunPlan:
    """The participants of each round, their weights and the trust in them: the same in every process of a run.

    A plan has no model and no device. Its parts are computed when they are first asked for; the partitions need the
    labels of the image set.

    Raises:
        ConfigError: the canonical text is no valid configuration; a part raises it where it cannot be computed.
    """

    def __init__(self, canonical: str) -> None:
        self.canonical = canonical
        self.hash = hash_of(canonical)
        self.config = from_json(canonical)

    @cached_property
    def backend(self) -> PrivacyBackend:
        """The two slots. The mechanisms settle once the model is known: see `fl.workspace`."""
        mechanisms = [build(Mechanism, f"mechanism.{key}", node) for key, node in self.config.mechanism.items()]
        secure_sum = build(SecureSum, "secure_sum", self.config.secure_sum)  # type: ignore[type-abstract]
        return PrivacyBackend(secure_sum, tuple(mechanisms))

    @cached_property
    def partitions(self) -> list[NDArray[np.int64]]:
        """Each client's indices into the training examples."""
        config = self.config
        return partition(config.data, load_data(config.data), config.clients, config.seed)

    # cohorts

    @cached_property
    def candidates(self) -> NDArray[np.int64]:
        """The clients that hold data, from whom cohorts are drawn."""
        present = np.flatnonzero([len(part) for part in self.partitions])
        wanted = self.config.cohort
        if wanted is not None and wanted > len(present):
            raise ConfigError.of("cohort", wanted, f"only {len(present)} of {self.config.clients} clients hold data")
        return present

    @cached_property
    def schedule(self) -> cohorts.Schedule:
        """The cohort of each round (entry 0 is round 1), each sorted; from the seed and the clients with data."""
        config = self.config
        return cohorts.schedule(config.sampler, self.candidates, self.cohort_size, config.rounds, config.seed)

    @cached_property
    def participations(self) -> tuple[int, ...]:
        """The number of participations of each client, as the cohorts are drawn."""
        drawn = Counter(client for cohort in self.schedule for client in cohort)
        return tuple(drawn[client] for client in range(self.config.clients))

    def cohort(self, number: int) -> tuple[int, ...]:
        """Return the cohort of a round, sorted."""
        return self.schedule[number - 1]

    def require_in_cohort(self, number: int, client: Address) -> None:
        """Refuse a client's part in a round whose cohort it is not in.

        Cohorts follow from the configuration, so no server can ask a client in more rounds than the plan says.

        Raises:
            ProtocolError: there is no such round, or the client is not in its cohort.
        """
        self.require_round(number, client)
        if client_index(client) not in self.cohort(number):
            raise ProtocolError(f"{client} has nothing to contribute to round {number}: it is not in the cohort")

    def require_round(self, number: int, who: Address) -> None:
        """Refuse a round that the run does not have.

        Raises:
            ProtocolError: there is no such round.
        """
        if not 1 <= number <= self.config.rounds:
            raise ProtocolError(f"{who} has nothing to contribute to round {number}: there are {self.config.rounds}")

    @property
    def cohort_size(self) -> int:
        """The number of clients that a round asks."""
        return len(self.candidates) if self.config.cohort is None else self.config.cohort

    @property
    def lanes(self) -> int:
        """The number of clients of a cohort that run at once."""
        runtime = self.config.runtime
        if runtime.name == "deployment":
            return self.cohort_size
        cores = os.cpu_count() or 1
        at_once = int(cores / runtime.cpus_per_client) if runtime.name == "ray" else runtime.workers
        return min(self.cohort_size, max(1, at_once))

    # trust

    @property
    def assumption(self) -> str:
        """The trust assumption: the roles that are trusted with contributions."""
        if self.config.runtime.measure_sum_error:
            return "a test: the server is told every client's contribution"
        assumption = self.backend.secure_sum.assumed(self.cohort_size)
        if self.relayed:
            return f"the server is passive and relays public keys as they are: {assumption}"
        withstands = self.backend.secure_sum.withstands
        if not self.hides_something or assumption.startswith("the server is trusted"):
            return assumption
        if not withstands.malicious:
            return f"the server follows the protocol, and {assumption}"
        return assumption if withstands.several_models else f"all clients get the same model, and {assumption}"

    @property
    def relayed(self) -> bool:
        """True where public keys come through the server, instead of an exchange outside it."""
        return self.config.runtime.roster == RELAYED

    @property
    def hides_something(self) -> bool:
        """True where the secure sum hides contributions, or a part of each; another role must then help to open it."""
        return self.backend.secure_sum.hides or self.backend.secure_sum.needs.roster

    @property
    def private(self) -> bool:
        """True where a mechanism promises an epsilon."""
        return bool(self.backend.private)

    @property
    def tells_figures(self) -> bool:
        """True where exact figures about private values are reported: on request, or where no epsilon is promised."""
        return self.config.runtime.client_diagnostics or not self.private

    @property
    def cut_metric(self) -> str | None:
        """The metric in which clients tell how many values they cut to the bound of the sum; None where they may not.

        A number of values that carry all of their noise already is post-processing, which epsilon covers.
        """
        if self.tells_figures:
            return "clipped_values"
        noised = all("server" in type(mechanism).holds_against for mechanism in self.backend.private)
        return "noised_values_cut" if noised else None

    @property
    def enlarges_updates(self) -> bool:
        """True where faults are on: clients may cut many values on purpose, which does not end the run."""
        return bool(self.config.faults.kind or self.config.faults.scaled_clients)

    @property
    def min_contributors(self) -> int:
        """The least number of contributions over which a sum is opened, which its openers enforce.

        Where the sum hides something, two bounds hold: `server.min_contributors` (by default 2), and the share of the
        cohort, `least_by_share`. The server alone chooses whom it asks: without the second bound it could ask one
        client beside a single one that colludes with it, of however large a cohort.

        Raises:
            ConfigError: the cohort has one client alone, and `server.min_contributors` is not set to allow that.
        """
        minimum = self.config.server.min_contributors
        if not self.hides_something:
            return minimum or 1
        if minimum is None and self.cohort_size < HIDDEN_AMONG:
            name = self.backend.secure_sum.name
            allowed = f"a sum over one is its update, which {name} is to hide: ask more, or set it to 1"
            raise ConfigError.of("server.min_contributors", "null", allowed)
        return max(self.least_by_share, minimum or HIDDEN_AMONG)

    @property
    def least_by_share(self) -> int:
        """The least number of contributions that makes up `server.min_share` of the cohort."""
        share = self.config.server.min_share * self.cohort_size
        return math.ceil(share - _ROUNDING)

    def randomness(self, *labels: int | str) -> Randomness:
        """Return the randomness of noise and secret sampling: the operating system's, or seeded with `noise=seeded`."""
        return OsRandomness() if self.config.noise == "os" else SeededRandomness(self.config.seed, "noise", *labels)

    # addresses

    @cached_property
    def everybody(self) -> tuple[Address, ...]:
        """All participants of the secure sum beside the server: clients and roles, also roles that it does not ask."""
        return (*map(client_address, range(self.config.clients)), *self.members)

    @property
    def asked(self) -> tuple[Address, ...]:
        """The participants that the server asks: the clients, and the secure sum's roles."""
        return (*map(client_address, range(self.config.clients)), *self.backend.secure_sum.parties.roles)

    @property
    def members(self) -> tuple[Address, ...]:
        """The participants other than clients; each has a process of its own."""
        secure_sum = self.backend.secure_sum
        return secure_sum.parties.roles if secure_sum.parties.meeting is None else secure_sum.parties.meeting.members

    # what is summed

    def spec(self, dimension: int) -> VectorSpec:
        """Return the vector that is summed for a model of `dimension` values, once the mechanisms have settled.

        It holds v * update and v, with v = weight / max_weight in [0, 1].
        """
        backend = self.backend
        update = Segment(UPDATE, backend.summed_length(dimension), backend.secure_sum.carries.bound)
        extra = Segment(EXTRA, backend.extra_values, bound=1.0)
        segments = (update, *([extra] if extra.length else []), Segment(WEIGHT, 1, bound=1.0))
        return VectorSpec(segments, self.cohort_size, self.min_contributors, backend.modulus_bits)

    def spec_of_floats(self, dimension: int) -> VectorSpec:
        """Return the vector that is summed where no mechanism converts updates to integers."""
        update = Segment(UPDATE, dimension, self.backend.secure_sum.carries.bound)
        return VectorSpec((update, Segment(WEIGHT, 1, bound=1.0)), self.cohort_size, self.min_contributors)

    @cached_property
    def max_weight(self) -> int:
        """The public bound on a client's number of examples."""
        largest = max(len(part) for part in self.partitions)
        declared = self.config.training.max_weight
        if declared is not None and largest > declared:
            raise ConfigError.of("training.max_weight", declared, f"a client holds {largest} examples")
        return largest if declared is None else int(declared)

    def weight(self, client: int) -> float:
        """Return the weight v of a client, in [0, 1]."""
        if self.config.training.weighting == "uniform":
            return 1.0
        return len(self.partitions[client]) / self.max_weight

    @cached_property
    def learning_rates(self) -> list[float]:
        """The clients' learning rate in each round (entry 0 is round 1), from a torch scheduler."""
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=self.config.training.lr)
        schedule = self.config.training.schedule
        if not schedule:
            return [float(self.config.training.lr)] * self.config.rounds
        rates = []
        try:
            scheduler = build(LRScheduler, "training.schedule", schedule, optimizer=optimizer)
            for _ in range(self.config.rounds):
                rates.append(float(optimizer.param_groups[0]["lr"]))
                optimizer.step()
                scheduler.step()
        except (TypeError, ValueError, ArithmeticError) as error:
            if isinstance(error, FedveilError):
                raise
            raise ConfigError.of("training.schedule", dict(schedule), str(error)) from error
        bad = next((number for number, rate in enumerate(rates, 1) if not (math.isfinite(rate) and rate >= 0)), None)
        if bad is not None:
            told = f"gives the learning rate {rates[bad - 1]:g} in round {bad}: allowed are finite rates of at least 0"
            raise ConfigError.of("training.schedule", schedule.get("_target_"), told)
        return rates
