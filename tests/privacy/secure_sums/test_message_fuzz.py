"""Damaged messages of every stage, to the server and to all other roles: refused by name, or harmless."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from privacy.errors import PrivacyRefusal, ProtocolError
from privacy.secure_sums.contract import Exchange, Records, Value
from privacy.secure_sums.secagg.protocol import SecAggSum
from privacy.secure_sums.signed_replies import reply_header, signed, verified
from privacy.testing.contract import assert_sum, vectors
from privacy.testing.harness import MemoryStore, spec_of
from tests.privacy.secure_sums.he.opened_rounds import BOUND, COUNT, HOLDERS, LENGTH, SUMS, Recorded, recorded
from tests.privacy.secure_sums.he.setups import generator

OTHERS: list[Value] = [
    b"",
    b"\x00" * 32,
    "",
    "client/0,client/0",
    "keyholder",
    -1,
    2**70,
    float("nan"),
    np.zeros(0, np.float32),
    np.zeros((2, 2)),
    np.full(LENGTH + 1, np.nan),
    np.full(LENGTH + 1, 7, np.int64),
]
CASES = 2_000
TRIES = 40
MADE = [
    *(pytest.param(partial(made, keys, BOUND), id=f"{made.name}-{keys}") for made in SUMS for keys in HOLDERS),
    pytest.param(partial(SecAggSum, COUNT, bound=BOUND), id="secagg"),
]
REPLYING = [one for one in MADE if "keyholder" not in one.id]


def mutated(records: Records, draw: np.random.Generator) -> Records:
    """One record gone, doubled under another name, of another kind, or damaged."""
    changed = dict(records)
    name = str(draw.choice(sorted(changed))) if changed else "more"
    value = changed.get(name)
    kind = draw.integers(5)
    if kind == 0:
        changed.pop(name, None)
    elif kind == 1:
        changed[name + "s"] = changed.pop(name, b"")
    elif kind == 2 or value is None:
        changed[name] = OTHERS[int(draw.integers(len(OTHERS)))]
    else:
        changed[name] = damaged(value, draw)
    return changed


def damaged(value: Value, draw: np.random.Generator) -> Value:
    if isinstance(value, np.ndarray):
        other = value.view(np.uint8).copy()
        other[int(draw.integers(len(other)))] ^= 1 << int(draw.integers(8))
        return other.view(value.dtype)[: len(value) - int(draw.integers(2))]
    data = damage(value if isinstance(value, bytes) else str(value).encode(), draw)
    return data if isinstance(value, bytes) else data.decode("latin-1")


def damage(data: bytes, draw: np.random.Generator) -> bytes:
    at = int(draw.integers(len(data))) if data else 0
    kind = draw.integers(3)
    if kind == 0 or not data:
        return data[:at]
    if kind == 1:
        return data + draw.bytes(1 + int(draw.integers(40)))
    return data[:at] + bytes([data[at] ^ (1 << int(draw.integers(8)))]) + data[at + 1 :]


class Damaged(Recorded):
    """Damaged messages before each honest message to a role: effects are counted, and the role is then restored."""

    draw: np.random.Generator
    lines: list[str]

    def serve(self, exchange: Exchange) -> None:
        for address, honest in exchange.outbox.items():
            for _ in range(TRIES):
                self.try_(exchange.stage, address, mutated(honest, self.draw))
        super().serve(exchange)

    def try_(self, stage: str, address: str, records: Records) -> None:
        me = self.party(address)
        store = MemoryStore()
        store.values = dict(me.credentials.store.values)
        spared = replace(me, memory=dict(me.memory), credentials=replace(me.credentials, store=store))
        try:
            self.secure_sum.respond(stage, records, spared, lambda: self.vectors[address])
        except (ProtocolError, PrivacyRefusal) as error:
            self.lines.append(str(error))


@pytest.mark.parametrize("made", MADE)
def test_damaged_requests_crash_nobody_and_change_no_sum(made):
    secure_sum = made()
    round_ = Damaged(secure_sum, spec_of(LENGTH, COUNT, 2), vectors(COUNT, LENGTH))
    round_.draw = generator("requests", secure_sum.name, *secure_sum.parties.roles)
    round_.lines = []
    total = round_.run()
    assert_sum(total, round_.vectors, secure_sum)
    assert len(round_.lines) > 100
    assert all(line.isprintable() and len(line) < 400 for line in round_.lines)


@pytest.mark.parametrize("made", REPLYING)
def test_no_damaged_reply_is_taken_for_its_senders(made):
    """The server's check before the protocol refuses each damaged reply, and names its sender."""
    round_ = recorded(made())
    draw = generator("replies", round_.secure_sum.name)
    replies = [(stage, address, reply) for stage, address, _, reply in round_.passed]
    for case in range(CASES // len(REPLYING)):
        stage, address, reply = replies[case % len(replies)]
        me = round_.party(address)
        header = reply_header(me.run, me.round, me.attempt, stage, address)
        honest = signed(reply, me, stage)
        assert verified(honest, me.credentials.roster, header) == reply if case < len(replies) else True
        spoilt = mutated(honest, draw)
        with pytest.raises(ProtocolError, match=address):
            verified(spoilt, me.credentials.roster, header)
