"""Recorded rounds of CrypTen's sum, altered records of them, and the answers of fresh parties to these."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from privacy.addresses import Address
from privacy.errors import FedveilError, PrivacyRefusal
from privacy.secure_sums.contract import Exchange, Participant, Records
from privacy.secure_sums.mpc.agreement import manifest_bytes
from privacy.secure_sums.mpc.protocol import CryptenSum
from privacy.testing import party_threads
from privacy.testing.contract import vectors
from privacy.testing.harness import UPDATE_BOUND, MemoryStore, Round, spec_of

COUNT = 4
LENGTH = 30
PARTIES = 3
MINIMUM = 2
ROLES = ("party/0", "party/1", "party/2")
SUM = CryptenSum(PARTIES, UPDATE_BOUND)
REPORT = {"digest", "left out"}


@dataclass
class Recorded(Round):
    """A round that keeps the records sent to each role, and its reply."""

    passed: dict[tuple[str, Address], tuple[Records, Records]] = field(default_factory=dict)

    def respond(self, exchange: Exchange, address: Address) -> Records:
        records = super().respond(exchange, address)
        self.passed[exchange.stage, address] = exchange.outbox[address], records
        return records

    @property
    def handed(self) -> dict[Address, dict]:
        """The records sent to each party."""
        return {role: dict(self.passed["reveal", role][0]) for role in ROLES}

    def uploads(self) -> dict[Address, Records]:
        return {address: reply for (stage, address), (_, reply) in self.passed.items() if stage == "share"}


def recorded(secure_sum: CryptenSum = SUM, count: int = COUNT, length: int = LENGTH) -> Recorded:
    round_ = Recorded(secure_sum, spec_of(length, count, MINIMUM), vectors(count, length))
    round_.run()
    return round_


Change = Callable[[Participant], Participant]
Outcome = Records | FedveilError


def reveal(
    round_: Recorded,
    handed: Mapping[Address, Records],
    change: Change = lambda me: me,
    patience_s: float = party_threads.PATIENCE_S,
) -> dict[str, Outcome]:
    """The answer of each fresh party; `change` alters the parties."""
    round_.peers = party_threads.peers_among(ROLES, patience_s)

    def respond(address: Address, me: Participant) -> Outcome:
        try:
            return round_.secure_sum.respond("reveal", handed[address], me, lambda: pytest.fail("trained"))
        except FedveilError as error:
            return error

    parties = {role: change(fresh(round_.party(role))) for role in ROLES}
    futures = [
        party_threads.submit(PARTIES, index, respond, role, parties[role])
        for index, role in enumerate(ROLES)
        if role in handed
    ]
    return dict(zip(handed, (future.result() for future in futures), strict=True))


def fresh(me: Participant) -> Participant:
    return replace(me, credentials=replace(me.credentials, store=MemoryStore()))


def assert_refused(outcomes: Mapping[str, Outcome], party: Address, error: type[Exception], match: str) -> None:
    """Assert that one party refuses for a reason, and the others because it told them."""
    assert isinstance(outcomes[party], error), outcomes
    assert match in str(outcomes[party])
    for other in set(outcomes) - {party}:
        assert isinstance(outcomes[other], PrivacyRefusal), outcomes
        assert str(outcomes[other]).startswith(f"{party}: "), outcomes
        assert match in str(outcomes[other])


def flipped(value: bytes, place: int = 40) -> bytes:
    return value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :]


def without(records: Records, client: Address) -> Records:
    names = str(records["contributors"]).split(",")
    place = names.index(client)
    size = manifest_bytes(PARTIES)
    manifests = records["manifests"][: size * place] + records["manifests"][size * (place + 1) :]
    kept = {name: value for name, value in records.items() if name != client}
    return {**kept, "contributors": ",".join(n for n in names if n != client), "manifests": manifests}


def round_used(round_: Recorded, *roles: Address) -> Change:
    """A round whose parties keep the stores with which they have answered."""

    def change(me: Participant) -> Participant:
        store = round_.stores[me.address] if me.address in roles else me.credentials.store
        return replace(me, credentials=replace(me.credentials, store=store))

    return change


def assert_left_out(round_: Recorded, outcomes: Mapping[str, Outcome], client: Address, told: dict[str, str]) -> None:
    """Assert that all parties open the sum of the others; the parties that know the reason report it."""
    exact = np.sum([v.astype(np.float64) for name, v in round_.vectors.items() if name != client], axis=0)
    assert np.abs(outcomes["party/0"]["sum"] - exact).max() <= COUNT * 2**-17
    assert client not in outcomes["party/0"]["contributors"].split(",")
    assert len({outcome["digest"] for outcome in outcomes.values()}) == 1
    assert {role: outcome["left out"] for role, outcome in outcomes.items() if outcome["left out"]} == told


def again(round_: Recorded, client: Address) -> Records:
    """The upload of a client asked again in the same attempt."""
    round_.stages.append("share")  # so that its randomness is another
    return SUM.respond("share", {}, round_.party(client), lambda: round_.vectors[client])


def replaced(records: Records, client: Address, upload: Records, party: Address) -> Records:
    size = manifest_bytes(PARTIES)
    place = str(records["contributors"]).split(",").index(client)
    manifests = records["manifests"]
    manifests = manifests[: size * place] + upload["manifest"] + manifests[size * (place + 1) :]
    return {**records, client: upload[party], "manifests": manifests}
