import io
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from privacy.errors import ConfigError
from results.breakdown import ALL, breakdown, by_phase
from results.commands.table import main
from results.measurements import Row
from results.rows import to_frame
from results.runs import collect
from results.store import RunDirectory
from tests.results.samples import CKKS, configuration, store, summary

PARTY_SUM = {"_target_": "privacy.CryptenSum"}


def client(number: int, index: int, train_s: float, protect_s: float, stage: str, up: float) -> list[Row]:
    me = f"client/{index}"
    return [
        Row(number, me, "train", "wall", train_s, "s"),
        Row(number, me, "protect", "wall", protect_s, "s"),
        Row(number, me, "protect/encrypt", "part", protect_s / 2, "s"),
        Row(number, me, "train", "cpu", 100.0, "s"),
        Row(number, me, stage, "up_bytes", up, "bytes"),
        Row(number, me, stage, "down_bytes", 40.0, "bytes"),
        Row(number, me, stage, "envelope_bytes", 9.0, "bytes"),
    ]


def server(number: int, stage: str, compute_s: float) -> list[Row]:
    return [
        Row(number, "server", stage, "compute", compute_s, "s"),
        Row(number, "server", f"{stage}/add", "part", compute_s / 2, "s"),
        Row(number, "server", "round", "wall", 50.0, "s"),
        Row(number, "server", "evaluate", "wall", 60.0, "s"),
        Row(number, "server", "evaluate", "accuracy", 0.9, "1"),
        Row(number, "server", "step", "wall", 1.0, "s"),
        Row(number, "transport", stage, "wall", 70.0, "s"),
    ]


def figures(frame: pl.DataFrame, party: str, phase: str) -> dict[str, Any]:
    (found,) = frame.filter((pl.col("party") == party) & (pl.col("phase") == phase)).to_dicts()
    return found


def test_a_phase_adds_up_over_those_of_a_round_and_nothing_counts_twice() -> None:
    rows = [Row(0, "client/0", "train", "wall", 1e6, "s"), Row(0, "client/0", "collect", "up_bytes", 1e9, "bytes")]
    for number, train_s in ((1, 30.0), (2, 3.0), (3, 5.0)):  # the first round is slow
        rows += client(number, 0, train_s, 2.0, "collect", 100.0) + client(number, 1, 1.0, 2.0, "collect", 100.0)
        rows += server(number, "collect", 4.0)
    found = by_phase(to_frame("x", rows))
    assert found.select("party", "phase").rows() == [
        *(("server", "collect"), ("server", "step"), ("server", ALL)),
        *(("clients", "train"), ("clients", "protect"), ("clients", "collect"), ("clients", ALL)),
    ]
    assert figures(found, "clients", "train")["phase_s"] == 6.0, "the median of 31, 4 and 6"
    assert figures(found, "clients", ALL)["phase_s"] == 10.0
    assert figures(found, "server", ALL)["phase_s"] == 5.0
    sent = figures(found, "clients", "collect")
    assert (sent["phase_s"], sent["sent_bytes"], sent["received_bytes"]) == (None, 200.0, 80.0)
    assert figures(found, "server", "collect")["sent_bytes"] is None


def test_bytes_are_means_over_all_rounds_also_those_without_any() -> None:
    rows = client(1, 0, 1.0, 1.0, "collect", 100.0) + server(1, "collect", 1.0) + server(2, "collect", 1.0)
    assert figures(by_phase(to_frame("x", rows)), "clients", "collect")["sent_bytes"] == 50.0


def test_what_parties_tell_one_another_is_told_at_both_ends_and_waiting_is_within_their_time() -> None:
    rows = [Row(1, f"party/{i}", "peers", "comm_bytes", 30.0, "bytes") for i in range(3)]
    rows += [Row(1, f"party/{i}", "peers", "comm_wall", 8.0, "s") for i in range(3)]
    rows += [Row(1, f"party/{i}", "protect", "wall", 9.0, "s") for i in range(3)]
    found = by_phase(to_frame("x", rows))
    assert figures(found, "parties", "peers") == {
        "run": "x",
        "party": "parties",
        "phase": "peers",
        "phase_s": None,
        "sent_bytes": 45.0,
        "received_bytes": 45.0,
    }
    assert figures(found, "parties", ALL)["phase_s"] == 27.0


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    for seed, ckks_s in ((1, 4.0), (2, 9.0)):
        for secure_sum, protect_s, up in (({}, 1.0, 100.0), ({"secure_sum": CKKS}, ckks_s, 400.0)):
            path = store(root, configuration(seed=seed, **secure_sum), "finished", summary())
            rows = client(1, 0, 2.0, protect_s, "collect", up) + server(1, "collect", 1.0)
            if secure_sum:
                rows += [Row(1, "keyholder", "protect", "wall", 3.0, "s"), *server(1, "open", 5.0)]
            RunDirectory(path).write_rows(to_frame("x", rows))
    return root


def test_each_phase_is_compared_with_the_same_of_the_plain_twin(runs: Path) -> None:
    found = breakdown(collect(sorted(runs.iterdir()))).filter(~pl.col("plain"))
    protect = figures(found, "clients", "protect")
    assert protect["phase_ratio"] == pytest.approx(6.0)  # the square root of 4 * 9
    assert (protect["phase_s"], protect["seeds"], protect["phase_ratio_n"]) == (6.5, 2, 2)
    assert figures(found, "clients", "collect")["sent_ratio"] == 4.0
    assert figures(found, "clients", "train")["phase_ratio"] == 1.0
    for party, phase in (("keyholder", "protect"), ("server", "open")):
        assert figures(found, party, phase)["phase_ratio"] is None, "plain has none"


def test_the_table_of_phases(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = store(runs, configuration(seed=3), "failed", error="x")
    assert main([str(runs), "--breakdown"]) == 0
    text = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert lines[0][:5] == ["configuration", "party", "phase", "seeds", "time (ms/round)"]
    assert [line[0] for line in lines[2:]] == ["plain"] * 7 + ["CKKS"] * 10
    assert [line[1:3] for line in lines if line[0] == "CKKS"][-2:] == [
        ["keyholder", "protect"],
        ["keyholder", ALL],
    ]
    assert "medians over rounds" in text
    assert f"failed: x: {failed} (plain)" in text


def test_its_columns_are_chosen_by_name_and_csv_is_raw(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(runs), "--breakdown", "--columns", "party,phase,phase_s", "--format", "csv"])
    frame = pl.read_csv(io.StringIO(capsys.readouterr().out))
    kept = frame.filter((pl.col("party") == "keyholder") & (pl.col("phase") == "protect"))
    assert kept["phase_s"].to_list() == [3.0]
    assert "sent_bytes" not in frame.columns
    with pytest.raises(ConfigError, match="--columns=accuracy: no such column; allowed are configuration, party"):
        main([str(runs), "--breakdown", "--columns", "accuracy"])


def test_without_a_finished_run_there_is_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, configuration(), "failed", error="x")
    assert main([str(tmp_path), "--breakdown"]) == 0
    assert "failed: x" in capsys.readouterr().out
