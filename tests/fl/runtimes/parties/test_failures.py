"""Named failures of a round whose parties are processes: killed, hanging, lying, or unable to meet."""

import os
import signal
import socket

import pytest
import torch

from privacy.errors import ConfigError, FedveilError, PrivacyRefusal, RuntimeFailure
from tests.composed import rows_in, run_with_set_up, state_in
from tests.fl.runtimes.parties.runs import CRYPTEN, NOT_REVEALED, SEEDED, faulty, in_round, parties


@pytest.mark.slow
def test_a_party_that_is_killed_ends_the_run_which_goes_on_from_there(tmp_path, monkeypatch):
    in_round(monkeypatch, 2, lambda: os.kill(parties()[1].pid, signal.SIGKILL))
    with pytest.raises(RuntimeFailure, match=r"^the process of party/1 died$"):
        run_with_set_up(tmp_path, *CRYPTEN, SEEDED)
    assert not parties()
    monkeypatch.undo()
    assert state_in(tmp_path / "checkpoints").round == 1
    again = run_with_set_up(tmp_path, *CRYPTEN, SEEDED)
    assert torch.equal(again.weights_D, run_with_set_up(tmp_path / "whole", *CRYPTEN, SEEDED).weights_D)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("stop", PrivacyRefusal, f"{NOT_REVEALED}party/1 dropped out: no answer within secure_sum.timeout_s=12"),
        ("stop inside", PrivacyRefusal, f"{NOT_REVEALED}party/1 dropped out: no answer within secure_sum.timeout_s=12"),
        ("kill", RuntimeFailure, "the process of party/1 died"),
        ("kill inside", RuntimeFailure, "the process of party/1 died"),
        ("wrong", PrivacyRefusal, "party/1 revealed a different sum from party/0: one of them is broken"),
        ("box", PrivacyRefusal, "the contribution of client/0 was altered on its way: a box is not the one that its"),
        ("two", PrivacyRefusal, "client/0 gave the parties different sets of boxes"),
    ],
)
def test_a_fault_ends_the_round_with_an_error_that_names_it(tmp_path, fault, error, message):
    with pytest.raises(FedveilError) as failure:
        run_with_set_up(tmp_path, *faulty(fault))
    assert isinstance(failure.value, error)
    assert message in str(failure.value)
    assert "party/1" in str(failure.value)
    assert not parties()
    assert state_in(tmp_path / "checkpoints").round == 1  # round 2 was not used


@pytest.mark.slow
def test_of_three_parties_the_one_that_hangs_is_named_by_the_others(tmp_path):
    with pytest.raises(PrivacyRefusal, match=r"party/2 did not reveal the sum; party/1 dropped out: no answer within"):
        run_with_set_up(tmp_path, *faulty("stop", 3))
    rows = rows_in(tmp_path / "checkpoints")
    assert set(rows.filter(rows["metric"] == "dropped")["where"]) == {"party/0", "party/1", "party/2"}
    assert not parties()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["left out", "manifest"])
def test_a_client_that_one_party_was_not_handed_or_that_did_not_sign_is_left_out_by_all(tmp_path, fault):
    run_with_set_up(tmp_path, *faulty(fault))
    rows = rows_in(tmp_path / "checkpoints")
    survivors = rows.filter(rows["metric"] == "survivors").sort("round")["value"]
    assert survivors.to_list() == [4, 3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ((), RuntimeFailure, "party/0 could not join the other parties: [Errno 98] Address already in use"),
        (
            ("secure_sum.tunnel=none0",),
            ConfigError,
            "secure_sum.tunnel=none0: is not a network interface of this machine: lo",
        ),
    ],
)
def test_a_meeting_that_cannot_be_is_refused_before_anybody_trains(tmp_path, overrides, error, message):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        there = f"secure_sum.rendezvous=tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(error) as failure:
            run_with_set_up(tmp_path, *CRYPTEN, there, *overrides, "secure_sum.timeout_s=4")
    assert message in str(failure.value)
    assert not parties()
