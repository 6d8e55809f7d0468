"""The own ledgers of the roles that pay for what they send: a budget that no server can undo.

A malicious server forgets its ledger, asks a client again and again, and averages the noise of the answers away. So
each client whose mechanism takes its noise from the clients or from the parties, and each party that adds noise, keeps
a ledger of its own (`fl.ledger`, one line a contribution). It charges there *before* a contribution is computed, or
before noise is added to a sum. Every contribution is charged: also in an attempt that was answered before, or that
fails afterwards. No answer is repeated with the same noise instead, since an update depends on the model that the
server sends and on sampling of its own, so a client would have to keep whole answers to be sure that they are equal.

A contribution is refused beyond the budget: the participations that the cohorts of the configuration give the client,
and `retries` more, for rounds that run again after a crash. With `epsilon_budget` it is also refused where the client's
own epsilon would exceed that. A node can set stricter values of its own.

In a deployment the ledger is in the role's folder, with its keys, and synced. Its end (`fl.ledger.Head`) is in the
role's store beside it, so a ledger that is deleted or cut is noticed; a folder that is put back as a whole is not. In a
simulation one party plays all roles: the ledgers are in the folder of the checkpoints, and are not synced one by one.
They outlive every process; of a crash of the machine only the server's ledger is sure to tell.
"""

import json
import os
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from fl.keys.folders import LEDGERS_VARIABLE, FileStore, store_of, variable
from fl.ledger import EMPTY, NAME, Head, LedgerFile
from fl.plan import RunPlan
from privacy.addresses import Address, client_address, client_index
from privacy.checks import UNITS
from privacy.errors import ConfigError, PrivacyRefusal, RunRefused
from results.files import damaged

SIMULATED = "ledgers"  # the name of that folder, among the checkpoints
LOCK = ".ledger.lock"
HEAD = "ledger-head"  # the name in a role's store
RETRIES = "retries"
BUDGET = "epsilon-budget"


@dataclass(frozen=True)
class Limits:
    """The limits of a role: `retries` beyond the planned participations, and the largest epsilon, if any."""

    retries: int
    epsilon: float | None

    def stricter(self, given: Mapping[str, object]) -> "Limits":
        """Return these limits with those of a node's own configuration, `retries` and `epsilon-budget`.

        Raises:
            ConfigError: a value of the node is not allowed, or is not as strict.
        """
        retries = given.get(RETRIES, self.retries)
        if not isinstance(retries, int) or not 0 <= retries <= self.retries:
            raise ConfigError.of(RETRIES, retries, f"a node allows from 0 to the configuration's {self.retries}")
        most = self.epsilon
        epsilon = given.get(BUDGET, most)
        if epsilon is None:
            return Limits(retries, None)
        if not isinstance(epsilon, int | float) or not 0 < epsilon <= (most or epsilon):
            allowed = "a number above 0" if most is None else f"above 0, and at most the configuration's {most:g}"
            raise ConfigError.of(BUDGET, epsilon, f"a node allows {allowed}")
        return Limits(retries, float(epsilon))


@dataclass(frozen=True)
class OwnLedger:
    """The ledger of one role in one run. A role that does not keep the `store` of a deployment is simulated."""

    plan: RunPlan
    limits: Limits
    folder: Path
    name: str
    store: FileStore | None = None

    def pay(self, number: int, attempt: str, clients: Collection[Address]) -> None:
        """Charge clients for a contribution to an attempt at a round; it is on disk when this returns.

        Raises:
            ProtocolError: a client is not in the cohort of the round.
            PrivacyRefusal: a client's budget does not allow it.
            RunRefused: the ledger is damaged, or has lost charges.
        """
        for address in clients:
            self.plan.require_in_cohort(number, address)
        owed = {client: self.plan.backend.own_charges(client) for client in map(client_index, clients)}
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(self.folder / LOCK, fallback_to_soft=False):
            file = _opened(self.folder, self.name, self.store is not None)
            file.refresh()
            file.require(self._head())
            for client in owed:
                self._require(file, client)
            file.charge(number, attempt, owed)
            if self.store is not None:
                self.store.put(HEAD, json.dumps(file.head).encode())

    def _head(self) -> Head:
        noted = None if self.store is None else self.store.get(HEAD)
        if noted is None:
            return EMPTY
        try:
            lines, digest = json.loads(noted)
            return int(lines), str(digest)
        except (ValueError, TypeError):
            raise damaged(self.folder / HEAD, "it holds no end of a ledger") from None

    def _require(self, file: LedgerFile, client: int) -> None:
        """Refuse a further contribution of a client beyond its budget."""
        who = client_address(client)
        planned = self.plan.participations[client]
        most = planned + self.limits.retries
        made = file.ledger.participations(client)
        if made >= most:
            raise PrivacyRefusal(
                f"{who} has contributed {made} times, of {most} that its budget allows ({planned} planned, "
                f"{RETRIES}={self.limits.retries}); to go on, start anew under another seed, or with more {RETRIES}"
            )
        if self.limits.epsilon is not None:
            self._require_epsilon(file, client, self.limits.epsilon)

    def _require_epsilon(self, file: LedgerFile, client: int, budget: float) -> None:
        config = self.plan.config
        after = file.ledger.with_charges({client: self.plan.backend.own_charges(client)})
        for unit in UNITS:
            epsilon = after.epsilons(unit, config.delta, config.accountant).get(client, 0.0)
            if epsilon > budget:
                raise PrivacyRefusal(
                    f"{client_address(client)} would spend epsilon {epsilon:.4g} for a {unit}, and its budget is "
                    f"{budget:g}; to go on, start anew under another seed, or with a larger budget"
                )


@lru_cache(maxsize=1 << 14)  # a process of a simulation serves many clients, and the parsing of their lines adds up
def _opened(folder: Path, name: str, durable: bool) -> LedgerFile:
    return LedgerFile(folder, name=name, durable=durable)


def deployed(folder: Path, plan: RunPlan, own: Mapping[str, object]) -> OwnLedger:
    """Return the ledger of the role that owns `folder`, for a plan, under the limits of its node's configuration `own`.

    Raises:
        ConfigError: a limit of the node is not allowed.
    """
    store = store_of(folder, plan.hash)
    return OwnLedger(plan, _limits(plan).stricter(own), store.folder, NAME, store)


def simulated(address: Address, plan: RunPlan) -> OwnLedger:
    """Return the ledger of one role, in the simulation to which this process belongs.

    Raises:
        RunRefused: the simulation has no folder for ledgers.
    """
    folder = os.environ.get(LEDGERS_VARIABLE)
    if folder is None:
        raise RunRefused(f"{LEDGERS_VARIABLE} is not set: {address} has nowhere to keep its ledger")
    return OwnLedger(plan, _limits(plan), Path(folder), f"{address.replace('/', '-')}.jsonl")


def _limits(plan: RunPlan) -> Limits:
    return Limits(plan.config.retries, plan.config.epsilon_budget)


def kept_in(checkpoints: Path) -> AbstractContextManager[None]:
    """Name the folder of a simulation's ledgers, among its checkpoints, for this process and those that it starts."""
    return variable(LEDGERS_VARIABLE, str(checkpoints.absolute() / SIMULATED))
