"""Twenty faults: each ends in the right sum or in an error that names it; earlier rows are kept.

`LIST` names the faults tested in other files. The oracle is a plain float64 sum over the survivors.
"""

import logging
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import fl.server
from fl import runtimes
from fl.checkpoint import Checkpoints
from fl.runtimes import inprocess
from fl.server import Errand, Server
from fl.training import local as training
from fl.workspace import Workspace
from privacy.errors import ConfigError, PrivacyRefusal, TooFewContributors
from tests.composed import canonical, examples_of, gradient_at, server_of, workspace_of
from tests.experiments.command import FEDVEIL, Here, read
from tests.fl.faults.runs import (
    BASE,
    CLIENTS,
    ROUNDS,
    SUMS,
    WITH_PARTIES,
    Ended,
    assert_right,
    contributions,
    ended,
    left_of,
    run,
)

TESTS = Path(__file__).parents[2]
ALL = [
    *SUMS,
    *(pytest.param(name, marks=pytest.mark.slow) for name in WITH_PARTIES),
]
OF = SUMS | WITH_PARTIES
COLLECTED = {"secagg": "mask", "crypten": "share"}  # the stage at which vectors are sent

# the faults of the list, and the tests that prove each: of this file, or FILE::TEST
LIST = {
    "client dies before upload": ["test_clients_that_fall_silent_are_left_out"],
    "client dies between mask and unmask": ["test_whoever_masked_is_in_the_sum_though_it_dies_before_the_unmasking"],
    "straggler past the deadline": ["test_stragglers_are_left_out_at_the_deadline_and_counted_before_it"],
    "replayed update": [
        "test_messages_that_go_wrong_cost_their_client_its_place",
        "fl/test_signatures.py::test_what_was_right_before_is_left_out_now",
    ],
    "NaN or Inf": [
        "test_updates_that_are_none_never_leave",
        "../privacy/testing/contract.py::test_what_is_not_finite_never_leaves",
    ],
    "zero-norm update": ["test_a_zero_update_counts_as_such", "test_a_zero_update_survives_clipping"],
    "all weights zero": ["test_weights_that_are_all_zero_end_the_run"],
    "wrong shape or dtype": [
        "test_updates_that_are_none_never_leave",
        "../privacy/testing/contract.py::test_another_length_or_type_never_leaves",
    ],
    "fixed-point overflow": ["test_what_passes_the_range_is_cut_and_counted"],
    "flipped ciphertext bit": [
        "test_messages_that_go_wrong_cost_their_client_its_place",
        "privacy/secure_sums/he/test_fuzz.py::test_two_thousand_damaged_messages",
        "privacy/secure_sums/he/test_protocol.py::test_a_flipped_bit_in_the_sum",
    ],
    "truncated or concatenated ciphertext": [
        "test_messages_that_go_wrong_cost_their_client_its_place",
        "privacy/secure_sums/test_message_fuzz.py::test_no_damaged_reply_is_taken_for_its_senders",
    ],
    "wrong key or parameters": [
        "privacy/secure_sums/he/test_ciphers.py::test_a_message_of_other_parameters_is_refused",
        "fl/keys/test_relayed.py::test_a_run_does_not_go_on_where_somebodys_keys_are_new",
    ],
    "more contributors than carry bits": [
        "test_a_cohort_whose_sum_would_wrap_is_refused",
        "privacy/secure_sums/mpc/test_protocol.py::test_a_cohort_whose_sums_wrap_is_refused",
        "privacy/secure_sums/he/test_ckks.py::test_a_fixed_scale_that_could_wrap_is_refused_with_the_arithmetic",
        "privacy/secure_sums/test_fixed_point.py::test_what_is_refused",
    ],
    "a single client left": ["test_a_single_client_that_is_left_is_not_opened"],
    "server killed and resumed with its ledger": [
        "fl/test_retries.py::test_a_killed_server_goes_on_with_its_ledger",
        "experiments/sweeps/test_resume.py::test_a_killed_run_goes_on_and_ends_with_the_same_weights",
        "fl/test_ledger.py::test_a_killed_round_was_paid_for",
    ],
    "epsilon exhausted mid-run": [
        "experiments/test_spending.py::test_a_run_ends_before_the_round_that_would_pass_its_budget"
    ],
    "empty Poisson batch": [
        "privacy/mechanisms/dp_sgd/test_optimizers.py::test_an_empty_draw_between_two_others_changes_nothing_but_the_noise"
    ],
    "party or dealer killed, share tampered": [
        "fl/runtimes/parties/test_failures.py::test_a_fault_ends_the_round_with_an_error_that_names_it",
        "fl/runtimes/parties/test_aggregates.py::test_a_dealer_that_is_gone_is_named",
        "fl/runtimes/test_committee.py::test_a_keyholder_that_is_killed_ends_the_run_in_one_line",
        "privacy/secure_sums/secagg/test_protocol.py::test_a_wrong_share_ends_the_round_and_never_makes_a_sum",
    ],
    "CUDA out of memory, or a library missing": [
        "test_a_cell_without_memory_lets_the_others_go_on",
        "test_a_cell_without_its_library_lets_the_others_go_on",
        "test_a_client_without_memory_is_left_out",
    ],
    "unauthenticated node, expired certificate, oversized or pickled payload": [
        "fl/runtimes/deployment/test_superlink.py::test_a_supernode_is_refused",
        "fl/runtimes/deployment/test_superlink.py::test_an_expired_certificate_is_named",
        "fl/runtimes/test_contract.py::test_messages_that_go_wrong_are_left_out_in_every_runtime",
        "fl/runtimes/test_resident.py::test_an_announced_length_takes_no_memory",
        "fl/test_packing.py::test_objects_are_never_unpickled",
    ],
}


def test_each_fault_of_the_list_has_tests():
    assert len(LIST) == 20
    for reference in [one for tests in LIST.values() for one in tests]:
        file, _, name = reference.rpartition("::")
        text = (TESTS / (file or "fl/faults/test_list.py")).read_text()
        assert re.search(rf"^ *def {name}\(", text, re.MULTILINE), reference


# ---- clients that are gone, or late


@pytest.mark.parametrize("name", ALL)
def test_clients_that_fall_silent_are_left_out(tmp_path, name):
    found = run(tmp_path, *OF[name], "faults.dropout_rate=0.2")
    assert_right(found, left_of(found, "dropout"))


@pytest.mark.parametrize("stage", ["confirm", "unmask"])
def test_whoever_masked_is_in_the_sum_though_it_dies_before_the_unmasking(tmp_path, stage):
    found = run(tmp_path, *SUMS["secagg"], "faults.dropout_rate=0.4", f"faults.dropout_stage={stage}")
    assert sum(len(found.struck("dropout", number)) for number in range(1, ROUNDS + 1)) > 2
    assert_right(found, {number: contributions(found.work, number) for number in range(1, ROUNDS + 1)})


LATE = ("faults.kind=late", "faults.rate=0.2", "server.deadline_s=1")


@pytest.mark.parametrize("name", ["plain", pytest.param("pad", marks=pytest.mark.slow), "secagg"])
def test_stragglers_are_left_out_at_the_deadline_and_counted_before_it(tmp_path, name):
    late = run(tmp_path / "late", *OF[name], *LATE, "faults.delay_s=2")
    assert_right(late, left_of(late, "late"))
    lost = {(row["round"], row["where"]) for row in late.rows.filter(metric="dropped").iter_rows(named=True)}
    assert lost == {(number, who) for number in range(1, ROUNDS + 1) for who in late.struck("late", number)}
    slow = run(tmp_path / "slow", *OF[name], *LATE, "faults.delay_s=0.05")
    assert_right(slow, {number: contributions(slow.work, number) for number in range(1, ROUNDS + 1)})
    assert slow.struck("late", 1) == late.struck("late", 1) != set()
    assert slow.rows.filter(metric="dropped").is_empty()


# ---- messages


MESSAGES = ["flipped", "truncated", "oversized", "replayed"]


@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize("name", ALL)
def test_messages_that_go_wrong_cost_their_client_its_place(tmp_path, name, kind):
    """From the first stage on, or in the upload itself; all others are summed up."""
    found = run(tmp_path / "any", *OF[name], f"faults.kind={kind}", "faults.rate=0.2")
    assert_right(found, left_of(found, kind))
    for number in range(1, ROUNDS + 1):
        assert found.where("rejected", number) == found.struck(kind, number)
    assert found.struck(kind, 1) == set() if kind == "replayed" else found.struck(kind, 1)


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_masked_vector_that_goes_wrong_is_left_out_and_its_mask_taken_off(tmp_path, kind):
    found = run(tmp_path, *SUMS["secagg"], f"faults.kind={kind}", "faults.rate=0.2", "faults.stage=mask")
    assert_right(found, left_of(found, kind))
    assert set(found.rows.filter(metric="rejected")["stage"]) == {"mask"}


@pytest.mark.parametrize("name", ALL)
def test_messages_that_come_twice_count_once(tmp_path, name):
    found = run(tmp_path, *OF[name], "faults.kind=duplicated", "faults.rate=0.5")
    assert any(found.struck("duplicated", number) for number in range(1, ROUNDS + 1))
    assert_right(found, {number: contributions(found.work, number) for number in range(1, ROUNDS + 1)})
    up = found.rows.filter(metric="up_bytes", stage=COLLECTED.get(name, "collect"))
    assert up["value"].max() < 1.1 * up["value"].min(), "some were counted twice"


def test_an_opened_sum_that_is_damaged_ends_the_run_and_keeps_its_rows(tmp_path):
    """Nobody can replace the opener."""
    work = Workspace(canonical(*BASE, *SUMS["pad"], "faults.kind=flipped", "faults.rate=0.5", "faults.stage=open"))
    with pytest.raises(PrivacyRefusal, match=r"client/0 did not open the sum; client/0 dropped out: client/0 did not"):
        runtimes.run(work, tmp_path, Errand(tmp_path / "checkpoints"))
    rows = Checkpoints(tmp_path / "checkpoints", 2).rows()
    last = rows["round"].max()
    assert set(rows["round"]) == set(range(last + 1))
    assert set(rows.filter(round=last, metric="fault_flipped")["where"]) == {"client/0"}


# ---- updates and weights


@pytest.mark.parametrize("kind", ["not_finite", "misshapen", "retyped"])
@pytest.mark.parametrize("name", ALL)
def test_updates_that_are_none_never_leave(tmp_path, name, kind):
    found = run(tmp_path, *OF[name], f"faults.kind={kind}", "faults.rate=0.2")
    assert_right(found, left_of(found, kind))
    sent = found.rows.filter(metric="up_bytes", stage=COLLECTED.get(name, "collect"))
    for number in range(1, ROUNDS + 1):
        assert found.where("dropped", number) == found.struck(kind, number)
        assert set(sent.filter(round=number)["where"]) == left_of(found, kind)[number].keys()


def changed(found: Ended, kind: str, v_of, factor: float = 1.0) -> dict:
    """All contributions, with the weight or update of the struck clients changed."""
    rounds = {}
    for number in range(1, ROUNDS + 1):
        struck = found.struck(kind, number)
        rounds[number] = {
            who: (v_of(v), factor * update_D) if who in struck else (v, update_D)
            for who, (v, update_D) in contributions(found.work, number).items()
        }
    assert any(found.struck(kind, number) for number in range(1, ROUNDS + 1))
    return rounds


@pytest.mark.parametrize("name", ALL)
def test_a_zero_update_counts_as_such(tmp_path, name):
    """One step on all of a client's examples, by hand in float64: who does not train still weighs something."""
    one_step = ("clients=10", "training.batch_size=10000", "training.lr=0.5", "data.partition=dirichlet", "rounds=1")
    work = workspace_of(*one_step, *OF[name], "faults.kind=zero", "faults.rate=0.4")
    runtimes.run(work, tmp_path, Errand(tmp_path / "checkpoints"))
    found = ended(work, tmp_path)
    struck = found.struck("zero", 1)
    start_D = work.initial_D.numpy().astype(np.float64)
    assert 0 < len(struck) < CLIENTS
    step_D = np.zeros(len(start_D))
    for client, part in enumerate(work.partitions):
        if f"client/{client}" not in struck:
            step_D -= 0.5 * work.weight(client) * gradient_at(start_D, *examples_of(work, part))
    step_D /= sum(map(work.weight, range(CLIENTS)))
    assert np.abs(step_D).max() > 0.05
    assert np.abs(found.weights_D - start_D - step_D).max() < 3 * CLIENTS * work.tolerance + 1e-6


@pytest.mark.parametrize("mechanism", ["client_dp", "local_dp", "dp_ftrl"])
def test_a_zero_update_survives_clipping(tmp_path, mechanism):
    """A norm of 0 is not used as a divisor; only noise remains."""
    options = ("training.weighting=uniform", "delta=1e-3", "rounds=1", "noise=seeded", "clients=4")
    work = workspace_of(f"mechanism={mechanism}", *options, "faults.kind=zero", "faults.rate=1")
    inprocess.run(work, Errand(tmp_path))
    state = Checkpoints(tmp_path, 2).latest()
    assert torch.isfinite(state.weights_D).all()
    assert (state.weights_D != work.initial_D).all()


@pytest.mark.parametrize("name", ALL)
def test_who_claims_no_examples_weighs_nothing_and_who_lies_no_more_than_anybody_may(tmp_path, name):
    nothing = run(tmp_path / "nothing", *OF[name], "faults.kind=weightless", "faults.rate=0.3")
    assert_right(nothing, changed(nothing, "weightless", lambda _: 0.0))
    lying = run(tmp_path / "lying", *OF[name], "faults.kind=lying", "faults.rate=0.3")
    assert_right(lying, changed(lying, "lying", lambda _: 1.0))
    assert np.abs(lying.weights_D - nothing.weights_D).max() > 0.05


@pytest.mark.parametrize("name", ALL)
def test_weights_that_are_all_zero_end_the_run(tmp_path, name):
    work = Workspace(canonical(*BASE, *OF[name], "faults.kind=weightless", "faults.rate=1"))
    with pytest.raises(TooFewContributors, match="total weight of the contributions is 0: no client holds an example"):
        runtimes.run(work, tmp_path, Errand(tmp_path / "checkpoints"))
    rows = Checkpoints(tmp_path / "checkpoints", 2).rows()
    assert len(rows.filter(round=1, metric="fault_weightless")) == CLIENTS
    assert np.array_equal(ended(work, tmp_path).weights_D, work.initial_D.numpy())


@pytest.mark.parametrize("name", [one for one in ALL if one != "plain"])
def test_what_passes_the_range_is_cut_and_counted(tmp_path, name):
    """Values reach four times the bound here, and none wraps."""
    found = run(tmp_path, *OF[name], "secure_sum.bound=1")
    assert_right(found, {n: contributions(found.work, n, clip=1.0) for n in range(1, ROUNDS + 1)})
    assert len(found.where("clipped_values", 1)) > CLIENTS / 2


def test_a_cohort_whose_sum_would_wrap_is_refused():
    with pytest.raises(ConfigError, match="2 sums of 1000 contributions decrypt wrongly with probability up to 2"):
        workspace_of("secure_sum=bfv", "secure_sum.value_bits=32", "clients=1000")


@pytest.mark.parametrize("name", [one for one in ALL if one != "plain"])
def test_a_single_client_that_is_left_is_not_opened(tmp_path, name):
    work = Workspace(canonical(*BASE, *OF[name], "faults.dropout_rate=0.93"))
    with pytest.raises(TooFewContributors, match=r"contributors are left of 10, [2-9] are needed; .* on purpose"):
        runtimes.run(work, tmp_path, Errand(tmp_path / "checkpoints"))
    rows = Checkpoints(tmp_path / "checkpoints", 2).rows()
    last = rows["round"].max()
    assert set(rows["round"]) == set(range(last + 1))
    assert len(rows.filter(round=last, metric="fault_dropout")) >= CLIENTS - 1
    assert ended(work, tmp_path).round == last - 1


# ---- the rows, and the log


def test_a_fault_is_a_line_of_the_log_and_a_row_though_its_client_is_never_heard(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="fedveil"):
        found = run(
            tmp_path, "faults.dropout_rate=0.2", "faults.scaled_clients=1", "faults.kind=zero", "faults.rate=0.1"
        )
    rows = found.rows.filter(found.rows["metric"].str.starts_with("fault_"))
    told = [record.getMessage() for record in caplog.records if "on purpose: " in record.getMessage()]
    kinds = [(row["round"], row["metric"].removeprefix("fault_"), row["where"]) for row in rows.iter_rows(named=True)]
    lines = [f"round {number}: a fault on purpose: {kind} of {who} at stage collect" for number, kind, who in kinds]
    assert sorted(told) == sorted(lines)
    assert set(rows["metric"]) == {"fault_dropout", "fault_scaled", "fault_zero"}
    assert set(rows["value"]) == {1.0}


class Unplugged(Exception):
    """An unforeseen error."""


@pytest.mark.parametrize("where", ["step", "_evaluate"])
def test_whatever_ends_a_round_its_rows_and_those_before_stay(tmp_path, monkeypatch, where):
    work = workspace_of("rounds=3")
    server = server_of(work, tmp_path)
    original = getattr(Server, where)

    def fail_in_2(self, number, *rest):
        if number == 2:
            raise Unplugged
        return original(self, number, *rest)

    monkeypatch.setattr(Server, where, fail_in_2)
    with pytest.raises(Unplugged):
        server.run()
    rows = Checkpoints(tmp_path, 2).rows()
    assert set(rows["round"]) == {0, 1, 2}
    assert set(rows.filter(round=2, metric="up_bytes")["where"]) == {f"client/{i}" for i in range(4)}


# ---- machines


def test_a_client_without_memory_is_left_out(tmp_path, monkeypatch):
    """There is no device to exhaust here: the error is torch's own, raised where training would."""
    original = training.train
    calls = []

    def exhausted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(*arguments)

    monkeypatch.setattr(training, "train", exhausted)
    work = workspace_of("rounds=1")
    server = server_of(work, tmp_path)
    server.run()
    assert "CUDA out of memory" in server.transport.dropped["client/1"]
    [survivors] = Checkpoints(tmp_path, 2).rows().filter(metric="survivors")["value"]
    assert survivors == 3


SWEEP = ("sweep", "model=logistic", "clients=4", "rounds=2", "device=cpu", "out=cells")


def errors_of(folder: Path) -> list[str | None]:
    """The errors of the cells of a sweep."""
    return [read(path, "status")["error"] for path in sorted((folder / "cells").iterdir()) if path.is_dir()]


@pytest.mark.parametrize("whose", ["clients", "server"])
def test_a_cell_without_memory_lets_the_others_go_on(tmp_path, monkeypatch, capsys, whose):
    """There is no device to exhaust here: the error is torch's own, raised where the work would be done."""
    module, name = (training, "train") if whose == "clients" else (fl.server, "evaluate")
    original = getattr(module, name)
    told = "CUDA out of memory. Tried to allocate 2.00 GiB"

    def exhausted(given, *rest):
        large = given.batches.batch_size if whose == "clients" else given.config.training.batch_size
        if large == 64:
            raise torch.OutOfMemoryError(told)
        return original(given, *rest)

    monkeypatch.setattr(module, name, exhausted)
    monkeypatch.chdir(tmp_path)
    swept = Here(capsys)(*SWEEP, "training.batch_size=64,32")
    assert swept.status == (2 if whose == "clients" else 1)
    assert "1 of 2 cells finished" in swept.out
    [complaint] = [line for line in swept.err.splitlines() if line.startswith("fedveil: error: ")]
    assert told in complaint
    assert sorted(told in (error or "") for error in errors_of(tmp_path)) == [False, True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "choice"),
    [
        ("tenseal", "secure_sum=ckks,plain"),
        ("crypten", "secure_sum=crypten,plain"),
        ("opacus", "mechanism=dp_sgd,none"),
    ],
)
def test_a_cell_without_its_library_lets_the_others_go_on(tmp_path, library, choice):
    """The library is made missing: in a separate process, another file takes its name."""
    (tmp_path / f"{library}.py").write_text(f"raise ModuleNotFoundError(\"No module named '{library}'\")\n")
    done = subprocess.run(
        [FEDVEIL, *SWEEP, choice],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode in (1, 2), done
    assert "2 of 3 cells finished" in done.stdout, "the plain twin of the one that cannot run, too"
    assert "Traceback" not in done.stderr
    [complaint] = [line for line in done.stderr.splitlines() if line.startswith("fedveil: error: ")]
    assert "No module named" in complaint
    assert library in complaint
    assert [library in (error or "") for error in errors_of(tmp_path)].count(True) == 1
