"""One client's update, opened by the server itself: it gives this client a roster with its own keys.

Every role has a folder of its own, as in a deployment. With a pinned roster, the client did not get it from
the server, so the server can only use its own keys as if they were the opener's.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.attacks import AttackCase, Finding
from experiments.attacks.scene import VICTIM, AttackAttempt, Play, Scene, configured, message_of, taken_for
from experiments.attacks.single_update import alone
from experiments.hydra.error_lines import one_line
from fl.keys import folders as keys
from fl.keys import relayed as relaying
from fl.participant import SETUP_ROUND
from fl.workspace import Workspace
from privacy.addresses import KEYHOLDER, Address
from privacy.errors import PrivacyRefusal, ProtocolError
from privacy.randomness import OsRandomness
from privacy.sealing import Identity, Roster
from privacy.secure_sums.contract import Contribution, Credentials, Participant, Records
from privacy.secure_sums.in_memory import InMemory
from privacy.secure_sums.relayed_roster import HAND_OUT, STAGES, RelayedRoster
from privacy.secure_sums.vectors import Vector

HOLDS = "all uploads, and keys of its own"


class Swapped(Scene):
    """A scene in which the victim gets a forged roster, if the server relays rosters, and then forged HE keys."""

    def __init__(self, work: Workspace, folder: Path) -> None:
        self._folder = folder
        self._forged = Identity.generate(OsRandomness())
        self._known = Roster({})
        super().__init__(work)

    @property
    def opener(self) -> Address:
        """The role that the server impersonates."""
        return KEYHOLDER if self.secure_sum.parties.roles else self.clients[0]

    def set_up(self) -> None:
        """Exchange the roster, then run the rest of the set-up."""
        everybody = self.work.plan.everybody
        if self.work.plan.relayed:
            attempt = AttackAttempt(SETUP_ROUND)
            Play(self, attempt).drive(RelayedRoster(everybody).flow(self.work.plan.hash, SETUP_ROUND, attempt.name))
        else:
            self._known = keys.make_all(self._folder, everybody)
        super().set_up()

    def credentials(self, address: Address, stage: str) -> Credentials:
        """The credentials of a node of a deployment."""
        folder = keys.folder_of(self._folder, address)
        if self.work.plan.relayed:
            return relaying.credentials(folder, address, self.work.plan, stage)
        return keys.deployed(folder, address, self.work.plan.everybody, self.work.plan.hash)

    def meddle(self, stage: str, address: Address, inbound: Records, attempt: AttackAttempt) -> Records:
        """The request; the victim gets the forged roster, and then the server's own HE keys."""
        if stage == HAND_OUT:
            self._known = Roster.from_bytes(message_of(inbound, "roster"))
        if address == VICTIM and stage == HAND_OUT:
            return {"roster": self._with_own(self._known).to_bytes()}
        if address == VICTIM and stage == "deliver":
            return {**inbound, "parcel": self.played("keys", {"clients": VICTIM}, attempt)[VICTIM]}
        return inbound

    def answer(self, stage: str, inbound: Records, me: Participant, contribution: Contribution) -> Records:
        """The answer of a role, which takes part in the exchange of the roster as well."""
        if stage in STAGES:
            return RelayedRoster(self.work.plan.everybody).respond(stage, inbound, me)
        return super().answer(stage, inbound, me, contribution)

    def _with_own(self, roster: Roster) -> Roster:
        """The roster with the server's keys in place of the opener's."""
        return Roster({**{address: roster[address] for address in roster}, self.opener: self._forged.public})

    def played(self, stage: str, inbound: Records, attempt: AttackAttempt) -> Records:
        """The server's own answer in the opener's place, which ignores the minimum of contributors."""
        store = keys.store_of(self._folder, "server")
        own = Credentials(self._forged, self._with_own(self._known), store)
        impostor = InMemory(
            self.secure_sum,
            replace(self.spec, min_contributors=1),
            {},
            known={self.opener: own},
            run_hash=self.work.plan.hash,
            number=attempt.round,
            attempt=attempt.name,
            memories={self.opener: attempt.memories["server"]},
        )
        return self.secure_sum.respond(stage, inbound, impostor.party(self.opener), _nothing)


def _nothing() -> Vector:
    raise AssertionError("an opener does not contribute")


def mount(overrides: Sequence[str]) -> Finding:
    """Open the victim's upload alone, as the recipient of its masks."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            here = Swapped(configured(overrides), Path(folder))
            attempt = here.attempt()
            opened = here.played("open", alone(here, attempt.request, attempt.uploads), attempt)["opened"]
            return taken_for(f"{VICTIM}'s update", here.spec.check_sum(opened), here.vectors[VICTIM])
    except (ProtocolError, PrivacyRefusal) as error:
        return Finding(False, one_line(error))


def _case(*overrides: str, relayed: bool, stops: str = "") -> AttackCase:
    deployed = ("runtime=deployment", "clients=3", f"runtime.roster={'relayed' if relayed else 'pinned'}")
    return AttackCase((*overrides, *deployed), relayed, mount, HOLDS, "is opened: " if relayed else stops)


SHARED = "secure_sum.keys=clients"
CASES = (
    _case("secure_sum=ckks", relayed=True),
    _case("secure_sum=ckks", SHARED, relayed=True),
    _case("secure_sum=bfv", relayed=True),
    _case("secure_sum=pad", relayed=True),
    _case("secure_sum=ckks", relayed=False, stops="keyholder did not seal this box"),
    _case("secure_sum=ckks", SHARED, relayed=False, stops="client/0 did not seal this box"),
    _case("secure_sum=bfv", relayed=False, stops="keyholder did not seal this box"),
    _case("secure_sum=pad", relayed=False, stops=f"{VICTIM} did not authenticate this"),
)
