"""CrypTen's parties as processes: results, costs, listening addresses, and named failures of a round."""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from fl import participant, runtimes
from fl.checkpoint import Checkpoints, State
from fl.keys import folders as keys
from fl.server import Errand, Server
from fl.workspace import Workspace
from privacy.errors import ConfigError, FedveilError, PrivacyRefusal, RunRefused, RuntimeFailure
from tests.composed import canonical, workspace_of

CRYPTEN = ("secure_sum=crypten", "secure_sum.parties=2")
SEEDED = "noise=seeded"


def run(folder: Path, *overrides: str) -> State:
    """Run to the end, set-up included, as from the command line."""
    work = Workspace(canonical(*overrides))
    runtimes.run(work, folder, Errand(folder / "checkpoints"))
    return ended(folder)


def ended(folder: Path) -> State:
    state = Checkpoints(folder / "checkpoints", 2).latest()
    assert state is not None
    return state


def parties() -> list[psutil.Process]:
    """The party processes of this process, in their order."""
    children = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
    return sorted(children, key=lambda child: child.pid)


def in_round(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Call a function when a round begins."""
    original = Server.aggregate

    def act_then_aggregate(self, asked, cohort):
        if asked == number:
            act()
        return original(self, asked, cohort)

    monkeypatch.setattr(Server, "aggregate", act_then_aggregate)


def test_a_run_ends_where_the_plain_one_does_and_its_parties_tell_their_costs(tmp_path, monkeypatch):
    """And they listen on loopback alone, and are gone at the end."""
    listening: list[set[str]] = []
    in_round(monkeypatch, 2, lambda: listening.extend(map(addresses, parties())))
    tolerance = workspace_of(*CRYPTEN).tolerance
    found = run(tmp_path / "run", *CRYPTEN)
    plain = run(tmp_path / "plain")
    assert 0 < (found.weights_D - plain.weights_D).abs().max() < 100 * tolerance
    assert listening == [{"127.0.0.1"}] * 2
    assert not parties()
    rows = Checkpoints(tmp_path / "run" / "checkpoints", 2).rows()
    for party in ("party/0", "party/1"):
        own = rows.filter((rows["where"] == party) & (rows["round"] == 2))
        told = {(stage, metric): value for stage, metric, value in own.select("stage", "metric", "value").iter_rows()}
        assert told["peers", "comm_rounds"] == 3  # lists, sets, and CrypTen's reduction
        # 651 words of eight bytes there and back, and two signed messages
        assert 0 < told["peers", "comm_bytes"] - 2 * 8 * 651 < 2000
        assert told["protect", "cpu"] > 0
        assert 0 < told["peers", "comm_wall"] <= told["protect", "wall"]
        assert told["reveal", "down_bytes"] > 0


def addresses(process: psutil.Process) -> set[str]:
    """The addresses on which a process accepts connections."""
    return {c.laddr.ip for c in process.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN}


@pytest.mark.slow
def test_a_party_that_is_killed_ends_the_run_which_goes_on_from_there(tmp_path, monkeypatch):
    in_round(monkeypatch, 2, lambda: os.kill(parties()[1].pid, signal.SIGKILL))
    with pytest.raises(RuntimeFailure, match=r"^the process of party/1 died$"):
        run(tmp_path, *CRYPTEN, SEEDED)
    assert not parties()
    monkeypatch.undo()
    assert ended(tmp_path).round == 1
    again = run(tmp_path, *CRYPTEN, SEEDED)
    assert torch.equal(again.weights_D, run(tmp_path / "whole", *CRYPTEN, SEEDED).weights_D)


def faulty(fault: str, count: int = 2) -> tuple[str, ...]:
    """The overrides for a fault in round 2."""
    target = "secure_sum._target_=tests.outside.faulty_parties.FaultySum"
    patience = "secure_sum.timeout_s=" + ("12" if "stop" in fault else "120")
    witness = f"witness={str(fault != 'two').lower()}"  # a client that cheats does without
    return (
        "secure_sum=crypten",
        f"secure_sum.parties={count}",
        target,
        f"+secure_sum.fault='{fault}'",
        patience,
        witness,
    )


NOT_REVEALED = "party/0 and party/1 did not reveal the sum; "


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
        run(tmp_path, *faulty(fault))
    assert isinstance(failure.value, error)
    assert message in str(failure.value)
    assert "party/1" in str(failure.value)
    assert not parties()
    assert ended(tmp_path).round == 1  # round 2 was not used


@pytest.mark.slow
def test_of_three_parties_the_one_that_hangs_is_named_by_the_others(tmp_path):
    with pytest.raises(PrivacyRefusal, match=r"party/2 did not reveal the sum; party/1 dropped out: no answer within"):
        run(tmp_path, *faulty("stop", 3))
    rows = Checkpoints(tmp_path / "checkpoints", 2).rows()
    assert set(rows.filter(rows["metric"] == "dropped")["where"]) == {"party/0", "party/1", "party/2"}
    assert not parties()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["left out", "manifest"])
def test_a_client_that_one_party_was_not_handed_or_that_did_not_sign_is_left_out_by_all(tmp_path, fault):
    run(tmp_path, *faulty(fault))
    rows = Checkpoints(tmp_path / "checkpoints", 2).rows()
    survivors = rows.filter(rows["metric"] == "survivors").sort("round")["value"]
    assert survivors.to_list() == [4, 3]


@pytest.mark.slow
def test_parties_meet_where_they_are_told_to_and_nowhere_else(tmp_path, monkeypatch):
    listening: list[set[str]] = []
    in_round(monkeypatch, 1, lambda: listening.extend(map(addresses, parties())))
    run(tmp_path, *CRYPTEN, f"secure_sum.rendezvous=tcp://127.0.0.1:{free_port()}", "rounds=1")
    assert listening == [{"127.0.0.1"}] * 2


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
            run(tmp_path, *CRYPTEN, there, *overrides, "secure_sum.timeout_s=4")
    assert message in str(failure.value)
    assert not parties()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest.mark.slow
def test_weights_are_the_same_however_many_parties_and_workers(tmp_path):
    states = [
        run(tmp_path / str(index), "secure_sum=crypten", *overrides, SEEDED)
        for index, overrides in enumerate([("secure_sum.parties=2",), ("secure_sum.parties=5", "runtime.workers=2")])
    ]
    assert torch.equal(states[0].weights_D, states[1].weights_D)


@pytest.mark.slow
def test_distributed_noise_under_shares_is_that_under_the_plain_sum(tmp_path):
    noised = ("mechanism=distributed_dp", "delta=1e-2", SEEDED)
    plain = run(tmp_path / "plain", *noised)
    hidden = run(tmp_path / "shared", *noised, *CRYPTEN)
    assert torch.equal(plain.weights_D, hidden.weights_D)
    assert workspace_of(*noised, *CRYPTEN).plan.backend.holds_against("client") == ["outsider", "server"]


# ---- other aggregates than the sum


ROBUST = (*CRYPTEN, SEEDED, "training.weighting=uniform", "clients=5", "server.min_contributors=3", "rounds=1")


def middle(vectors_CD: np.ndarray) -> np.ndarray:
    return np.sort(vectors_CD, axis=0)[1:-1].mean(axis=0)


def within(vectors_CD: np.ndarray) -> np.ndarray:
    """The mean of the updates with norm at most 1."""
    return vectors_CD[np.linalg.norm(vectors_CD, axis=1) <= 1].mean(axis=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "oracle"),
    [
        (("secure_sum/aggregate=trimmed_mean",), middle),
        (("secure_sum/aggregate=median",), lambda vectors_CD: np.median(vectors_CD, axis=0)),
        (("secure_sum/aggregate=median", "secure_sum.insecure_provider=true"), lambda v_CD: np.median(v_CD, axis=0)),
        (("secure_sum/aggregate=norm_bounded", "secure_sum.aggregate.norm=1"), within),
        (("secure_sum/aggregate=median", "secure_sum.parties=3"), lambda vectors_CD: np.median(vectors_CD, axis=0)),
    ],
    ids=["trimmed mean", "median", "median of party 0's triples", "norm bounded", "median by three"],
)
def test_a_step_is_that_of_numpys_aggregate_though_one_client_cheats(tmp_path, monkeypatch, options, oracle):
    sent: list[np.ndarray] = []
    original = participant.contribution

    def noting(*arguments):
        sent.append(original(*arguments).copy())
        return sent[-1]

    monkeypatch.setattr(participant, "contribution", noting)
    cheat = ("faults.scaled_clients=1", "faults.scale=-100")
    found = run(tmp_path, *ROBUST, *options, *cheat)
    vectors_CD = np.array(sent, np.float64)[:, :-1]
    assert sorted(np.linalg.norm(vectors_CD, axis=1))[-1] > 3 > 1 > sorted(np.linalg.norm(vectors_CD, axis=1))[-2]
    step_D = found.weights_D.numpy() - workspace_of(*ROBUST).initial_D.numpy()
    np.testing.assert_allclose(step_D, oracle(vectors_CD), atol=2**-15)
    rows = Checkpoints(tmp_path / "checkpoints", 2).rows()
    dealt = rows.filter(rows["stage"] == "dealer").select("where", "metric", "value").rows()
    if any("insecure" in option for option in options):
        assert not dealt
    else:
        assert {where for where, _, _ in dealt} == {"party/0"}
        assert {metric for _, metric, _ in dealt} == {"comm_bytes", "comm_rounds", "comm_wall", "cpu"}
        assert min(value for _, _, value in dealt) > 0
    assert not parties()


@pytest.mark.slow
def test_the_parties_noise_is_charged_for_and_repeats_where_it_is_seeded(tmp_path):
    noised = (*CRYPTEN, SEEDED, "mechanism=party_dp", "secure_sum/aggregate=noised_sum", "delta=1e-2")
    first = run(tmp_path / "first", *noised)
    second = run(tmp_path / "second", *noised)
    assert torch.equal(first.weights_D, second.weights_D)
    loud = run(tmp_path / "loud", *noised, "secure_sum.aggregate.noise_multiplier=100", "rounds=1")
    assert (loud.weights_D - first.weights_D).std() > 1
    backend = workspace_of(*noised).plan.backend
    assert backend.holds_against("client") == ["outsider", "server", "server with 1 party"]
    [mechanism] = backend.mechanisms
    assert mechanism.epsilons["outsider"] < mechanism.epsilons["server with 1 party"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("secure_sum/aggregate=median",), "training.weighting=examples: crypten_median takes no weights of clients"),
        (
            ("secure_sum/aggregate=median", "training.weighting=uniform", "runtime.measure_sum_error=true"),
            "runtime.measure_sum_error=true: crypten_median opens another aggregate than the sum",
        ),
        (("secure_sum/aggregate=noised_sum",), "secure_sum/aggregate=noised_sum: noise protects updates that are clip"),
        (
            ("secure_sum/aggregate=median", "mechanism=distributed_dp", "delta=1e-2"),
            "secure_sum=crypten: does not sum integers exactly, which distributed_dp needs",
        ),
        (
            ("secure_sum/aggregate=trimmed_mean", "training.weighting=uniform"),
            "server.min_contributors=2: must be above 2 * secure_sum.aggregate.trim = 2",
        ),
        (
            ("mechanism=distributed_dp", "delta=1e-2", "faults.scaled_clients=1"),
            "faults.scaled_clients=1: distributed_dp+crypten sums residues",
        ),
        (("faults.scaled_clients=9",), "faults.scaled_clients=9: must be at most clients=4"),
        (
            (
                "mechanism=client_dp",
                "mechanism.client_dp.adaptive=true",
                "mechanism.client_dp.noise_multiplier=0.1",
                "secure_sum/aggregate=norm_bounded",
            ),
            "secure_sum/aggregate=norm_bounded: an adaptive clip adds values",
        ),
    ],
)
def test_what_an_aggregate_cannot_do_is_refused(overrides, message):
    with pytest.raises(ConfigError) as refusal:
        workspace_of(*CRYPTEN, *overrides)
    assert message in str(refusal.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "message"),
    [
        (signal.SIGKILL, "the process of dealer died"),
        (signal.SIGSTOP, "the dealer ended, or did not answer in time"),
    ],
)
def test_a_dealer_that_is_gone_is_named(tmp_path, monkeypatch, how, message):
    in_round(monkeypatch, 2, lambda: os.kill(parties()[-1].pid, how))
    robust = [one for one in ROBUST if not one.startswith("rounds")]
    with pytest.raises(FedveilError) as failure:
        run(tmp_path, *robust, "secure_sum/aggregate=median", "secure_sum.timeout_s=16")
    assert message in str(failure.value)
    assert not parties()
    assert ended(tmp_path).round == 1


def test_a_process_that_plays_a_role_has_no_other_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "_held", None)
    monkeypatch.setenv(keys.KEYS_VARIABLE, "")
    everybody = ("client/0", "party/0", "party/1")
    keys.set_up(tmp_path, everybody)
    own = keys.simulated("party/1", everybody)
    parcel = keys.parcel("party/1", everybody)
    assert own.identity.to_bytes().hex() not in repr(parcel)
    assert str(own.identity.to_bytes()) not in repr(parcel)
    held = keys.hold(parcel)
    assert keys.simulated("party/1", everybody) is held
    assert held.identity.public == own.identity.public
    assert held.roster.to_bytes() == own.roster.to_bytes()
    held.store.put("kept", b"1")
    assert own.store.get("kept") == b"1"
    with pytest.raises(RunRefused, match="this process has the keys of party/1 alone"):
        keys.simulated("party/0", everybody)
    assert keys.KEYS_VARIABLE not in os.environ


@pytest.mark.slow
def test_values_beyond_the_bound_are_cut_and_counted(tmp_path):
    run(tmp_path, *CRYPTEN, "secure_sum.bound=0.001", "rounds=1")
    rows = Checkpoints(tmp_path / "checkpoints", 2).rows()
    cut = rows.filter(rows["metric"] == "clipped_values")
    assert len(cut) == 4
    assert cut["value"].min() > 0
    assert np.isfinite(ended(tmp_path).weights_D.numpy()).all()
