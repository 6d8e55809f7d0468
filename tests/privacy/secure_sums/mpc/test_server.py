"""The server of CrypTen's sum: reports that are wrong, and parties that are missing, are found out."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest

from privacy.addresses import Address
from privacy.errors import PrivacyRefusal, ProtocolError
from privacy.secure_sums.contract import Records
from privacy.secure_sums.mpc.agreement import manifest_bytes
from privacy.secure_sums.mpc.protocol import CryptenSum
from privacy.testing.contract import assert_sum, vectors
from privacy.testing.harness import UPDATE_BOUND, Round, spec_of
from tests.privacy.secure_sums.mpc.recorded_rounds import (
    COUNT,
    LENGTH,
    MINIMUM,
    PARTIES,
    ROLES,
    SUM,
    Recorded,
    recorded,
)


def at_server(change: Callable[[str, Address, Records], Records]) -> Recorded:
    """A round in which the server gets altered records."""

    class Changed(Recorded):
        def respond(self, exchange, address):
            return change(exchange.stage, address, super().respond(exchange, address))

    return Changed(SUM, spec_of(LENGTH, COUNT, MINIMUM), vectors(COUNT, LENGTH))


@pytest.mark.parametrize(
    "changes",
    [{"manifest": b""}, {"manifest": bytes(manifest_bytes(PARTIES))}, {"party/2": b""}, {"party/0": bytes(99)}],
)
def test_a_client_whose_boxes_are_not_those_of_its_manifest_is_left_out(changes):
    round_ = at_server(lambda _, address, records: {**records, **(changes if address == "client/1" else {})})
    total = round_.run()
    assert total.survivors == ("client/0", "client/2", "client/3")
    assert isinstance(round_.refused["client/1"], ProtocolError)
    assert_sum(total, round_.vectors, SUM)


@pytest.mark.parametrize(
    ("party", "changes", "error"),
    [
        ("party/0", {"sum": np.zeros(LENGTH + 1)}, "^party/0 reports a different sum from the one it revealed$"),
        ("party/1", {"digest": bytes(32)}, "^party/1 revealed a different sum from party/0: one of them is broken$"),
        ("party/0", {"contributors": "client/0"}, "^party/0 reports a different sum from the one it revealed$"),
        ("party/0", {"sum": np.full(LENGTH + 1, np.nan)}, "party/0 did not reveal the sum"),
        ("party/0", {"sum": np.zeros(LENGTH)}, "party/0 did not reveal the sum"),
        ("party/2", {"digest": None}, "party/2 did not reveal the sum"),
    ],
)
def test_a_wrong_report_is_found_out(party, changes, error):
    def change(stage, address, records):
        changed = {**records, **changes} if address == party and stage == "reveal" else records
        return {name: value for name, value in changed.items() if value is not None}

    with pytest.raises(PrivacyRefusal, match=error):
        at_server(change).run()


def test_contributors_that_sent_nothing_are_refused():
    flow = SUM.server(["client/0", "client/1"], spec_of(2, 2))
    exchange = next(flow)
    uploads = recorded(count=2, length=2).uploads()
    for address, upload in uploads.items():
        exchange.deliver(address, upload)
    exchange = flow.send(exchange.respondents())
    digest = hashlib.sha256(np.zeros(3).tobytes() + b"client/0,client/7").digest()
    for role in ROLES:
        exchange.deliver(role, {"sum": np.zeros(3), "contributors": "client/0,client/7", "digest": digest})
    with pytest.raises(PrivacyRefusal, match="name contributors that sent nothing"):
        flow.send(exchange.respondents())


@pytest.mark.parametrize("gone", [{"party/1"}, {"party/0", "party/2"}])
def test_parties_that_are_missing_are_named(gone):
    class Without(Round):
        def answers(self, exchange, there):
            if exchange.stage == "reveal":
                return [(role, lambda: {"digest": b"", "sum": np.zeros(5)}) for role in there]
            return super().answers(exchange, there)

    round_ = Without(SUM, spec_of(4, 2), vectors(2, 4), gone={"reveal": gone})
    with pytest.raises(PrivacyRefusal, match=f"^{' and '.join(sorted(gone))} did not reveal the sum$"):
        round_.run()


def test_the_server_waits_for_parties_no_longer_than_it_was_told():
    exchanges = []

    class Noted(Round):
        def serve(self, exchange):
            exchanges.append(exchange)
            super().serve(exchange)

    Noted(CryptenSum(3, UPDATE_BOUND, timeout_s=7.5), spec_of(4, 2), vectors(2, 4)).run()
    assert [(exchange.stage, exchange.timeout_s) for exchange in exchanges] == [("share", None), ("reveal", 7.5)]
