import io
import json
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from privacy.errors import ConfigError
from results.commands.query import main
from results.measurements import Row
from results.rows import to_frame
from results.runs import RUNS
from results.store import RunDirectory
from tests.results.samples import CKKS, configuration, store, summary


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    for seed in (1, 2):
        for name, secure_sum, wall_s in (("plain", {}, 0.25), ("ckks", {"secure_sum": CKKS}, 0.75)):
            values = configuration(seed=seed, **secure_sum)
            path = store(root, values, "finished", summary(backend=name, accuracy=0.5 + seed / 8))
            rows = [Row(number, "server", "round", "wall", wall_s, "s") for number in (1, 2)]
            RunDirectory(path).write_rows(to_frame("x", [*rows, Row(1, "client/0", "collect", "up_bytes", 7, "bytes")]))
    return root


def ask(runs: Path, sql: str, capsys: pytest.CaptureFixture[str], *options: str) -> pl.DataFrame:
    assert main([sql, str(runs), "--format", "csv", *options]) == 0
    return pl.read_csv(io.StringIO(capsys.readouterr().out))


def test_runs_are_a_table_with_their_figures(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = ask(runs, "SELECT backend, AVG(accuracy) AS a, COUNT(*) AS n FROM runs GROUP BY 1 ORDER BY 1", capsys)
    assert frame.to_dicts() == [{"backend": name, "a": 0.6875, "n": 2} for name in ("ckks", "plain")]
    assert ask(runs, "SELECT * FROM runs", capsys).columns == list(RUNS)


def test_rows_are_a_table_that_joins_the_runs_by_path(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sql = """SELECT runs.backend, SUM(rows.value) AS s FROM rows JOIN runs ON rows.path = runs.path
             WHERE rows."where" = 'server' AND rows.metric = 'wall' GROUP BY runs.backend ORDER BY s"""
    assert ask(runs, sql, capsys).to_dicts() == [{"backend": "plain", "s": 1.0}, {"backend": "ckks", "s": 3.0}]


def test_a_run_without_rows_is_in_one_table_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = store(tmp_path, configuration(), "failed", error="x")
    assert ask(tmp_path, "SELECT path, error FROM runs", capsys).to_dicts() == [{"path": str(path), "error": "x"}]
    assert main(["SELECT * FROM rows", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("\n") == 2, "a heading and no line"


def test_people_get_six_digits_and_csv_all(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "SELECT accuracy / 3 AS third FROM runs WHERE seed = '1' LIMIT 1"
    assert ask(runs, sql, capsys)["third"].to_list() == [0.625 / 3]
    for form, line in (("markdown", "| 0.208333 |"), ("latex", r"0.208333 \\"), ("terminal", "0.208333")):
        main([sql, str(runs), "--format", form])
        assert line in [text.strip() for text in capsys.readouterr().out.splitlines()]


def test_an_answer_goes_to_a_file(runs: Path, tmp_path: Path) -> None:
    main(["SELECT COUNT(*) AS n FROM runs", str(runs), "--out", str(tmp_path / "n.csv")])
    assert (tmp_path / "n.csv").read_text() == "n\n4\n"


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("SELEC 1", "SELEC"),
        ("SELECT * FROM nope", "nope"),
        ("SELECT nope FROM runs", "nope"),
        ("SELECT SUM(path) FROM runs", "sum"),
        ("SELECT path FROM runs; SELECT 2", "one"),
        ("", "one"),
        ("DROP TABLE runs", "the query returns no columns"),
        ("DELETE FROM rows WHERE path = 'x'; DROP TABLE rows", "one"),
    ],
)
def test_what_has_no_answer_is_refused_in_one_line(runs: Path, sql: str, named: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        main([sql, str(runs)])
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "tables are runs and rows" in str(refusal.value)


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("wal", "no row has the metric wal; did you mean wall?"),
        ("zzz", "no row has the metric zzz; there are up_bytes, wall"),
    ],
)
def test_a_metric_of_which_there_is_no_row_is_refused(runs: Path, metric: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        main([f"SELECT value FROM rows WHERE metric = '{metric}'", str(runs)])


def test_an_answer_may_be_empty_for_another_reason(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(runs, "SELECT value FROM rows WHERE metric = 'wall' AND value > 9", capsys).is_empty()


def test_a_damaged_file_of_rows_is_refused_in_one_line(runs: Path) -> None:
    (next(iter(runs.iterdir())) / "rows.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ConfigError, match=r"^SQL: "):
        main(["SELECT COUNT(value) FROM rows", str(runs)])


def test_lists_have_no_place_in_csv(runs: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--format=csv: "):
        main(["SELECT ARRAY_AGG(seed) AS seeds FROM runs", str(runs), "--format", "csv"])


def test_as_a_command(runs: Path) -> None:
    code = "import sys; from experiments.cli import main; sys.exit(main(sys.argv[1:]))"
    for sql, status, begins in (
        ("SELECT COUNT(*) AS n FROM rows", 0, "| "),
        ("SELECT * FROM tables", 2, "fedveil: error: SQL: "),
    ):
        command = [sys.executable, "-W", "error", "-c", code, "query", sql, str(runs)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == status
        assert (done.stdout or done.stderr).startswith(begins)
        assert done.stderr.count("\n") == (status == 2)


def test_configurations_can_be_asked_by_key(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = ask(runs, "SELECT DISTINCT configuration FROM runs WHERE plain", capsys)["configuration"]
    assert json.loads(text)["data"]["name"] == "digits"
