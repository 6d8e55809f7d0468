import os
import signal
import socket
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from privacy.errors import ConfigError, RuntimeFailure
from privacy.secure_sums.meeting import Meeting
from privacy.secure_sums.mpc.aggregates.by_name import named
from privacy.secure_sums.mpc.crypten.party import serve_dealer, start
from tests.privacy.secure_sums.mpc.committee import PATIENCE_S, Committee, pair_keys, shared

CONTRIBUTIONS = np.array([[1, -2, 3, 1], [40, 50, -60, 1]], np.int64)
QUICK_S = 8.0


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    """Reset this process, which other tests make a party."""
    monkeypatch.setattr("privacy.secure_sums.mpc.crypten.party._meter", None)


def multiplied(shares):
    """Products of every kind, in a party."""
    from privacy.secure_sums.mpc.crypten import bit_circuits as mpc_circuits
    from privacy.secure_sums.mpc.crypten import party as crypten_party

    with crypten_party.computing():
        share = torch.from_numpy(shares)
        product = mpc_circuits.opened(mpc_circuits.product(share, share))
        square = mpc_circuits.opened(mpc_circuits.squared(share))
        matrix = mpc_circuits.opened(mpc_circuits.matrix_product(share, share.T.contiguous()))
    return product.numpy(), square.numpy(), matrix.numpy()


def opened(shares):
    from privacy.secure_sums.mpc.crypten import bit_circuits as mpc_circuits
    from privacy.secure_sums.mpc.crypten import party as crypten_party

    with crypten_party.computing():
        return mpc_circuits.opened(torch.from_numpy(shares)).numpy()


def zero_share(size):
    from privacy.secure_sums.mpc.crypten.compat import ArithmeticSharedTensor

    return ArithmeticSharedTensor.PRZS((size,)).share.numpy()


def spent_on(shares):
    from privacy.secure_sums.mpc.crypten import party as crypten_party

    crypten_party.spent()
    opened(shares)
    return crypten_party.spent(), crypten_party.spent()


def dealer_spent_on(shares, rank):
    """The dealer's expenditure on products of every kind, as reported to party 0."""
    from privacy.secure_sums.mpc.crypten import party as crypten_party

    if rank != 0:
        return multiplied(shares) and None
    crypten_party.dealer_spent()
    multiplied(shares)
    return crypten_party.dealer_spent()


# ---- results


@pytest.mark.slow
def test_products_are_exact_modulo_2_to_the_64(committee):
    values = np.random.default_rng(1).integers(-(2**63), 2**63, (3, 4), np.int64)
    expected = values * values, values * values, values @ values.T
    for results in committee.call(multiplied, [(own,) for own in shared(values, committee.parties)]):
        for found, wanted in zip(results, expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.slow
def test_zero_shares_come_to_zero(committee):
    shares = committee.call(zero_share, [(50,)] * committee.parties)
    assert not sum(shares).any()
    assert all(len(np.unique(share)) == 50 for share in shares)


@pytest.mark.slow
def test_traffic_is_counted_as_the_ring_sends_it(committee):
    shares = shared(np.zeros(3000, np.int64), committee.parties)
    for used, after in committee.call(spent_on, [(own,) for own in shares]):
        assert used.bytes == 8 * 3000 * 4 * (committee.parties - 1) // committee.parties
        assert used.rounds == 1
        assert used.communication_s > 0
        assert (after.bytes, after.rounds, after.communication_s) == (0, 0, 0.0)


@pytest.mark.slow
def test_the_dealer_sends_a_word_a_product(committee):
    shares = shared(np.ones((3, 4), np.int64), committee.parties)
    first, *others = committee.call(dealer_spent_on, [(own, rank) for rank, own in enumerate(shares)])
    assert 8 * (12 + 12 + 9) < first.bytes < 8 * (12 + 12 + 9) + 2000  # and the requests
    assert set(others) == {None}


@pytest.mark.slow
def test_they_listen_on_the_loopback_alone(committee):
    listening = {
        connection.laddr.ip
        for process in committee.processes
        for connection in psutil.Process(process.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


# ---- refused peers


def meeting_of(parties: int, **options) -> Meeting:
    return Meeting(tuple(f"party/{rank}" for rank in range(parties)), QUICK_S / 0.75, dealer="dealer", **options)


def test_a_tunnel_is_an_interface_of_this_machine():
    meeting = meeting_of(2, rendezvous="tcp://192.168.0.7:80", tunnel="wg99")
    with pytest.raises(ConfigError, match=r"secure_sum\.tunnel=wg99: is not a network interface of this machine: .*lo"):
        serve_dealer(meeting, Path(), pair_keys(2, 2))


def test_nobody_computes_before_it_has_started():
    with pytest.raises(AssertionError, match="no party"):
        opened(CONTRIBUTIONS)


@pytest.fixture
def quick_committee():
    """Committees with short time limits, always ended after the test."""
    made = []

    def make(parties: int, **options) -> Committee:
        made.append(Committee(parties, QUICK_S, **options))
        return made[-1]

    yield make
    for committee in made:
        committee.close()


def crossed_keys(rank: int, parties: int) -> dict[int, bytes]:
    """Parties 1 and 2 hold different keys for their pair."""
    return pair_keys(rank, parties) | ({2: bytes(32)} if rank == 1 else {})


def key_for_another_dealer(rank: int, parties: int) -> dict[int, bytes]:
    return pair_keys(rank, parties) | ({parties: bytes(32)} if rank == 1 else {})


@pytest.mark.slow
@pytest.mark.parametrize("keys", [crossed_keys, key_for_another_dealer])
def test_parties_with_different_keys_do_not_start(quick_committee, keys):
    for answer in quick_committee(3, keys=keys).started():
        assert isinstance(answer, RuntimeFailure)
        assert "hold different pair keys" in str(answer)


@pytest.mark.slow
def test_without_a_dealer_they_add_and_do_not_multiply(quick_committee):
    committee = quick_committee(2, dealer=False)
    assert committee.started() == [True, True]
    np.testing.assert_array_equal(committee.reveal(named("sum"), CONTRIBUTIONS, 0), [41, 48, -57, 2])
    with pytest.raises(AssertionError, match="this aggregate multiplies, and there is no dealer"):
        committee.call(multiplied, [(own,) for own in shared(CONTRIBUTIONS, 2)])


@pytest.mark.slow
def test_party_0_deals_where_that_is_asked_for(quick_committee):
    committee = quick_committee(3, dealer=False, insecure_provider=True)
    assert committee.started() == [True] * 3
    median = committee.reveal(named("median"), np.array([[7, 1], [-9, 1], [3, 1]], np.int64), 0)
    np.testing.assert_array_equal(median, [9, 3])


@pytest.mark.slow
def test_a_session_draws_nothing_that_one_before_drew(quick_committee, tmp_path):
    """They meet in a file, too."""
    drawn = []
    for session in range(2):
        private = tmp_path / str(session)
        private.mkdir()
        committee = quick_committee(2, private=private)
        assert committee.started() == [True, True]
        drawn.append(committee.call(zero_share, [(50,)] * 2)[0])
    assert not np.isin(*drawn).any()


@pytest.mark.slow
def test_nothing_ends_while_nobody_asks_and_all_end_when_they_stop(quick_committee):
    """A round may take longer to come than a peer may take to answer."""
    committee = quick_committee(2)
    assert committee.started() == [True, True]
    time.sleep(QUICK_S + 2)
    arguments = [(own,) for own in shared(CONTRIBUTIONS, 2)]
    for product, *_ in committee.call(multiplied, arguments):
        np.testing.assert_array_equal(product, CONTRIBUTIONS**2)
    for pipe in committee.pipes[:2]:
        pipe.send(None)
    for process in committee.processes:
        process.join(PATIENCE_S)
        assert process.exitcode == 0


# ---- lost parties


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0, 1, 2])
def test_whoever_does_not_come_ends_the_start(quick_committee, missing):
    """Party 0, where all meet; another; the dealer."""
    committee = quick_committee(2, missing=missing)
    for rank in {0, 1} - {missing}:
        answer = committee.answer(rank)
        assert isinstance(answer, RuntimeFailure)
        assert f"party/{rank} could not join the other parties" in str(answer)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize(("parties", "who"), [(2, 0), (3, 1), (2, 2)], ids=["party 0", "party 1", "dealer"])
def test_whoever_dies_or_stalls_ends_the_others_with_an_error(quick_committee, how, parties, who):
    committee = quick_committee(parties)
    assert committee.started() == [True] * parties
    os.kill(committee.processes[who].pid, how)
    others = {rank: (own,) for rank, own in enumerate(shared(CONTRIBUTIONS, parties)) if rank != who}
    for rank, arguments in others.items():
        committee.pipes[rank].send((multiplied, arguments))
    for rank in others:
        answer = committee.answer(rank)
        assert isinstance(answer, RuntimeFailure)
        named = "the dealer ended, or did not answer" if (who, rank) == (parties, 0) else f"party/{rank} lost another"
        assert named in str(answer)
    for rank, arguments in others.items():
        committee.pipes[rank].send((opened, arguments))
        assert "no party" in str(committee.answer(rank))
    if how == signal.SIGSTOP:
        committee.processes[who].kill()
    dealer = committee.processes[-1]
    dealer.join(PATIENCE_S)
    assert dealer.exitcode == (1 if who < parties else -signal.SIGKILL)


def test_a_port_that_is_taken_is_an_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RuntimeFailure, match="in use"):
            start(0, meeting_of(2, rendezvous=f"tcp://127.0.0.1:{taken.getsockname()[1]}"), Path(), pair_keys(0, 2))
