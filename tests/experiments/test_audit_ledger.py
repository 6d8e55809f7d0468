"""`fedveil audit-ledger`: epsilon from the ledger beside the rows, and what it notices."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from experiments.audit_ledger import charges_in_words
from fl.ledger import DIGEST_DIGITS, NAME
from privacy.accounting.charges import Charge, poisson_steps
from results.rows import read_rows, write_rows
from tests.experiments.command import Ended, Here, read, refused

DELTA = 1e-3
RUN = (
    "mechanism=client_dp",
    "mechanism.client_dp.noise_multiplier=2.5",
    "training.weighting=uniform",
    f"delta={DELTA}",
    "accountant=rdp",
    "clients=6",
    "cohort=3",
    "rounds=5",
    "out=run",
)


@pytest.fixture
def folder(here: Here, tmp_path: Path) -> Path:
    """A finished run, in which clients took part a different number of times."""
    assert here.run(*RUN).status == 0
    return tmp_path / "run"


def audited(here: Here, folder: Path) -> Ended:
    return here("audit-ledger", str(folder), "--format", "markdown")


def changed_rows(folder: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    write_rows(folder / "rows.parquet", change(read_rows(folder / "rows.parquet")))


def factor(metric: str, by: float, where: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Multiply the values of a metric at an address."""
    chosen = (pl.col("metric") == metric) & (pl.col("where") == where)
    return lambda rows: rows.with_columns(value=pl.when(chosen).then(pl.col("value") * by).otherwise(pl.col("value")))


def test_a_run_that_tells_what_its_ledger_holds(here: Here, folder: Path) -> None:
    ended = audited(here, folder)
    assert (ended.status, ended.err) == (0, "")
    rows = read_rows(folder / "rows.parquet")
    told = rows.filter(pl.col("metric") == "epsilon_client", pl.col("where") != "server")["value"]
    lines = [line for line in ended.out.splitlines() if "holds" in line]
    assert len(lines) == told.n_unique() > 1
    for times in range(1, 6):
        event = GaussianDpEvent(2.5)
        found = [line for line in lines if f"{times} x client_dp: Gaussian noise of 2.5" in line]
        for line in found:
            by_run, by_pld, row = map(float, line.split("|")[4:7])
            assert by_run == row == pytest.approx(RdpAccountant().compose(event, times).get_epsilon(DELTA), rel=1e-5)
            assert by_pld == pytest.approx(PLDAccountant().compose(event, times).get_epsilon(DELTA), rel=1e-5)
    assert sum(int(line.split("|")[2]) for line in lines) == len(told)


@pytest.mark.parametrize("by", [0.999, 0.5])
def test_a_row_that_tells_less_is_found(here: Here, folder: Path, by: float) -> None:
    client = read_rows(folder / "rows.parquet").filter(pl.col("metric") == "epsilon_client", where="client/1")
    assert len(client) == 1
    changed_rows(folder, factor("epsilon_client", by, "client/1"))
    ended = audited(here, folder)
    assert ended.status == 1
    [line] = [line for line in ended.out.splitlines() if "the rows tell less than the ledger" in line]
    assert line.split("|")[1].strip() == "client/1"


def test_a_row_that_tells_more_holds(here: Here, folder: Path) -> None:
    changed_rows(folder, factor("epsilon_client", 1.5, "client/1"))
    assert audited(here, folder).status == 0


def test_a_row_that_is_gone_is_found(here: Here, folder: Path) -> None:
    gone = (pl.col("metric") == "epsilon_client") & (pl.col("where") == "client/1")
    changed_rows(folder, lambda rows: rows.filter(~gone))
    ended = audited(here, folder)
    assert ended.status == 1
    assert "the rows tell none" in ended.out


@pytest.mark.parametrize("place", ["summary", "server's last row"])
def test_a_largest_epsilon_that_is_less_is_found(here: Here, folder: Path, place: str) -> None:
    if place == "summary":
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps(summary | {"epsilon_client": summary["epsilon_client"] / 2}))
    else:
        changed_rows(folder, factor("epsilon_client", 0.5, "server"))
    ended = audited(here, folder)
    assert ended.status == 1
    assert f"The {place} tells epsilon_client=" in ended.out


def test_an_answer_without_a_charge_is_found(here: Here, folder: Path) -> None:
    """A client's upload in a round whose cohort it was not in, as the rows of a server that asked it would show it."""
    rows = read_rows(folder / "rows.parquet")
    there = set(rows.filter(pl.col("metric") == "up_bytes", round=2)["where"])
    stranger = next(address for address in (f"client/{client}" for client in range(6)) if address not in there)
    added = rows.filter(pl.col("metric") == "up_bytes", round=2).head(1).with_columns(where=pl.lit(stranger))
    changed_rows(folder, lambda rows: pl.concat([rows, added]))
    ended = audited(here, folder)
    assert ended.status == 1
    assert f"Round 2: {stranger} answered, and the ledger holds no charge for it." in ended.out


def chained(entries: list[dict[str, object]]) -> bytes:
    """The lines of a ledger of these entries, as somebody writes them who knows how its digests are made."""
    lines = []
    before = b""
    for entry in entries:
        text = json.dumps(entry, sort_keys=True).encode()
        before = hashlib.sha256(before + text).hexdigest()[:DIGEST_DIGITS].encode()
        lines.append(text[:-1] + b', "digest": "' + before + b'"}\n')
    return b"".join(lines)


@pytest.mark.parametrize("tampered", ["flipped", "cut", "deleted", "chained anew"])
def test_a_ledger_that_was_tampered_with_is_refused(here: Here, folder: Path, tampered: str) -> None:
    file = folder / "checkpoints" / NAME
    content = file.read_bytes()
    lines = content.splitlines(keepends=True)
    if tampered == "flipped":
        file.write_bytes(content.replace(b"2.5", b"9.5", 1))
    elif tampered == "cut":
        file.write_bytes(b"".join(lines[:-1]))
    elif tampered == "deleted":
        file.unlink()
    else:
        entries = [json.loads(line) for line in lines]
        for entry in entries:
            del entry["digest"]
        assert chained(entries) == content
        entries[0]["charges"][0]["charge"]["event"]["noise_multiplier"] = 9.5
        file.write_bytes(chained(entries))
    told = refused(audited(here, folder))
    assert ("is damaged in line 1" if tampered == "flipped" else "has lost charges") in told


def test_a_run_without_charges_promises_nothing(here: Here, tmp_path: Path) -> None:
    assert here.run("out=run").status == 0
    ended = audited(here, tmp_path / "run")
    assert ended.status == 0
    assert "No client was charged: this run promises no epsilon." in ended.out


def test_where_pld_cannot_account_it_the_runs_accountant_decides(here: Here, tmp_path: Path) -> None:
    shares = ("mechanism=distributed_dp", "server.min_contributors=3", "accountant=rdp")
    assert here.run(*shares, "training.weighting=uniform", "delta=1e-2", "out=run").status == 0
    ended = audited(here, tmp_path / "run")
    assert ended.status == 0, ended
    assert "zCDP of rho" in ended.out


def test_what_is_no_finished_run_is_refused(here: Here, folder: Path) -> None:
    assert refused(here("audit-ledger", "nothing")) == "RUN=nothing: holds no run"
    status = folder / "status.json"
    status.write_text(status.read_text().replace('"finished"', '"running"'))
    assert "is running: allowed are runs that have ended" in refused(audited(here, folder))
    assert "the following arguments are required: RUN" in refused(here("audit-ledger"))


def test_a_run_that_resumes_without_its_charges_is_refused(here: Here, tmp_path: Path) -> None:
    overrides = ("mechanism=client_dp", "training.weighting=uniform", "delta=1e-2", "accountant=rdp", "out=run")
    assert here.run(*overrides).status == 0
    status = tmp_path / "run" / "status.json"
    status.write_text(status.read_text().replace('"finished"', '"failed"'))
    (tmp_path / "run" / "summary.json").unlink()
    file = tmp_path / "run" / "checkpoints" / NAME
    file.write_bytes(file.read_bytes().splitlines(keepends=True)[0])
    assert "ledger.jsonl has lost charges: it has 1 lines, and had 2 when" in refused(here.run(*overrides))
    assert "has lost charges" in read(tmp_path / "run", "status")["error"]


def test_charges_in_words() -> None:
    records = Charge("dp_sgd", "record", "add_remove", poisson_steps(1.1, 0.25, 36))
    assert (
        charges_in_words(frozenset({(records, 2)}))
        == "2 x dp_sgd: 36 times Gaussian noise of 1.1 on samples at rate 0.25"
    )
    assert charges_in_words(frozenset()) == "none"
