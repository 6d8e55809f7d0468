"""The mechanism: what changes *what is released*. Hooks that do nothing by default, so mechanisms chain.

A mechanism knows torch's training objects but nothing of messages, configuration files or other clients.
Shapes: D is the number of model parameters.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from privacy.addresses import Address
from privacy.randomness import Randomness
from privacy.secure_sums.contract import Value

if TYPE_CHECKING:  # accounting loads Opacus, which a run without differential privacy does not need
    from privacy.accounting.charges import Charge
    from privacy.noise.parties import PartyNoise

Batch = tuple[torch.Tensor, torch.Tensor]  # inputs (B, C, H, W) float32 and labels (B,) int64
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # mean over logits (B, classes) and labels (B,)


@dataclass(frozen=True)
class Plan:
    """What is known of a run before its first round: what mechanisms check, and solve their noise for."""

    clients: int
    cohort_size: int
    min_contributors: int  # a sum over fewer is not opened
    hidden: bool  # whether the secure sum keeps single contributions from the server
    rounding: float  # how far the secure sum may move one contribution: L2 norm
    dimension: int  # D
    rounds: int
    examples: tuple[int, ...]  # of each client
    participations: tuple[int, ...]  # of each client, as the cohorts will be drawn
    separation: int  # least number of rounds from one participation of a client to its next; 1: in a row
    batch_size: int
    epochs: int | None
    steps: int | None
    sample_rate: float | None  # public; None: each client's own, batch_size over its examples
    uniform_weights: bool
    public_weights: bool
    proximal: bool
    delta: float
    accountant: str
    model: torch.nn.Module
    party_noise: "PartyNoise | None" = None  # what the parties of the secure sum add to it

    @property
    def records(self) -> int:
        """Examples of all clients."""
        return sum(self.examples)


@runtime_checkable
class Loader(Protocol):
    """Batches of one client's examples, and any of them by index."""

    def __iter__(self) -> Iterator[Batch]:
        """The batches of plain training."""

    def take(self, index: torch.Tensor) -> Batch:
        """The examples at some indices below their number, shape (B,), int64."""


@dataclass
class ClientJob:
    """One client's work in one round. `prepare` may replace model, optimizer, batches and loss by private versions.

    The model is reused by the next client of the process: a mechanism that wraps or hooks it works on a copy.
    """

    address: Address
    round: int
    memory: MutableMapping[str, Value]
    randomness: Randomness  # of noise and of secret sampling
    examples: int
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    batches: Iterable[Batch]
    loss: Loss = cross_entropy
    state: Mapping[str, float] = field(default_factory=dict)  # what the server's half of the mechanisms told this round
    extra: list[float] = field(default_factory=list)  # values in [-1, 1] that are summed beside the update
    diagnostics: dict[str, float] = field(default_factory=dict)  # by `mechanism.metric`; no part of what is private


@dataclass
class ServerJob:
    """The server's work on one total."""

    round: int
    randomness: Randomness
    cohort_size: int
    survivors: tuple[Address, ...]
    weight: float
    state: dict[str, float] = field(default_factory=dict)  # lasts the whole run, and is told to clients
    secrets: dict[str, torch.Tensor] = field(default_factory=dict)  # lasts the whole run, and is told to nobody
    extra: list[float] = field(default_factory=list)  # sums of what clients added beside their updates
    diagnostics: dict[str, float] = field(default_factory=dict)

    def take_extra(self, count: int) -> list[float]:
        """The last `count` extra sums: mechanisms run in reverse order, so the last to add is the first to take."""
        taken = self.extra[-count:]
        self.extra = self.extra[:-count]
        return taken


class Mechanism:
    """Base of every mechanism. A subclass names itself and overrides the hooks that it needs.

    `unit` is what it protects (privacy.checks.UNITS). `holds_against` says who learns no more than epsilon allows:
    `outsider` (who sees the models), `server`.
    """

    name: str = "mechanism"
    unit: str | None = None
    holds_against: tuple[str, ...] = ()
    extra_values = 0  # how many values it adds to a contribution
    fixed_denominator = False  # divide by the configured cohort: how many survived is no public figure
    noised_by_parties = False  # its noise is what the parties of the secure sum add
    noise_multiplier: float | None = None  # of one release; known once it is settled
    epsilons: Mapping[str, float] = MappingProxyType({})  # of the whole run, by whom it holds against, if that differs
    modulus_bits: int | None = None  # where it releases residues in place of floats; known once it is settled
    window = 1  # rounds whose contributions a round's release tells of: itself, and those that its noise depends on

    def settle(self, plan: Plan) -> None:
        """Everywhere, before the first round: check the plan, and solve what follows from it.

        Raises:
            ConfigError: the plan cannot keep this mechanism's promise; it says why, and the remedy.
        """

    def initial_state(self) -> dict[str, float]:
        """What the server's half remembers over the run, and tells clients each round. Keys are the mechanism's own."""
        return {}

    def summed_length(self, dimension: int) -> int:
        """How many values of an update of `dimension` are summed."""
        return dimension

    def charge(self, client: int) -> "Charge | None":  # noqa: ARG002
        """What one participation of a client costs; None for a mechanism that promises nothing."""
        return None

    def prepare(self, job: ClientJob) -> None:
        """Client, before training: put private versions of the training objects into the job."""

    def on_update(self, job: ClientJob, update_D: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Client, after training: clip, add local noise, compress. Takes and returns shape (D,) on the job's device.

        A mechanism with `modulus_bits` returns int64 residues of shape (summed_length(D),) instead, on the host.
        """
        return update_D

    def on_total(self, job: ServerJob, total_D: NDArray[Any]) -> NDArray[Any]:  # noqa: ARG002
        """Server, on the raw sum of shape (D,), before the division by the weight; mechanisms run in reverse order.

        float64, but for a mechanism with `modulus_bits`: it takes residues of shape (summed_length(D),).
        """
        return total_D
