"""The contract of a secure sum in every runtime: known updates give the exact mean of the survivors.

The mechanism (`tests/outside/probe.py`) and one of the secure sums (`tests/outside/masked_sum.py`) come from outside,
by a file and a configuration each. Shape: D is the number of values of the model.
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from fl.checkpoint import decode
from fl.workspace import workspace
from results.rows import read_rows
from tests.experiments.command import OUTSIDE, Ended, Here, read
from tests.fl.runtimes.opened_sums import hidden
from tests.outside.probe import BOUND, known_update

CLIENTS = 3
ROUNDS = 2
BASE = (
    "out=run",
    f"clients={CLIENTS}",
    f"rounds={ROUNDS}",
    "device=cpu",
    "model=logistic",
    "data.partition=dirichlet",
    "server.evaluate_every=0",
)
PROBE = (OUTSIDE, "mechanism=probe")
SUMS = ("plain", "masked")
# float32 and 24 fractional bits, over weights that may be small; a client too many or too few is off by 0.1 and more
ALLOWED = 1e-5

INPROCESS = pytest.param((), id="inprocess")
WORKERS = pytest.param(("runtime.workers=2",), id="workers", marks=pytest.mark.slow)
RAY = pytest.param(("runtime=ray",), id="ray", marks=[pytest.mark.ray, pytest.mark.timeout(600)])
DEPLOYMENT = pytest.param(
    ("runtime=deployment",), id="deployment", marks=[pytest.mark.deployment, pytest.mark.timeout(600)]
)
everywhere = pytest.mark.parametrize("runtime", [INPROCESS, WORKERS, RAY, DEPLOYMENT])


def faults(**kinds: str) -> str:
    """The override for clients with faults: `c0="crash"`."""
    return "++mechanism.probe.faults={" + ", ".join(f"client/{c[1:]}: '{kind}'" for c, kind in kinds.items()) + "}"


def final(directory: Path) -> NDArray[np.float32]:
    """The global model after the last round, shape (D,)."""
    return decode((directory / "checkpoints" / f"round-{ROUNDS:06d}.ckpt").read_bytes()).weights_D.numpy()


def exact(directory: Path, survivors: Collection[int], factor: float) -> NDArray[np.float64]:
    """The initial weights plus, for each round, the mean of the survivors' updates by examples, shape (D,)."""
    work = workspace((directory / "config.json").read_text())
    sizes = [len(part) for part in work.plan.partitions]
    assert len(set(sizes)) == CLIENTS, "equal sizes would hide a mean that is not weighted"
    weights_D = work.initial_D.numpy().astype(np.float64)
    for round_ in range(1, ROUNDS + 1):
        updates = [sizes[client] * known_update(client, round_, len(weights_D)).astype(float) for client in survivors]
        weights_D += factor * np.sum(updates, axis=0) / sum(sizes[client] for client in survivors)
    return weights_D


def assert_exact(
    ended: Ended, directory: Path, survivors: Collection[int], factor: float = 1.0, allowed: float = ALLOWED
) -> None:
    """Assert that the run finished, with the weights of the oracle over the survivors."""
    assert ended.status == 0, ended
    error = np.abs(final(directory) - exact(directory, survivors, factor)).max()
    assert error <= allowed, f"off by {error:g}"
    rows = read_rows(directory / "rows.parquet")
    assert rows.filter(metric="survivors")["value"].to_list() == [len(survivors)] * ROUNDS
    left_out = rows.filter(pl.col("metric").is_in(["dropped", "rejected"]))
    missing = {f"client/{client}" for client in range(CLIENTS) if client not in survivors}
    assert {*left_out["where"].to_list()} == missing
    assert len(left_out) == ROUNDS * len(missing)


def assert_refused(ended: Ended, directory: Path, error: str) -> None:
    """Assert a refusal with a one-line reason, which the status keeps."""
    assert ended.status == 2, ended
    assert ended.err.splitlines()[-1] == f"fedveil: error: {error}"
    status = read(directory, "status")
    assert (status["status"], status["error"]) == ("failed", error)
    assert not (directory / "summary.json").exists()


def keys_of(name: str, holder: str) -> tuple[str, ...]:
    """The overrides for a sum opened by one party, with a bound that fits the values of the probe."""
    return f"secure_sum={name}", f"secure_sum.keys={holder}", f"secure_sum.bound={BOUND:g}"


def tolerated(directory: Path, survivors: Collection[int], factor: float = 1.0) -> float:
    """The tolerance of a mean from the sum's declared one: sum and weight are both off in each round."""
    work = workspace((directory / "config.json").read_text())
    sizes = [len(part) for part in work.plan.partitions]
    off = len(survivors) * work.plan.backend.secure_sum.tolerance(work.spec)
    weight = sum(sizes[client] for client in survivors) / max(sizes)
    allowed = ALLOWED + ROUNDS * factor * (1 + BOUND) * off / (weight - off)
    assert allowed < 0.02, "a client too many or too few would pass"
    return allowed


# ---- In this process: each case by itself


@pytest.mark.parametrize("secure_sum", SUMS)
def test_the_mean_of_all(here: Here, tmp_path: Path, secure_sum: str) -> None:
    ended = here("run", *BASE, *PROBE, f"secure_sum={secure_sum}")
    assert_exact(ended, tmp_path / "run", [0, 1, 2])
    assert read(tmp_path / "run", "summary")["backend"] == f"probe+{secure_sum}"


@pytest.mark.parametrize("secure_sum", SUMS)
@pytest.mark.parametrize("fault", ["crash", "nan", "inf", "long"])
def test_a_client_that_fails_is_left_out(here: Here, tmp_path: Path, secure_sum: str, fault: str) -> None:
    ended = here("run", *BASE, *PROBE, f"secure_sum={secure_sum}", faults(c1=fault))
    assert_exact(ended, tmp_path / "run", [0, 2])
    assert "2 contributions left out" in ended.out  # one a round
    assert "round 1: client/1 is left out at stage" in ended.err


@pytest.mark.parametrize("secure_sum", SUMS)
def test_one_survivor(here: Here, tmp_path: Path, secure_sum: str) -> None:
    ended = here("run", *BASE, *PROBE, f"secure_sum={secure_sum}", faults(c0="nan", c2="inf"))
    assert_exact(ended, tmp_path / "run", [1])


def test_drop_out_at_the_second_stage(here: Here, tmp_path: Path) -> None:
    ended = here("run", *BASE, *PROBE, "secure_sum=masked", "secure_sum.leave_before_unmask=[client/2]")
    assert_exact(ended, tmp_path / "run", [0, 1])


@pytest.mark.parametrize("secure_sum", SUMS)
def test_what_a_mechanism_does_to_the_total_is_done_once(here: Here, tmp_path: Path, secure_sum: str) -> None:
    ended = here("run", *BASE, *PROBE, f"secure_sum={secure_sum}", "mechanism.probe.double=true")
    assert_exact(ended, tmp_path / "run", [0, 1, 2], factor=2.0)


@hidden
@pytest.mark.parametrize("fault", ["crash", "nan"])
def test_a_client_that_fails_is_left_out_of_a_hidden_sum(
    here: Here, tmp_path: Path, name: str, holder: str, fault: str
) -> None:
    ended = here("run", *BASE, *PROBE, *keys_of(name, holder), faults(c1=fault))
    assert_exact(ended, tmp_path / "run", [0, 2], allowed=tolerated(tmp_path / "run", [0, 2]))


@pytest.mark.parametrize("secure_sum", SUMS)
def test_too_few_are_refused(here: Here, tmp_path: Path, secure_sum: str) -> None:
    ended = here("run", *BASE, *PROBE, f"secure_sum={secure_sum}", faults(c1="crash"), "server.min_contributors=3")
    error = "2 contributors are left of 3, 3 are needed; client/1 dropped out: crashed on purpose"
    assert_refused(ended, tmp_path / "run", error)


def test_too_few_at_the_second_stage_are_refused(here: Here, tmp_path: Path) -> None:
    late = ("secure_sum=masked", "secure_sum.leave_before_unmask=[client/0]", "server.min_contributors=3")
    error = "2 contributors are left of 3, 3 are needed; client/0 dropped out: gone before unmask"
    assert_refused(here("run", *BASE, *PROBE, *late), tmp_path / "run", error)


@pytest.mark.parametrize("secure_sum", SUMS)
def test_when_everybody_fails_the_first_says_why(here: Here, tmp_path: Path, secure_sum: str) -> None:
    ended = here("run", *BASE, *PROBE, f"secure_sum={secure_sum}", faults(c0="nan", c1="crash", c2="crash"))
    error = (
        "0 contributors are left of 3, 1 are needed; client/0 dropped out: the update of a contribution holds NaN or "
        "infinity (where training diverged, lower training.lr)"
    )
    assert_refused(ended, tmp_path / "run", error)


# ---- In every runtime


@everywhere
def test_known_updates_in_every_runtime(here: Here, tmp_path: Path, runtime: tuple[str, ...]) -> None:
    """Several cases in one run, for a start of Ray or of a deployment takes long."""
    left = ("secure_sum=masked", "secure_sum.leave_before_unmask=[client/2]", "mechanism.probe.double=true")
    ended = here("run", *BASE, *PROBE, *runtime, *left, faults(c0="long"))
    assert_exact(ended, tmp_path / "run", [1], factor=2.0)


PARTIES = (
    "secure_sum=crypten",
    "secure_sum.bound=4",
    "secure_sum.fractional_bits=24",
    "server.min_contributors=2",
)
# a deployment of parties starts thirteen processes and more
PARTIES_APART = pytest.param(
    ("runtime=deployment",), 2, id="deployment", marks=[pytest.mark.deployment, pytest.mark.timeout(1200)]
)
IN_HERE = [pytest.param((), parties, id=f"inprocess {parties}") for parties in (2, 3, 5)]
ELSEWHERE = [pytest.param(*one.values, 3, id=one.id, marks=one.marks) for one in (WORKERS, RAY)]


@pytest.mark.slow
@pytest.mark.parametrize(("runtime", "parties"), [*IN_HERE, *ELSEWHERE, PARTIES_APART])
def test_parties_sum_known_updates_in_every_runtime(
    here: Here, tmp_path: Path, runtime: tuple[str, ...], parties: int
) -> None:
    options = (*PARTIES, f"secure_sum.parties={parties}", faults(c0="long"), "mechanism.probe.double=true")
    ended = here("run", *BASE, *PROBE, *runtime, *options)
    assert_exact(ended, tmp_path / "run", [1, 2], factor=2.0)
    rows = read_rows(tmp_path / "run" / "rows.parquet")
    names = {f"party/{party}" for party in range(parties)}
    assert {*rows.filter(metric="comm_rounds")["where"].to_list()} == names


@pytest.mark.slow
@pytest.mark.parametrize(("runtime", "parties"), [*IN_HERE[:1], *ELSEWHERE, PARTIES_APART])
def test_parties_take_the_median_of_known_updates_in_every_runtime(
    here: Here, tmp_path: Path, runtime: tuple[str, ...], parties: int
) -> None:
    """With the dealer beside them."""
    options = (*PARTIES, f"secure_sum.parties={parties}", "secure_sum/aggregate=median", "training.weighting=uniform")
    ended = here("run", *BASE, *PROBE, *runtime, *options)
    assert ended.status == 0, ended
    work = workspace((tmp_path / "run" / "config.json").read_text())
    weights_D = work.initial_D.numpy().astype(np.float64)
    for round_ in range(1, ROUNDS + 1):
        updates = [known_update(client, round_, len(weights_D)) for client in range(CLIENTS)]
        weights_D += np.median(np.array(updates, np.float64), axis=0)
    assert np.abs(final(tmp_path / "run") - weights_D).max() <= ALLOWED
    rows = read_rows(tmp_path / "run" / "rows.parquet")
    assert len(rows.filter(stage="dealer", metric="comm_bytes")) == ROUNDS


@pytest.mark.slow
@pytest.mark.parametrize(("runtime", "parties"), [*IN_HERE[:1], *ELSEWHERE])
def test_too_few_for_parties_are_refused_in_every_runtime(
    here: Here, tmp_path: Path, runtime: tuple[str, ...], parties: int
) -> None:
    options = (*PARTIES, f"secure_sum.parties={parties}", faults(c0="nan", c2="crash"))
    ended = here("run", *BASE, *PROBE, *runtime, *options)
    error = read(tmp_path / "run", "status")["error"]
    assert error.startswith("1 contributors are left of 3, 2 are needed; client/")
    assert_refused(ended, tmp_path / "run", error)


@everywhere
def test_too_few_are_refused_in_every_runtime(here: Here, tmp_path: Path, runtime: tuple[str, ...]) -> None:
    ended = here("run", *BASE, *PROBE, *runtime, faults(c0="nan", c1="inf", c2="crash"), "server.min_contributors=2")
    error = read(tmp_path / "run", "status")["error"]
    assert "0 contributors are left of 3, 2 are needed; client/" in error
    if runtime == ("runtime=deployment",):  # a SuperLink says that a run failed, and why, but not of which kind that is
        assert ended.status in (1, 2)
        assert ended.err.splitlines()[-1] == f"fedveil: error: {error}"
    else:
        assert_refused(ended, tmp_path / "run", error)


@everywhere
@hidden
def test_known_updates_under_every_hidden_sum_in_every_runtime(
    here: Here, tmp_path: Path, runtime: tuple[str, ...], name: str, holder: str
) -> None:
    """A client drops out; where the clients share the key, it is the one who was elected to open."""
    options = (*keys_of(name, holder), "mechanism.probe.double=true", "server.min_contributors=2", faults(c0="long"))
    ended = here("run", *BASE, *PROBE, *runtime, *options)
    assert_exact(ended, tmp_path / "run", [1, 2], 2.0, tolerated(tmp_path / "run", [1, 2], 2.0))
    rows = read_rows(tmp_path / "run" / "rows.parquet")
    opened = rows.filter((pl.col("stage") == "open") & (pl.col("metric") == "down_bytes"))
    assert opened["where"].to_list() == [holder if holder == "keyholder" else "client/0"] * ROUNDS


# one of three clients may drop out; the bound fits the values of the probe
SECAGG = ("secure_sum=secagg", f"secure_sum.bound={BOUND:g}", "secure_sum.value_bits=24")


@everywhere
def test_neighbours_sum_known_updates_in_every_runtime(here: Here, tmp_path: Path, runtime: tuple[str, ...]) -> None:
    """A client drops out between its shares and its masked vector, so that others put its key together."""
    ended = here("run", *BASE, *PROBE, *runtime, *SECAGG, faults(c0="long"), "mechanism.probe.double=true")
    assert_exact(ended, tmp_path / "run", [1, 2], 2.0, tolerated(tmp_path / "run", [1, 2], 2.0))
    rows = read_rows(tmp_path / "run" / "rows.parquet")
    asked = rows.filter((pl.col("metric") == "down_bytes") & (pl.col("where").str.starts_with("client/")))
    assert {*asked.filter(stage="mask")["where"].to_list()} == {"client/0", "client/1", "client/2"}
    assert {*asked.filter(stage="unmask")["where"].to_list()} == {"client/1", "client/2"}


@everywhere
def test_too_few_neighbours_are_refused_in_every_runtime(here: Here, tmp_path: Path, runtime: tuple[str, ...]) -> None:
    ended = here("run", *BASE, *PROBE, *runtime, *SECAGG, faults(c0="nan", c2="crash"))
    error = read(tmp_path / "run", "status")["error"]
    assert "1 contributors are left of 3, 2 are needed; client/" in error
    if runtime == ("runtime=deployment",):
        assert ended.status in (1, 2)
    else:
        assert_refused(ended, tmp_path / "run", error)


# clients that train together round otherwise; only one process can have them do so
ALONE = "runtime.together=1"
TRAINING = (
    *BASE[1:],
    "rounds=3",
    "training.optimizer.momentum=0.9",
    "server=fedadam",
    "server.evaluate_every=1",
    ALONE,
)


@pytest.mark.parametrize("runtime", [WORKERS, RAY, DEPLOYMENT])
def test_weights_are_the_same_bit_for_bit_in_every_runtime(
    here: Here, tmp_path: Path, runtime: tuple[str, ...]
) -> None:
    ended = here("run", *TRAINING, "out=here"), here("run", *TRAINING, *runtime, "out=there")
    assert [one.status for one in ended] == [0, 0], ended
    summaries = [read(tmp_path / name, "summary") for name in ("here", "there")]
    for figure in ("weights_sha256", "accuracy", "loss", "upload_bytes_per_parameter", "dropped"):
        assert summaries[0][figure] == summaries[1][figure]


@pytest.mark.parametrize("runtime", [WORKERS, RAY, DEPLOYMENT])
@pytest.mark.parametrize("kind", ["oversized", "replayed"])
def test_messages_that_go_wrong_are_left_out_in_every_runtime(
    here: Here, tmp_path: Path, runtime: tuple[str, ...], kind: str
) -> None:
    """Also outside this process, where messages are serialised and a client's node does not remember its messages."""
    options = (*BASE[1:], ALONE, "rounds=3", "seed=4", f"faults={kind}", "faults.rate=0.4")
    ended = here("run", *options, "out=here"), here("run", *options, *runtime, "out=there")
    assert [one.status for one in ended] == [0, 0], ended
    assert len({read(tmp_path / name, "summary")["weights_sha256"] for name in ("here", "there")}) == 1
    found = []
    for name in ("here", "there"):
        rows = read_rows(tmp_path / name / "rows.parquet")
        struck = rows.filter(metric=f"fault_{kind}")
        refused = rows.filter(metric="rejected")
        assert len(struck) >= 2
        assert sorted(struck.select("round", "where").rows()) == sorted(refused.select("round", "where").rows())
        found.append(sorted(struck.select("round", "where").rows()))
    assert found[0] == found[1]
