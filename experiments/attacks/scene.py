"""Rounds of a configuration with a malicious server; all other roles behave as in a run.

Clients, keyholder, updates, identities, rosters and stores are those of `fedveil run` with the same overrides. The
server's half is the protocol's own except for the request to open, which the attack forges from the server's data.

Shapes: D is the length of the vector that is summed, C the number of clients.
"""

import secrets
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from hydra.errors import HydraException
from numpy.typing import NDArray
from omegaconf.errors import OmegaConfBaseException

from experiments.attacks import Finding
from experiments.hydra.compose import composed
from experiments.hydra.error_lines import one_line
from fl.config.checks import check
from fl.config.identity import to_json
from fl.keys import folders as keys
from fl.metering import Phases
from fl.participant import SETUP_ROUND, Request, contribution
from fl.plan import RunPlan
from fl.training.generators import preserved_generators
from fl.workspace import Workspace
from privacy.addresses import Address, client_address
from privacy.errors import ConfigError, PrivacyRefusal, ProtocolError, RuntimeFailure
from privacy.secure_sums.contract import Contribution, Credentials, Exchange, Participant, Records, Value
from privacy.secure_sums.he.codecs import CipherScheme
from privacy.secure_sums.he.key_delivery import SECRET
from privacy.secure_sums.he.protocol import OpenedSum
from privacy.secure_sums.in_memory import InMemory
from privacy.secure_sums.vectors import Sum, Vector

Uploads = Mapping[Address, Records]
Forge = Callable[[Records, Uploads], Records]  # (honest request, uploads) -> forged request

# where the clients share a key, the first one opens
VICTIM = client_address(1)
OTHER = client_address(2)
CONTROL_ROUND = 1
ATTACKED_ROUND = 2


def honest(request: Records, uploads: Uploads) -> Records:  # noqa: ARG001
    """The request as the protocol makes it."""
    return request


@dataclass
class AttackAttempt:
    """The server's data from one attempt at a round, and the refusal that ended it."""

    round: int
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    uploads: dict[Address, Records] = field(default_factory=dict)
    request: Records = field(default_factory=dict)
    opener: Address = ""
    opened: Sum | None = None
    stage: str = ""  # the last stage reached
    refusal: str = ""
    memories: dict[Address, dict[str, Value]] = field(default_factory=lambda: defaultdict(dict))  # not the server's

    @property
    def message(self) -> bytes:
        """The ciphertext of the sum that the opener was asked to open."""
        return message_of(self.request, "sum")


def message_of(records: Records, name: str = "message") -> bytes:
    """The ciphertexts in a record."""
    message = records[name]
    assert isinstance(message, bytes)
    return message


class Scene:
    """All roles of one configuration except the server, set up as for a run. See `scene`."""

    def __init__(self, work: Workspace, vectors: Mapping[Address, Vector] | None = None) -> None:
        assert isinstance(work.plan.backend.secure_sum, OpenedSum)
        self.work = work
        self.spec = work.spec
        self.secure_sum = work.plan.backend.secure_sum
        self.clients = [client_address(client) for client in work.plan.cohort(ATTACKED_ROUND)]
        self.vectors = {address: _trained(work, address) for address in self.clients} if vectors is None else vectors
        self.set_up()

    def set_up(self) -> None:
        """Run the set-up that precedes the first round."""
        Play(self, AttackAttempt(SETUP_ROUND)).set_up()

    def credentials(self, address: Address, stage: str) -> Credentials:  # noqa: ARG002
        """The credentials that a role has from set-up, at a stage."""
        return keys.simulated(address, self.work.plan.everybody)

    @property
    def scheme(self) -> CipherScheme:
        """The public scheme that encodes and encrypts vectors."""
        return self.secure_sum.scheme(self.spec)

    @property
    def sum_D(self) -> NDArray[np.float64]:
        """The sum that an honest round opens, shape (D,)."""
        vectors_CD = np.stack([self.vectors[address] for address in self.clients])
        sum_D: NDArray[np.float64] = vectors_CD.sum(axis=0, dtype=np.float64)
        return sum_D

    @property
    def allowed_error(self) -> float:
        """The largest absolute error allowed in a sum over all clients."""
        return len(self.clients) * self.secure_sum.tolerance(self.spec)

    def honest_round(self, number: int = CONTROL_ROUND) -> AttackAttempt:
        """Run a round without a forgery, as a control: if it works, a later refusal is due to the forgery.

        Raises:
            RuntimeFailure: the round does not open the right sum.
        """
        attempt = self.attempt(number)
        if attempt.opened is None:
            raise RuntimeFailure(f"{self.secure_sum.name}: an honest round was not opened: {attempt.refusal}")
        error = float(np.abs(attempt.opened - self.sum_D).max())
        if not error <= self.allowed_error:
            raise RuntimeFailure(f"{self.secure_sum.name}: the sum of an honest round is off by {error:.2g}")
        return attempt

    def attempt(self, number: int = ATTACKED_ROUND, forge: Forge = honest) -> AttackAttempt:
        """One attempt at a round, to its end or to the first refusal."""
        attempt = AttackAttempt(number)
        try:
            Play(self, attempt, forge).aggregate()
        except (ProtocolError, PrivacyRefusal) as error:
            attempt.refusal = one_line(error)
        return attempt

    def total(self, messages: Sequence[bytes]) -> bytes:
        """The server's sum of these messages, which needs no key."""
        adder = self.scheme.adder()
        for message in messages:
            adder.add(message)
        return adder.message()

    def secret(self, attempt: AttackAttempt) -> bytes:
        """The key that opened the attempt: used to judge the attack, unknown to the attacker."""
        me = Play(self, attempt).party(attempt.opener)
        kept = me.memory.get(SECRET) or me.own.store.get(SECRET)
        assert isinstance(kept, bytes)
        return kept

    def meddle(self, stage: str, address: Address, inbound: Records, attempt: AttackAttempt) -> Records:  # noqa: ARG002
        """The request as the attacker sends it: by default as the protocol makes it."""
        return inbound

    def answer(self, stage: str, inbound: Records, me: Participant, contribution: Contribution) -> Records:
        """The answer of a role."""
        return self.secure_sum.respond(stage, inbound, me, contribution)


class Play(InMemory):
    """The roles of a scene in one attempt, as `fl.participant` makes them, and a server that forges a request."""

    def __init__(self, scene: Scene, attempt: AttackAttempt, forge: Forge = honest) -> None:
        super().__init__(
            scene.secure_sum,
            scene.spec,
            {address: scene.vectors[address] for address in scene.clients},
            strict=True,
            run_hash=scene.work.plan.hash,
            number=attempt.round,
            attempt=attempt.name,
            memories=attempt.memories,
        )
        self.scene = scene
        self.seen = attempt
        self.forge = forge

    def credentials(self, address: Address) -> Credentials:
        """The credentials that a role has from set-up."""
        return self.scene.credentials(address, self.stage)

    def to_role(self, exchange: Exchange, address: Address) -> Records:
        """The request, forged where it is the one to open."""
        self.seen.stage = exchange.stage
        inbound = exchange.outbox[address]
        if exchange.stage == "open":
            inbound = self.seen.request = self.forge(inbound, self.seen.uploads)
            self.seen.opener = address
        return self.scene.meddle(exchange.stage, address, inbound, self.seen)

    def answer(self, stage: str, request: Records, me: Participant, contribution: Contribution) -> Records:
        """The answer of the scene's roles."""
        return self.scene.answer(stage, request, me, contribution)

    def to_server(self, exchange: Exchange, address: Address, reply: Records) -> Records:
        """The reply, which the server keeps where it is an upload."""
        if exchange.stage == "collect":
            self.seen.uploads[address] = reply
        return reply

    def deliver(self, exchange: Exchange, address: Address, reply: Records) -> None:
        """Pass the reply to the server's half, which checks it, and keep the opening that it takes."""
        super().deliver(exchange, address, reply)
        if exchange.stage == "open":
            assert isinstance(reply["opened"], np.ndarray)
            self.seen.opened = reply["opened"]


def close(found_D: Sum, true_D: Vector) -> tuple[bool, str]:
    """Tell whether two updates agree to a hundredth of the largest value, and give the largest error in words."""
    error, largest = (float(np.abs(values_D[:-1]).max()) for values_D in (found_D - true_D, true_D))
    return error <= largest / 100, f"largest error {error:.1g} in values up to {largest:.2g}"


def taken_for(what: str, found_D: Sum, true_D: Vector) -> Finding:
    """The finding on an opening: a success where it matches `true_D`, which `what` names."""
    same, error = close(found_D, true_D)
    return Finding(same, f"{what} is opened: {error}" if same else f"the opening is not {what}: {error}")


@contextmanager
def scene(
    overrides: Sequence[str], vectors: Callable[[Workspace], Mapping[Address, Vector]] | None = None
) -> Iterator[Scene]:
    """The scene of a configuration; its keys are removed at the end. `vectors` replace the trained contributions.

    Raises:
        ConfigError: a configuration that is refused.
    """
    work = configured(overrides)
    with _keys(work.plan):
        yield Scene(work, None if vectors is None else vectors(work))


def configured(overrides: Sequence[str]) -> Workspace:
    """The workspace that `fedveil run` would make of these overrides, on the CPU.

    Raises:
        ConfigError: as `fedveil run`.
    """
    try:
        config = composed(["device=cpu", *overrides])
        check(config)
        return Workspace(to_json(config))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_line(error, overrides)) from error


@contextmanager
def _keys(plan: RunPlan) -> Iterator[None]:
    """Keep keys and stores in a temporary folder, as a simulation does."""
    with tempfile.TemporaryDirectory() as folder, keys.variable(keys.KEYS_VARIABLE, folder):
        keys.set_up(Path(folder), plan.everybody)
        yield


def _trained(work: Workspace, address: Address) -> Vector:
    """A client's contribution to the first round."""
    request = Request(address, "collect", 1, "", {}, work.initial_D.numpy())
    with preserved_generators(work.device):
        return contribution(work, request, {}, Phases(work.device))
