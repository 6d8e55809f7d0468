"""A roster relayed by the server: its members proved their keys, and a role keeps the first roster it accepts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import pytest

from privacy.addresses import Address
from privacy.errors import BadSignature, ConfigError, MalformedContribution, PrivacyRefusal, ProtocolError
from privacy.randomness import OsRandomness
from privacy.sealing import Header, Identity, Roster
from privacy.secure_sums.contract import Contribution, Credentials, Exchange, Participant, Records
from privacy.secure_sums.in_memory import InMemory
from privacy.secure_sums.plain import PlainSum
from privacy.secure_sums.relayed_roster import HAND_OUT, INTRODUCE, RelayedRoster
from privacy.secure_sums.signed_replies import SIGNATURE, reply_header, signed, verified
from privacy.testing.harness import ATTEMPT, RUN, MemoryStore, identity_of, spec_of

EVERYBODY = ("client/0", "client/1", "keyholder")
PROTOCOL = RelayedRoster(EVERYBODY)
ROSTER = Roster({address: identity_of(address).public for address in EVERYBODY})

Meddle = Callable[[str, Address, Records], Records]


def party(
    address: Address, identity: Identity | None = None, store: MemoryStore | None = None, **changes
) -> Participant:
    """A role before it has a roster."""
    own = identity or identity_of(address)
    known = Roster({address: own.public})
    credentials = Credentials(own, known, store or MemoryStore())
    roles = InMemory(
        PlainSum(), spec_of(3, 2), {}, known={address: credentials}, run_hash=RUN, attempt=ATTEMPT, number=0
    )
    return replace(roles.party(address), **changes)


@dataclass
class Relayed(InMemory):
    """The roles of the exchange of rosters, and somebody on the wire."""

    parties: Mapping[Address, Participant] = field(default_factory=dict)
    meddle: Meddle = lambda stage, address, reply: reply

    def party(self, address: Address) -> Participant:
        return self.parties[address]

    def answer(self, stage: str, request: Records, me: Participant, contribution: Contribution) -> Records:
        return PROTOCOL.respond(stage, request, me)

    def to_server(self, exchange: Exchange, address: Address, reply: Records) -> Records:
        return self.meddle(exchange.stage, address, reply)


def drive(parties: Mapping[Address, Participant], meddle: Meddle = lambda stage, address, reply: reply) -> Roster:
    """The protocol to its end, as a transport drives it: a role that refuses, or is refused, has dropped out."""
    relayed = Relayed(PlainSum(), spec_of(3, 2), {}, parties=parties, meddle=meddle)
    return relayed.drive(PROTOCOL.flow(RUN, 0, ATTEMPT))


def take(me: Participant, roster: Roster) -> Records:
    return PROTOCOL.respond(HAND_OUT, {"roster": roster.to_bytes()}, me)


def with_keys(address: Address, public) -> Roster:
    return Roster({**{other: ROSTER[other] for other in ROSTER}, address: public})


# ---- members


def test_everybody_gets_a_roster_of_everybodys_own_keys():
    parties = {address: party(address) for address in EVERYBODY}
    assert drive(parties).to_bytes() == ROSTER.to_bytes()
    for me in parties.values():
        assert me.own.store.get("roster") == ROSTER.to_bytes()


def test_no_private_key_is_in_an_introduction():
    reply = PROTOCOL.respond(INTRODUCE, {}, party("client/0"))
    said = b"".join(value for value in reply.values() if isinstance(value, bytes))
    secret = identity_of("client/0").to_bytes()
    assert not any(part in said or part.hex().encode() in said for part in (secret[:32], secret[32:]))
    assert set(reply) == {"keys", SIGNATURE}


def altered(change: Callable[[Records], Records], stage: str = INTRODUCE) -> Meddle:
    return lambda at, address, reply: change(reply) if (at, address) == (stage, "client/1") else reply


def of(me: Participant) -> Meddle:
    """The introduction of another role, or from another run, in client/1's place."""
    return altered(lambda _: PROTOCOL.respond(INTRODUCE, {}, me))


def keys_of_another(_: Records) -> Records:
    """Client/1 claims keys without their private parts."""
    victim = Identity.generate(OsRandomness()).public
    return signed({"keys": Roster({"client/1": victim}).to_bytes()}, party("client/1"), INTRODUCE)


def half_of_another(_: Records) -> Records:
    """Its own signing key, with an exchange key that it did not sign for."""
    mine = identity_of("client/1").public
    other = Identity.generate(OsRandomness()).public
    reply = PROTOCOL.respond(INTRODUCE, {}, party("client/1"))
    mixed = Roster({"client/1": type(mine)(mine.signing, other.exchange)})
    return {**reply, "keys": mixed.to_bytes()}


@pytest.mark.parametrize(
    "meddle",
    [
        altered(keys_of_another),
        altered(half_of_another),
        altered(lambda reply: {"keys": reply["keys"]}),
        altered(lambda reply: {**reply, "keys": ROSTER.to_bytes()}),
        altered(lambda reply: {**reply, "keys": b"{}"}),
        altered(lambda reply: {**reply, "keys": b"no roster"}),
        altered(lambda reply: {SIGNATURE: reply[SIGNATURE]}),
        of(party("client/0")),
        of(party("client/1", attempt="another")),
        of(party("client/1", run="cd" * 32)),
        of(party("client/1", round=1)),
    ],
)
def test_keys_without_a_proof_for_this_very_message_end_it(meddle):
    stores = {address: MemoryStore() for address in EVERYBODY}
    with pytest.raises(PrivacyRefusal, match=r"^client/1 gave no public keys of its own$"):
        drive({address: party(address, store=stores[address]) for address in EVERYBODY}, meddle)
    assert not any(store.values for store in stores.values())


def test_the_proof_is_bound_to_configuration_attempt_and_address():
    reply = PROTOCOL.respond(INTRODUCE, {}, party("client/1"))
    mine = Roster({"client/1": identity_of("client/1").public})
    verified(reply, mine, Header("reply", RUN, 0, ATTEMPT, "introduce", "client/1", "server"))
    for other in (("cd" * 32, 0, ATTEMPT, INTRODUCE), (RUN, 0, "x", INTRODUCE), (RUN, 0, ATTEMPT, HAND_OUT)):
        with pytest.raises(BadSignature):
            verified(reply, mine, reply_header(*other, "client/1"))


def test_two_roles_with_one_folder_are_refused():
    parties = {address: party(address) for address in EVERYBODY}
    parties["client/1"] = party("client/1", identity_of("client/0"))
    with pytest.raises(ConfigError, match=r"^roster=client/1: has a key of client/0; each role makes its own$"):
        drive(parties)


@pytest.mark.parametrize("change", [lambda reply: {}, lambda reply: {SIGNATURE: bytes(64)}])
def test_who_does_not_sign_that_it_took_the_roster_ends_it(change):
    with pytest.raises(PrivacyRefusal, match=r"^client/1 did not take the roster$"):
        drive({address: party(address) for address in EVERYBODY}, altered(change, HAND_OUT))


# ---- acceptance by a role


def test_the_first_is_kept_and_the_same_one_taken_again():
    store = MemoryStore()
    take(party("client/0", store=store), ROSTER)
    take(party("client/0", store=store, attempt="another"), ROSTER)
    assert store.values == {"roster": ROSTER.to_bytes()}


def test_another_one_later_is_refused_and_says_whose_keys_are_new():
    store = MemoryStore()
    take(party("client/0", store=store), ROSTER)
    other = with_keys("keyholder", Identity.generate(OsRandomness()).public)
    with pytest.raises(PrivacyRefusal) as refusal:
        take(party("client/0", store=store, attempt="another"), other)
    assert str(refusal.value) == (
        "the roster from the server has other keys of keyholder than the first one for this configuration, "
        "which client/0 keeps: bring those keys back, or start anew under another seed"
    )
    assert store.values == {"roster": ROSTER.to_bytes()}


@pytest.mark.parametrize("half", ["signing", "exchange", "both"])
def test_a_roster_in_which_its_own_keys_are_not_its_own_is_refused(half):
    mine = identity_of("client/0").public
    other = Identity.generate(OsRandomness()).public
    signing = mine.signing if half == "exchange" else other.signing
    exchange = mine.exchange if half == "signing" else other.exchange
    me = party("client/0")
    with pytest.raises(PrivacyRefusal, match=r"^the roster from the server has keys of client/0 that are not its own"):
        take(me, with_keys("client/0", type(mine)(signing, exchange)))
    assert me.own.store.get("roster") is None


@pytest.mark.parametrize(
    "listed", [EVERYBODY[:2], EVERYBODY[1:], (*EVERYBODY, "client/2"), (*EVERYBODY[:2], "client/2")]
)
def test_a_roster_of_others_is_refused(listed):
    me = party("client/0")
    with pytest.raises(ProtocolError, match=r"^the roster has .*, and not client/0, client/1, keyholder$"):
        take(me, Roster({address: identity_of(address).public for address in listed}))
    assert me.own.store.get("roster") is None


@pytest.mark.parametrize("inbound", [{}, {"roster": "text"}, {"roster": b""}, {"roster": ROSTER.to_bytes() + b" "}])
def test_what_is_no_roster_is_refused(inbound):
    with pytest.raises(MalformedContribution):
        PROTOCOL.respond(HAND_OUT, inbound, party("client/0"))


def test_there_are_no_other_stages():
    with pytest.raises(ProtocolError, match="no stage is called collect"):
        PROTOCOL.respond("collect", {}, party("client/0"))
