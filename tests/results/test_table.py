import io
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from privacy.errors import ConfigError
from results.commands.table import main
from results.runs import collect
from results.table import table
from tests.results.samples import CKKS, configuration, store, summary

NOISE = {"dp": {"_target_": "privacy.DpSgd"}}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    for seed, plain_s, ckks_s in ((1, 0.10, 0.20), (2, 0.11, 0.33)):
        store(root, configuration(seed=seed), "finished", summary(round_s=plain_s))
        figures = summary(
            round_s=ckks_s, upload_bytes_per_parameter=15.0, assumption="server and keyholder do not collude"
        )
        store(root, configuration(seed=seed, secure_sum=CKKS), "finished", figures)
    return root


def markdown_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]


def test_the_whole_way_to_markdown(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(runs)]) == 0
    text = capsys.readouterr().out
    head, plain, ckks = markdown_rows(text)
    told = dict(zip(head, ckks, strict=True))
    assert plain[0] == "plain"
    assert told["configuration"] == "CKKS"
    assert told["seeds"] == "2"
    assert told["round / plain"].startswith("2.4")  # the square root of 2 * 3
    assert told["upload / plain"] == "3.75"
    assert told["upload (B/param)"] == "15.00"
    assert head[-1] == "trust assumption"
    assert ckks[-1] == "server and keyholder do not collude"
    assert "ε" not in head, "nothing measured it"
    assert "geometric" in text


def test_runs_without_figures_are_listed_and_not_dropped(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = store(runs, configuration(seed=3), "failed", error="RuntimeFailure: worker 2 died")
    interrupted = store(runs, configuration(seed=3, secure_sum=CKKS), "running")
    main([str(runs)])
    text = capsys.readouterr().out
    assert f"failed: RuntimeFailure: worker 2 died: {failed} (plain)\n" in text
    assert f"interrupted: {interrupted} (CKKS)\n" in text
    assert [row[1] for row in markdown_rows(text)[1:]] == ["2", "2"]


def test_only_failures_make_a_table_without_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, configuration(), "failed", error="x")
    for form in ("markdown", "csv", "latex", "terminal"):
        assert main([str(tmp_path), "--format", form]) == 0
        assert "failed" in capsys.readouterr().out


def test_a_spent_budget_is_a_row_that_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, configuration(), "finished", summary())
    store(tmp_path, configuration(mechanism=NOISE), "budget_exhausted", summary(epsilon=2.0))
    main([str(tmp_path)])
    text = capsys.readouterr().out
    assert len(markdown_rows(text)) == 3
    assert "dp: budget_exhausted." in text


def test_columns_are_chosen_and_the_assumption_stays_last(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(runs), "--columns", "assumption,loss, round_ratio,epsilon"])
    assert markdown_rows(capsys.readouterr().out)[0] == [
        *("configuration", "loss (nats)", "round / plain", "ε", "trust assumption")
    ]


def test_the_error_of_a_sum_is_the_largest_of_any_seed_and_shown_where_that_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, error in ((1, 2e-9), (2, 1.25e-7)):
        store(tmp_path, configuration(seed=seed), "finished", summary(sum_error=error, epsilon=2.0))
    assert main([str(tmp_path)]) == 0
    assert "error of the sum" not in capsys.readouterr().out
    main([str(tmp_path), "--columns", "sum_error"])
    text = capsys.readouterr().out
    head, row = markdown_rows(text)
    assert dict(zip(head, row, strict=True))["error of the sum (1e-9)"].startswith("125")
    assert "\nerror of the sum (1e-9) is the largest of any seed.\n" in text
    main([str(tmp_path), "--columns", "epsilon"])
    assert "ε is the largest of any seed." in capsys.readouterr().out
    main([str(tmp_path), "--columns", "epsilon,sum_error"])
    assert "ε and error of the sum (1e-9) are the largest of any seed." in capsys.readouterr().out


def test_what_is_wrong_is_said_in_one_line(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, named in (
        ([str(runs), "--columns", "speed"], ("speed", "round_s", "accuracy")),
        ([str(runs), "--format", "html"], ("html", "markdown", "latex")),
        ([str(runs), "--colums", "loss"], ("--colums",)),
        ([str(tmp_path / "nowhere")], (str(tmp_path / "nowhere"),)),
        ([], (str(tmp_path / "results" / "runs"),)),
        ([str(runs), "--out", str(tmp_path / "no" / "file.md")], ("file.md",)),
    ):
        with pytest.raises(ConfigError) as refusal:
            main(arguments)
        assert "\n" not in str(refusal.value)
        assert all(name in str(refusal.value) for name in named)


def test_out_takes_its_format_from_the_name(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, start in (
        ("t.csv", "configuration,"),
        ("t.tex", "% needs"),
        ("t.md", "| configuration"),
        ("t", "| conf"),
    ):
        assert main([str(runs), "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_text(encoding="utf-8").startswith(start)
    assert capsys.readouterr().out == ""
    main([str(runs), "--out", str(tmp_path / "t.csv"), "--format", "latex"])
    assert (tmp_path / "t.csv").read_text().startswith("% needs")


def test_csv_equals_the_figures_on_disk(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(runs), "--format", "csv"])
    frame = pl.read_csv(io.StringIO(capsys.readouterr().out)).sort("round_s")
    assert frame["round_s"].to_list() == [(0.10 + 0.11) / 2, (0.20 + 0.33) / 2]


def test_a_pipe_gets_markdown_and_a_terminal_a_table_for_the_eye(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main([str(runs)])
    assert capsys.readouterr().out.startswith("| configuration")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    main([str(runs)])
    shown = capsys.readouterr().out
    assert "|" not in shown
    assert "─" in shown


def test_figures_that_rest_on_fewer_seeds_say_so(runs: Path) -> None:
    store(runs, configuration(seed=3, secure_sum=CKKS), "finished", summary())
    sheet = table(collect(sorted(runs.iterdir())))
    assert "round / plain of CKKS: from 2 of 3 seeds." in sheet.notes


def test_a_repetition_is_named(tmp_path: Path) -> None:
    first = store(tmp_path / "a", configuration(), "finished", summary())
    last = store(tmp_path / "b", configuration(), "finished", summary())
    sheet = table(collect([first, last]))
    assert f"Left out, since a later run repeats it: {first}." in sheet.notes


def test_plain_runs_alone_have_no_overheads(tmp_path: Path) -> None:
    paths = [store(tmp_path, configuration(clients=clients), "finished", summary()) for clients in (10, 5)]
    sheet = table(collect(paths))
    assert [row["configuration"] for row in sheet.rows] == ["clients=5", "clients=10"]
    assert not {column.kind for column in sheet.columns} & {"ratio", "difference"}


def test_plain_comes_before_what_is_compared_with_it(tmp_path: Path) -> None:
    variants = [{"secure_sum": CKKS, "mechanism": NOISE}, {"mechanism": NOISE}, {"secure_sum": CKKS}, {}]
    paths = [
        store(tmp_path, configuration(clients=clients, **variant), "finished", summary())
        for clients in (10, 5)
        for variant in variants
    ]
    labels = [row["configuration"] for row in table(collect(paths)).rows]
    expected = ["plain", "CKKS", "dp + CKKS", "dp"]
    assert labels == [f"{name} clients={clients}" for clients in (5, 10) for name in expected]


def test_as_a_program_without_a_terminal(runs: Path) -> None:
    code = "import sys; from results.commands.table import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-W", "error", "-c", code, str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("| configuration")


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """Two seeds with opposite signs of the difference, and with equal bytes."""
    for seed, accuracy, round_s in ((1, 0.92, 0.12), (2, 0.89, 0.09)):
        store(tmp_path, configuration(seed=seed), "finished", summary(accuracy=0.9, round_s=0.1))
        figures = summary(accuracy=accuracy, round_s=round_s, upload_bytes_per_parameter=8.0)
        store(tmp_path, configuration(seed=seed, secure_sum=CKKS), "finished", figures)
    return tmp_path


@pytest.mark.parametrize("form", ["markdown", "latex", "terminal"])
def test_a_difference_inside_the_noise_says_so(noise: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(noise), "--format", form, "--columns", "accuracy_points,round_ratio,upload_ratio"])
    text = capsys.readouterr().out
    assert text.count(" ns") == 3, "of accuracy and time, and in the note; bytes are sure"
    percent = "95 \\%" if form == "latex" else "95 %"
    assert f"ns: the {percent} interval contains no difference from plain, so it may be noise." in text
    if form == "markdown":
        assert markdown_rows(text)[2][1].endswith("ns")
        assert markdown_rows(text)[2][3] == "2.00"


def test_a_difference_inside_the_noise_says_so_in_csv(noise: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(noise), "--format", "csv", "--columns", "accuracy_points,upload_ratio,loss"])
    frame = pl.read_csv(io.StringIO(capsys.readouterr().out))
    assert frame["accuracy_points_ns"].to_list() == [False, True]
    assert frame["upload_ratio_ns"].to_list() == [False, False]
    assert "loss_ns" not in frame.columns


def test_one_seed_says_that_it_has_no_interval(noise: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = "A comparison over one seed has no interval, so it may be noise."
    main([str(noise)])
    assert note not in capsys.readouterr().out
    single = [str(run) for run in noise.iterdir() if '"seed":1' in (run / "config.json").read_text()]
    main(single)
    text = capsys.readouterr().out
    assert note in text
    assert " ns" not in text
