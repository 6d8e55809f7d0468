"""The mechanism: it changes *what is released*. Its hooks do nothing by default, so mechanisms chain.

A mechanism knows torch's training objects, but not messages, configuration files or other clients.
Shapes: D is the number of model parameters.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from privacy.addresses import Address
from privacy.randomness import Randomness
from privacy.secure_sums.contract import Value
from privacy.secure_sums.trust import Sentences

if TYPE_CHECKING:  # accounting loads Opacus, which a run without differential privacy does not need
    from privacy.accounting.charges import Charge
    from privacy.noise.parties import PartyNoise

Batch = tuple[torch.Tensor, torch.Tensor]  # inputs (B, C, H, W) float32 and labels (B,) int64
# of logits (B, classes) and labels (B,): the mean, or by `reduction` the `sum`, or with `none` the losses (B,)
Loss = Callable[..., torch.Tensor]

RandomExamples = Callable[[int], Batch]  # that many random examples of the data set's shape and range, none of its own

# the roles that may add a mechanism's noise
CLIENT = "client"
SERVER = "server"
PARTIES = "parties"  # those of the secure sum
NOISERS = (CLIENT, SERVER, PARTIES)


@dataclass(frozen=True)
class Plan:
    """Facts of a run that are known before its first round. Mechanisms check them and size their noise by them."""

    clients: int
    cohort_size: int
    min_contributors: int  # a sum over fewer is not opened
    hidden: bool  # True where the secure sum keeps single contributions from the server
    rounding: float  # largest change of one contribution by the secure sum: L2 norm
    dimension: int  # D
    rounds: int
    examples: tuple[int, ...]  # number of examples of each client
    participations: tuple[int, ...]  # number of participations of each client, as the cohorts will be drawn
    separation: int  # least number of rounds from one participation of a client to its next; 1: in a row
    batch_size: int
    epochs: int | None
    steps: int | None
    sample_rate: float | None  # a public rate; None: each client's own, batch_size over its number of examples
    uniform_weights: bool
    public_weights: bool
    proximal: float  # FedProx's mu; 0 without its term
    delta: float
    accountant: str
    model: torch.nn.Module
    random_examples: RandomExamples
    accumulate: int = 1  # batches whose gradients make one step of plain training
    float32: bool = True  # False: forward and backward passes are in mixed precision
    party_noise: "PartyNoise | None" = None  # noise that the parties of the secure sum add to it
    moving: tuple[str, ...] = ()  # buffers of the model that training changes without a gradient; they are summed too

    @property
    def records(self) -> int:
        """The number of examples of all clients."""
        return sum(self.examples)


@runtime_checkable
class Loader(Protocol):
    """The examples of one client, in batches and by index."""

    def __iter__(self) -> Iterator[Batch]:
        """The batches of plain training."""

    def take(self, index: torch.Tensor) -> Batch:
        """The examples at the given indices, shape (B,), int64; each index is below the number of examples."""


@dataclass
class ClientJob:
    """One client's work in one round. `prepare` may replace model, optimizer, batches and loss by private versions.

    A `grouped` job was trained by the steps of `stacked`, with other clients, and no `prepare` has seen it.
    The next client of the process reuses the model, so a mechanism that wraps or hooks it works on a copy.
    """

    address: Address
    round: int
    memory: MutableMapping[str, Value]
    randomness: Randomness  # source of noise and of secret sampling
    examples: int
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    batches: Iterable[Batch]
    loss: Loss = cross_entropy
    state: Mapping[str, float] = field(default_factory=dict)  # values from the mechanisms' server half, for this round
    extra: list[float] = field(default_factory=list)  # values in [-1, 1] that are summed beside the update
    diagnostics: dict[str, float] = field(default_factory=dict)  # by `mechanism.metric`; without any privacy guarantee
    grouped: bool = False


class StackedSteps(Protocol):
    """The steps of several clients, whose parameters are stacked: what `prepare` gives to one, for all at once.

    A client's steps depend on its own examples and its own randomness alone.
    """

    @property
    def lengths(self) -> Sequence[int]:
        """The number of steps of each client."""

    def gradients(self, clients: Sequence[int], stack: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the gradients of the next step of these clients, by parameter.

        `stack` holds their trained parameters, (N, ...) each; the gradients have the same shapes.
        """

    def end(self) -> None:
        """Write diagnostics into the clients' jobs, after all steps."""


@dataclass
class ServerJob:
    """The server's work on one total."""

    round: int
    randomness: Randomness
    cohort_size: int
    survivors: tuple[Address, ...]
    weight: float
    state: dict[str, float] = field(default_factory=dict)  # lasts the whole run, and is sent to clients
    secrets: dict[str, torch.Tensor] = field(default_factory=dict)  # lasts the whole run, and is sent to nobody
    extra: list[float] = field(default_factory=list)  # sums of the extra values that clients added to their updates
    diagnostics: dict[str, float] = field(default_factory=dict)  # they stand in the results: of noised values alone

    def take_extra(self, count: int) -> list[float]:
        """Remove and return the last `count` extra sums: mechanisms run in reverse order, so last added, first out."""
        taken = self.extra[-count:]
        self.extra = self.extra[:-count]
        return taken


class Mechanism:
    """Base of every mechanism. A subclass sets `name` and overrides the hooks that it needs.

    `unit` is the protected unit (privacy.checks.UNITS). `holds_against` lists the adversaries that learn no more
    than epsilon allows: `outsider` (sees the models), `server`. `noised_by` names the role that adds the noise, one of
    `NOISERS`; `floating_noise` is True where the noise is drawn in floating point. A mechanism with a unit that leaves
    them at None is said on the threat card to be silent about them.
    """

    name: str = "mechanism"
    unit: str | None = None
    holds_against: tuple[str, ...] = ()
    extra_values = 0  # number of values that it adds to a contribution
    fixed_denominator = False  # True: divide by the configured cohort size, as the number of survivors is not public
    noised_by: str | None = None
    floating_noise: bool | None = None
    noise_multiplier: float | None = None  # for one release; known after `settle`
    epsilons: Mapping[str, float] = MappingProxyType({})  # for the whole run, by adversary, where they differ
    modulus_bits: int | None = None  # set where it releases residues in place of floats; known after `settle`
    samples = False  # True: it draws each step's examples at a rate (`sample_rate`)
    window = 1  # number of rounds whose contributions one release reveals: its own, and those that its noise depends on

    def adapt(self, model: torch.nn.Module) -> torch.nn.Module:
        """Return the freshly built model, or one in its place that computes the same; its parameters are summed.

        Raises:
            ConfigError: a layer cannot be replaced.
        """
        return model

    def settle(self, plan: Plan) -> None:
        """Check the plan and solve the mechanism's parameters from it. Every node calls this before the first round.

        Raises:
            ConfigError: the plan cannot keep this mechanism's promise; the message gives the reason and the remedy.
        """

    def initial_state(self) -> dict[str, float]:
        """The state that the server keeps over the run and sends to clients each round, under keys of the mechanism."""
        return {}

    def sentences(self) -> Sentences:
        """Further sentences for the threat card, by topic (privacy.secure_sums.trust.TOPICS); after `settle`."""
        return {}

    def summed_length(self, dimension: int) -> int:
        """The number of values that are summed for an update of `dimension` values."""
        return dimension

    def charge(self, client: int) -> "Charge | None":  # noqa: ARG002
        """The cost of one participation of a client; None for a mechanism that promises nothing."""
        return None

    def prepare(self, job: ClientJob) -> None:
        """Put private versions of the training objects into the job, at the client before training."""

    def alone(self) -> str | None:
        """Return why clients must train one by one, as a clause; None where several may train as one computation.

        A mechanism that overrides `prepare` has to override this and `stacked` before its clients train together.
        """
        return None if type(self).prepare is Mechanism.prepare else "prepares the training of each"

    def stacked(self, jobs: Sequence[ClientJob]) -> StackedSteps | None:  # noqa: ARG002
        """Return the steps of several clients, from jobs as `prepare` takes them; None for plain steps.

        Their model is one, and its parameters stay as they are. It is called where `alone` returns None.
        """
        return None

    def on_update(self, job: ClientJob, update_D: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Clip, add local noise or compress, at the client after training. Takes and returns (D,) on the job's device.

        A mechanism with `modulus_bits` returns int64 residues of shape (summed_length(D),) instead, on the host.
        """
        return update_D

    def on_total(self, job: ServerJob, total_D: NDArray[Any]) -> NDArray[Any]:  # noqa: ARG002
        """Change the raw sum, shape (D,), at the server before the division by the weight. The order is reversed.

        The sum is float64. A mechanism with `modulus_bits` takes residues of shape (summed_length(D),) instead.
        """
        return total_D
