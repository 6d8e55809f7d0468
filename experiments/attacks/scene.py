"""Rounds of a configuration with a malicious server; all other roles behave as in a run.

Clients, keyholder, updates, identities, rosters and stores are those of `fedveil run` with the same overrides. The
server's half is the protocol's own except for the request to open, which the attack forges from the server's data.

Shapes: D is the length of the vector that is summed, C the number of clients.
"""

import os
import secrets
import tempfile
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
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
from privacy.randomness import OsRandomness
from privacy.secure_sums.contract import Credentials, Exchange, Participant, Records, Value
from privacy.secure_sums.he.codecs import CipherScheme
from privacy.secure_sums.he.key_delivery import SECRET
from privacy.secure_sums.he.protocol import OpenedSum
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
        roles = [*self.clients, *self.secure_sum.roles]
        self._drive(self.secure_sum.setup(roles, self.spec), AttackAttempt(SETUP_ROUND), honest)

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
            self._drive(self.secure_sum.server(self.clients, self.spec), attempt, forge)
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
        me = self._party(attempt.opener, attempt, "open")
        assert me.credentials is not None
        kept = me.memory.get(SECRET) or me.credentials.store.get(SECRET)
        assert isinstance(kept, bytes)
        return kept

    def _drive(self, flow: Generator[Exchange, list[Address], object], attempt: AttackAttempt, forge: Forge) -> None:
        respondents: list[Address] | None = None
        while True:
            try:
                exchange = next(flow) if respondents is None else flow.send(respondents)
            except StopIteration:
                return
            self._serve(exchange, attempt, forge)
            respondents = exchange.respondents()

    def _serve(self, exchange: Exchange, attempt: AttackAttempt, forge: Forge) -> None:
        attempt.stage = exchange.stage
        for address, inbound in exchange.outbox.items():
            if exchange.stage == "open":
                inbound = attempt.request = forge(inbound, attempt.uploads)
                attempt.opener = address
            reply = self._respond(exchange.stage, address, inbound, attempt)
            if exchange.stage == "collect":
                attempt.uploads[address] = reply
            exchange.deliver(address, reply)  # the server's half of the protocol checks the reply
            if exchange.stage == "open":
                assert isinstance(reply["opened"], np.ndarray)
                attempt.opened = reply["opened"]

    def _respond(self, stage: str, address: Address, inbound: Records, attempt: AttackAttempt) -> Records:
        me = self._party(address, attempt, stage)
        return self.secure_sum.respond(stage, inbound, me, lambda: self.vectors[address])

    def _party(self, address: Address, attempt: AttackAttempt, stage: str) -> Participant:
        """The party of an address, built as `fl.participant.answer` builds it."""
        work = self.work
        memory = attempt.memories[address]
        credentials = self.credentials(address, stage)
        return Participant(
            address, work.plan.hash, attempt.round, attempt.name, self.spec, memory, OsRandomness(), credentials
        )


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
    before = os.environ.get(keys.KEYS_VARIABLE)
    with tempfile.TemporaryDirectory() as folder:
        keys.set_up(Path(folder), plan.everybody)
        try:
            yield
        finally:
            os.environ.pop(keys.KEYS_VARIABLE)
            if before is not None:
                os.environ[keys.KEYS_VARIABLE] = before


def _trained(work: Workspace, address: Address) -> Vector:
    """A client's contribution to the first round."""
    request = Request(address, "collect", 1, "", {}, work.initial_D.numpy())
    with preserved_generators(work.device):
        return contribution(work, request, {}, Phases(work.device))
