"""No server gets both secrets of a client, its mask's and its pairs', below the printed coalition."""

import itertools
from collections.abc import Mapping

import pytest

from privacy.addresses import Address
from privacy.errors import (
    PrivacyRefusal,
    ProtocolError,
)
from privacy.secure_sums.contract import Participant
from privacy.secure_sums.secagg.keys import SIGNATURE_BYTES, ClosedList, parts
from privacy.secure_sums.secagg.shamir import SHARE_BYTES, combine
from tests.privacy.secure_sums.secagg.rounds import VICTIM, Lying, addresses, copied, ran, ring_neighbours


def gained(round_: Lying, told: Mapping[Address, str], colluding: frozenset[Address]) -> tuple[int, int]:
    """Number of shares of the victim's two secrets for a server that sends each honest client the lists in `told`.

    Colluding clients sign anything, and give all their shares.
    """
    parties = dict[Address, Participant]()
    signed = dict[Address, bytes]()
    for client, survivors in told.items():
        parties[client] = copied(round_.before["confirm", client])
        try:
            reply = round_.again("confirm", client, {"survivors": survivors}, parties[client])
            signed[client] = reply["signed"]
        except (ProtocolError, PrivacyRefusal):
            continue
    seeds = keys = len(colluding)
    for client in signed:
        order = str(round_.passed["unmask", client][0]["signers"]).split(",")
        signatures = {**signed, **{c: forged(round_, c, told[client]) for c in colluding}}
        signers = [name for name in order if name in signatures]
        request = {"signers": ",".join(signers), "signatures": b"".join(signatures[name] for name in signers)}
        try:
            released = round_.again("unmask", client, request, parties[client])["shares"]
        except (ProtocolError, PrivacyRefusal):
            continue
        owners = [client, *ring_neighbours(round_, client)]
        assert len(released) == SHARE_BYTES * len(owners), "one share of each, never two"
        survives = VICTIM in told[client].split(",")
        seeds = seeds + survives
        keys = keys + (not survives)
    return seeds, keys


def forged(round_: Lying, colluding: Address, survivors: str) -> bytes:
    """A signature of a client that obeys the server."""
    party = copied(round_.before["confirm", colluding])
    try:
        return round_.again("confirm", colluding, {"survivors": survivors}, party)["signed"]
    except (ProtocolError, PrivacyRefusal):
        return bytes(SIGNATURE_BYTES)


@pytest.mark.parametrize("count", [5, 6])
def test_no_server_gets_both_secrets_below_the_coalition_and_one_does_at_it(count):
    """Every way to tell some clients that the victim survived and the others that it did not."""
    round_ = ran(count=count)
    bounds = round_.secure_sum._bounds
    plan = round_.secure_sum.plan(count, count)
    everybody = addresses(count)
    there = ",".join(everybody)
    gone = ",".join(name for name in everybody if name != VICTIM)
    for size in (bounds.reading(plan) - 1, bounds.reading(plan)):
        colluding = frozenset(everybody[count - size :])
        others = [name for name in everybody if name not in colluding]
        both = []
        for stories in itertools.product((there, gone), repeat=len(others)):
            seeds, keys = gained(round_, dict(zip(others, stories, strict=True)), colluding)
            both.append(seeds >= plan.threshold and keys >= plan.threshold)
        assert any(both) is (size == bounds.reading(plan))


def test_shares_below_the_threshold_give_neither_secret(honest):
    """Two of five shares of the victim, combined as the server would."""
    holders = [VICTIM, *ring_neighbours(honest, VICTIM)]
    closed = ClosedList.read(honest.memories[VICTIM]["secagg.clients"], honest.memories[VICTIM]["secagg.public"])
    order = honest.secure_sum.ring(closed, honest.spec).holders(VICTIM)
    shares = {}
    for other in holders[1:]:
        party = honest.before["unmask", other]
        owners = ring_neighbours(honest, other)
        pair = list(parts(party.memory["secagg.shares"], 64))[owners.index(VICTIM)]
        shares[order.index(other) + 1] = pair[SHARE_BYTES:]
    key = honest.before["unmask", VICTIM].memory["secagg.keys"][:32]
    assert combine(shares, 5) == key
    assert combine(dict(list(shares.items())[:3]), 5) == key
    for few in itertools.combinations(shares.items(), 2):
        assert combine(dict(few), 5) != key
