"""The measured error of a sum, against sums computed by the test."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st

from fl import runtimes
from fl.apps import client_app
from fl.checkpoint import Checkpoints
from fl.config.identity import hash_of
from fl.node import APPROVED
from fl.server import Errand, Server
from fl.sum_error import ClearContributions, SumError, require_within
from fl.transport import ARRAYS, CLEAR, ENVELOPE, METRICS
from fl.workspace import Workspace
from privacy.errors import ConfigError, NonFiniteContribution, PrivacyRefusal
from privacy.secure_sums.plain import PlainSum
from privacy.secure_sums.vectors import Segment, Total, VectorSpec
from tests.composed import MASKED, PROBE, canonical, compose, run, server_of, workspace_of
from tests.fl.grids import Tampered, only
from tests.fl.known_sums import LENGTH, exact_sum

MEASURED = "runtime.measure_sum_error=true"
CLIENTS = 4


def measured_run(folder: Path, monkeypatch, *overrides: str) -> tuple[Workspace, list[Total], pl.DataFrame]:
    """A whole run with the totals of its rounds and its rows."""
    totals: list[Total] = []
    aggregate = Server.aggregate

    def remember(self, number, cohort):
        totals.append(aggregate(self, number, cohort))
        return totals[-1]

    monkeypatch.setattr(Server, "aggregate", remember)
    work = Workspace(canonical(*PROBE, MEASURED, *overrides))
    runtimes.run(work, folder, Errand(folder / "checkpoints"))
    return work, totals, Checkpoints(folder / "checkpoints", 2).rows()


def value_of(rows: pl.DataFrame, round_: int, metric: str) -> float:
    found = rows.filter((pl.col("round") == round_) & (pl.col("metric") == metric))
    assert found["where"].to_list() == ["server"]
    assert found["stage"].to_list() == ["protocol"]
    return float(found["value"][0])


CASES = [("secure_sum=plain",), MASKED]
CASES += [(f"secure_sum={name}", "secure_sum.keys=clients", "secure_sum.bound=4") for name in ("pad", "bfv", "ckks")]
KEYHOLDER = ("secure_sum=ckks", "secure_sum.bound=4")  # the keyholder's process takes seconds to start


@pytest.mark.parametrize(
    "overrides",
    [*CASES, pytest.param(KEYHOLDER, marks=pytest.mark.slow)],
    ids=lambda overrides: "-".join(part.rpartition("=")[2] for part in overrides),
)
def test_it_is_that_of_the_opened_sum_against_the_sum_of_what_was_contributed(tmp_path, monkeypatch, overrides):
    work, totals, rows = measured_run(tmp_path, monkeypatch, "data.partition=dirichlet", *overrides)
    tolerance = work.plan.backend.secure_sum.tolerance(work.spec)
    for round_, total in enumerate(totals, 1):
        error = np.abs(np.append(total.update_D, total.weight) - exact_sum(work, round_=round_))
        assert value_of(rows, round_, "sum_error") == pytest.approx(error.max(), abs=1e-14)
        assert value_of(rows, round_, "sum_error_rms") == pytest.approx(np.sqrt(np.mean(error**2)), abs=1e-14)
        assert value_of(rows, round_, "sum_error_allowed") == pytest.approx(CLIENTS * tolerance)
        if tolerance:
            ratio = value_of(rows, round_, "sum_error") / value_of(rows, round_, "sum_error_allowed")
            assert value_of(rows, round_, "sum_error_ratio") == pytest.approx(ratio)
            assert 0 < ratio <= 1
        else:
            assert value_of(rows, round_, "sum_error") == 0, "the plain sum adds in the same order"
            assert rows.filter(pl.col("metric") == "sum_error_ratio").is_empty()


def test_who_leaves_after_contributing_is_in_neither_sum(tmp_path, monkeypatch):
    leaves = ("+secure_sum.leave_before_unmask=[client/1]",)
    work, totals, rows = measured_run(tmp_path, monkeypatch, *MASKED, *leaves)
    assert totals[0].survivors == ("client/0", "client/2", "client/3")
    left = ("client/0", "client/2", "client/3")
    error = np.abs(np.append(totals[0].update_D, totals[0].weight) - exact_sum(work, left))
    assert value_of(rows, 1, "sum_error") == pytest.approx(error.max(), abs=1e-14)
    assert value_of(rows, 1, "sum_error_allowed") == 3 * work.tolerance


def test_what_was_rejected_is_in_neither_sum(tmp_path):
    def damaged(reply):
        reply.content[ARRAYS] = ArrayRecord({"vector": Array(np.full(LENGTH + 1, np.nan, np.float32))})
        return [reply]

    work = workspace_of(*PROBE, MEASURED)
    server = server_of(work, tmp_path, Tampered(work, only("client/2", damaged)))
    assert server.aggregate(1, range(CLIENTS)).survivors == ("client/0", "client/1", "client/3")
    told = {row.metric: row.value for row in server.meter.take() if row.where == "server"}
    assert told["sum_error"] == 0


@pytest.mark.parametrize("secure_sum", ["plain", "pad"])
def test_residues_are_added_exactly_modulo_their_modulus(tmp_path, secure_sum):
    noised = ("mechanism=distributed_dp", "delta=1e-2", "noise=seeded", f"secure_sum={secure_sum}")
    keys = ("secure_sum.keys=clients",) if secure_sum == "pad" else ()
    work = Workspace(canonical(*noised, *keys, MEASURED))
    runtimes.run(work, tmp_path, Errand(tmp_path / "checkpoints"))
    rows = Checkpoints(tmp_path / "checkpoints", 2).rows()
    assert [value_of(rows, round_, "sum_error") for round_ in (1, 2)] == [0, 0]


def spec_of(length: int, cohort: int, modulus_bits: int | None = None) -> VectorSpec:
    return VectorSpec((Segment("update", length), Segment("weight", 1, 1.0)), cohort, modulus_bits=modulus_bits)


@given(st.data(), st.integers(1, 5), st.integers(1, 5), st.sampled_from([3, 16, 62]))
def test_residues_are_apart_the_shorter_way_around(tmp_path_factory, data, length, count, bits):
    modulus = 2**bits
    drawn = [data.draw(st.lists(st.integers(0, modulus - 1), min_size=length, max_size=length)) for _ in range(count)]
    claimed = data.draw(st.lists(st.integers(0, modulus - 1), min_size=length, max_size=length))
    cohort = [f"client/{i}" for i in range(count)]
    apart = []
    for column, claim in zip(zip(*drawn, strict=True), claimed, strict=True):
        off = (sum(column) - claim) % modulus
        apart.append(min(off, modulus - off))
    with ClearContributions(spec_of(length, count, bits), tmp_path_factory.getbasetemp()) as clear:
        for address, vector in zip(cohort, drawn, strict=True):
            clear.take(address, np.array([*vector, 1], np.int64))
        total = Total(np.array(claimed, np.int64), float(count % modulus), tuple(cohort))
        error = clear.error_of(total, cohort, 0.0)
    assert error.largest == float(max(apart))
    assert error.rms == pytest.approx(math.sqrt(sum(x * x for x in apart) / (length + 1)))


def test_the_order_of_arrival_changes_no_bit(tmp_path):
    """Values so far apart that float64 rounds their sum differently in another order."""
    cohort = [f"client/{i}" for i in range(4)]
    vectors = {address: np.array([value, 1], np.float32) for address, value in zip(cohort, (1, 2**60, 1, -(2**60)))}  # noqa: B905
    sums = []
    for order in (cohort, cohort[::-1]):
        with ClearContributions(spec_of(1, 4), tmp_path) as clear:
            for address in order:
                clear.take(address, vectors[address])
            sums.append(clear.sum_of(cohort)[0])
    assert sums[0] == sums[1] == ((1.0 + 2.0**60) + 1.0) - 2.0**60
    assert not list(tmp_path.iterdir()), "contributions have no name on disk"


class Biased(PlainSum):
    """A secure sum that adds a bias."""

    name = "biased"

    def server(self, cohort, spec):
        total = yield from super().server(cohort, spec)
        total.update_D[7] += 0.25
        return total


def test_a_sum_beyond_its_tolerance_ends_the_run_in_one_line_and_its_error_is_kept(tmp_path):
    biased = ("secure_sum._target_=tests.fl.whole_runs.test_sum_error.Biased", *PROBE)
    message = "secure_sum=biased: the sum of 4 contributions is off by 0.25, its tolerance allows 0"
    with pytest.raises(PrivacyRefusal) as refusal:
        run(tmp_path, *biased, MEASURED)
    assert str(refusal.value) == message
    rows = Checkpoints(tmp_path, 2).rows()
    assert value_of(rows, 1, "sum_error") == 0.25
    assert value_of(rows, 1, "sum_error_rms") == pytest.approx(0.25 / math.sqrt(LENGTH + 1))
    assert run(tmp_path / "unmeasured", *biased).round == 2


class Overwriting(PlainSum):
    """A secure sum that overwrites its input."""

    def respond(self, stage, inbound, me, contribution):
        def halved():
            vector = contribution()
            vector[:-1] /= 2
            return vector

        return super().respond(stage, inbound, me, halved)


def test_a_protocol_that_writes_to_its_contribution_is_found_out(tmp_path):
    with pytest.raises(PrivacyRefusal, match="is off by"):
        run(tmp_path, "secure_sum._target_=tests.fl.whole_runs.test_sum_error.Overwriting", *PROBE, MEASURED)


def test_it_changes_neither_weights_nor_protocol_bytes(tmp_path):
    def bytes_of(folder):
        rows = Checkpoints(folder, 2).rows()
        return rows.filter(pl.col("metric").is_in(["up_bytes", "down_bytes"])).sort("round", "where", "metric")["value"]

    measured = run(tmp_path / "measured", MEASURED)
    plain = run(tmp_path / "plain")
    assert torch.equal(measured.weights_D, plain.weights_D)
    assert bytes_of(tmp_path / "measured").equals(bytes_of(tmp_path / "plain"))
    assert Checkpoints(tmp_path / "plain", 2).rows().filter(pl.col("metric").str.starts_with("sum_error")).is_empty()


@pytest.mark.parametrize("overrides", [(), (MEASURED,)])
def test_a_client_tells_it_only_where_that_is_asked(overrides, tmp_path):
    told = []

    def listen(_, reply):
        told.append(set(reply.content))
        return [reply]

    work = workspace_of(*PROBE, *overrides)
    server_of(work, tmp_path, Tampered(work, listen)).aggregate(1, range(CLIENTS))
    assert told == [{ARRAYS, ENVELOPE, METRICS} | ({CLEAR} if overrides else set())] * CLIENTS


def test_what_is_no_contribution_is_no_measure_of_one(tmp_path):
    def damaged(reply):
        reply.content[CLEAR] = ArrayRecord({CLEAR: Array(np.full(LENGTH + 1, np.nan, np.float32))})
        return [reply]

    work = workspace_of(*PROBE, MEASURED)
    with pytest.raises(NonFiniteContribution, match="holds NaN"):
        server_of(work, tmp_path, Tampered(work, only("client/2", damaged))).aggregate(1, range(CLIENTS))


def test_a_deployment_refuses_it_at_the_server_and_at_the_client():
    from flwr.app import ConfigRecord, Context, Message, RecordDict

    from fl.config.checks import check
    from fl.transport import ADDRESS, ENVELOPE, FAILURE

    line = (
        "runtime.measure_sum_error=True: sends contributions in the clear, to test a sum: "
        "it belongs to runtime=inprocess or ray"
    )
    deployed = compose("runtime=deployment", "clients=3", MEASURED)
    with pytest.raises(ConfigError) as refusal:
        check(deployed)
    assert str(refusal.value) == line
    text = canonical(MEASURED).replace('"name":"inprocess"', '"name":"deployment"')
    context = Context(1, 1, {APPROVED: hash_of(text)}, RecordDict(), {})
    envelope = ConfigRecord({"stage": "collect", "round": 1, "attempt": "a", "config": text, "run": "r"})
    content = RecordDict({ENVELOPE: envelope, ADDRESS: ConfigRecord({"address": "client/0"})})
    failed = client_app(Message(content, 7, "train"), context).content[FAILURE]
    assert (failed["type"], failed["message"]) == ("ConfigError", line)


def test_epsilon_does_not_hold_against_a_server_that_is_told():
    noised = ("mechanism=distributed_dp", "delta=1e-2", "secure_sum=pad")
    assert workspace_of(*noised).plan.backend.holds_against("client") == ["outsider", "server"]
    assert workspace_of(*noised, MEASURED).plan.backend.holds_against("client") == ["outsider"]


@pytest.mark.parametrize(("largest", "within"), [(0.5, True), (1.0, True), (1.0001, False), (np.nan, False)])
def test_a_sum_further_off_than_it_may_be_or_of_no_numbers_is_refused(largest, within):
    total = Total(np.zeros(2), 1.0, ("client/0", "client/1"))
    if within:
        require_within(SumError(largest, 0.1, 1.0), total, "ckks")
    else:
        with pytest.raises(PrivacyRefusal, match=r"secure_sum=ckks: the sum of 2 contributions is off by"):
            require_within(SumError(largest, 0.1, 1.0), total, "ckks")
