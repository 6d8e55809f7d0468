import io
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest

from privacy.errors import ConfigError
from results.breakdown import ALL, OTHER, breakdown, by_step
from results.commands.table import main
from results.measurements import Row
from results.rows import to_frame
from results.runs import collect
from results.store import RunDirectory
from tests.results.samples import CKKS, configuration, store, summary

Line = tuple[str, str, str, float | None]


def working(number: int, where: str, phase: str, whole_s: float, **steps_s: float) -> list[Row]:
    """The rows of a phase with known seconds, and of its steps."""
    metric = "compute" if where == "server" else "wall"
    steps = [Row(number, where, f"{phase}/{step}", "part", value, "s") for step, value in steps_s.items()]
    return [*steps, Row(number, where, phase, metric, whole_s, "s")]


def lines_of(frame: pl.DataFrame) -> list[Line]:
    return [tuple(row) for row in frame.select("party", "phase", "step", "phase_s").rows()]


def seconds(frame: pl.DataFrame, party: str, phase: str) -> dict[str, float]:
    found = frame.filter((pl.col("party") == party) & (pl.col("phase") == phase))
    return dict(found.select("step", "phase_s").iter_rows())


def test_the_steps_of_all_clients_add_up_and_other_is_the_rest() -> None:
    rows = working(1, "client/0", "train", 9.0)
    rows += working(1, "client/0", "protect", 10.0, encode=1.0, encrypt=6.0)
    rows += working(1, "client/1", "protect", 8.0, encode=2.0, encrypt=3.0)
    rows += working(1, "server", "collect", 4.0, add=3.5)
    rows += [Row(1, "client/0", "collect", "up_bytes", 8.0, "bytes")]
    assert lines_of(by_step(to_frame("x", rows))) == [
        *(("server", "collect", ALL, 4.0), ("server", "collect", "add", 3.5), ("server", "collect", OTHER, 0.5)),
        ("server", ALL, ALL, 4.0),
        *(("clients", "train", ALL, 9.0), ("clients", "train", OTHER, 9.0)),
        *(("clients", "protect", ALL, 18.0), ("clients", "protect", "encode", 3.0)),
        *(("clients", "protect", "encrypt", 9.0), ("clients", "protect", OTHER, 6.0)),
        *(("clients", "collect", ALL, None), ("clients", ALL, ALL, 27.0)),
    ]


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        # medians of each step would be 11 and 8, and leave 1 of 20
        ([(99.0, 9.0, 8.0), (10.0, 11.0, 9.0), (20.0, 12.0, 5.0)], {ALL: 20.0, "mask": 12.0, "add": 5.0, OTHER: 3.0}),
        # the second and the third round by time
        (
            [(30.0, 20.0, 0.0), (99.0, 1.0, 1.0), (5.0, 1.0, 1.0), (20.0, 12.0, 4.0)],
            {ALL: 25.0, "mask": 16.0, "add": 2.0, OTHER: 7.0},
        ),
    ],
)
def test_steps_are_of_the_rounds_whose_time_is_the_median(
    rounds: list[tuple[float, float, float]], expected: Mapping[str, float]
) -> None:
    rows = working(0, "server", "collect", 15.0, add=14.0, encode=1.0)  # set-up
    for number, (whole_s, mask_s, add_s) in enumerate(rounds, 1):
        rows += working(number, "server", "collect", whole_s, mask=mask_s, add=add_s)
    assert seconds(by_step(to_frame("x", rows)), "server", "collect") == expected


def test_a_step_of_another_round_alone_took_no_time() -> None:
    rows = working(1, "server", "unmask", 9.0, recover=8.0) + working(2, "server", "unmask", 2.0, add=1.0)
    rows += working(3, "server", "unmask", 1.0, add=0.5)
    found = seconds(by_step(to_frame("x", rows)), "server", "unmask")
    assert found == {ALL: 2.0, "recover": 0.0, "add": 1.0, OTHER: 1.0}


def test_a_step_of_a_protocol_may_be_named_like_the_rest() -> None:
    rows = working(1, "server", "collect", 9.0, other=2.0, add=3.0)
    assert seconds(by_step(to_frame("x", rows)), "server", "collect") == {ALL: 9.0, "add": 3.0, OTHER: 6.0}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two seeds of plain and of ckks; a step of ckks occurs in the second seed only."""
    root = tmp_path / "runs"
    encrypting = {1: {"encode": 1.0, "encrypt": 2.0}, 2: {"encode": 2.0, "open": 5.0, "encrypt": 1.0}}
    for seed, protect_s, collect_s in ((1, 4.0, 6.0), (2, 10.0, 12.0)):
        rows = working(1, "client/0", "train", 2.0)
        plain = working(1, "client/0", "protect", 1.0) + working(1, "server", "collect", 3.0, add=2.0)
        ckks = working(1, "client/0", "protect", protect_s, **encrypting[seed])
        ckks += working(1, "server", "collect", collect_s, add=4.0)
        for own, changes in ((plain, {}), (ckks, {"secure_sum": CKKS})):
            path = store(root, configuration(seed=seed, **changes), "finished", summary())
            RunDirectory(path).write_rows(to_frame("x", rows + own))
    return root


def test_over_seeds_the_means_add_up_and_a_phase_without_steps_is_one_line(runs: Path) -> None:
    found = breakdown(collect(sorted(runs.iterdir())), steps=True)
    plain = found.filter("plain")
    ckks = found.filter(~pl.col("plain"))
    assert seconds(ckks, "clients", "protect") == {ALL: 7.0, "encode": 1.5, "encrypt": 1.5, "open": 2.5, OTHER: 1.5}
    assert seconds(ckks, "server", "collect") == {ALL: 9.0, "add": 4.0, OTHER: 5.0}
    assert seconds(ckks, "clients", "train") == seconds(plain, "clients", "train") == {ALL: 2.0}
    assert seconds(plain, "clients", "protect") == {ALL: 1.0}
    assert set(ckks["seeds"]) == {2}
    steps = ckks.filter(pl.col("party") == "clients", pl.col("phase") == "protect")["step"].to_list()
    assert (steps[0], steps[-1]) == (ALL, OTHER)


def test_a_step_is_compared_with_the_same_of_the_plain_twin(runs: Path) -> None:
    ckks = breakdown(collect(sorted(runs.iterdir())), steps=True).filter(~pl.col("plain"))
    ratios = dict(ckks.filter(party="server", phase="collect").select("step", "phase_ratio").iter_rows())
    # geometric means of 6/3 and 12/3, of 4/2 twice, and of 2/1 and 8/1
    assert ratios == {ALL: pytest.approx(8**0.5), "add": pytest.approx(2.0), OTHER: pytest.approx(4.0)}
    assert ckks.filter(party="clients", phase="protect", step="encode")["phase_ratio"].to_list() == [None]


def test_without_the_option_phases_are_the_same_and_alone(runs: Path) -> None:
    found = collect(sorted(runs.iterdir()))
    whole = breakdown(found, steps=True).filter(step=ALL).drop("step")
    assert whole.equals(breakdown(found))


def test_the_table_has_a_column_of_steps_and_says_what_they_are(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(runs), "--breakdown", "--steps", "--format", "markdown"]) == 0
    text = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert lines[0][1:6] == ["party", "phase", "step", "seeds", "time (ms/round)"]
    ckks = [line for line in lines if line[0] == "CKKS"]
    protect = {line[3]: line[5].split(" ")[0] for line in ckks if line[2] == "protect"}
    assert protect == {ALL: "7000", "encode": "1500", "encrypt": "1500", "open": "2500", OTHER: "1500"}
    assert "A step is a part of a phase" in text
    assert "add up to the phase" in text
    main([str(runs), "--breakdown"])
    assert "step" not in capsys.readouterr().out


def test_every_format_holds_the_steps(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {}
    for form in ("csv", "latex", "terminal"):
        main([str(runs), "--breakdown", "--steps", "--format", form])
        texts[form] = capsys.readouterr().out
    frame = pl.read_csv(io.StringIO(texts["csv"]))
    assert frame.filter(step="open")["phase_s"].to_list() == [2.5]
    assert "clients & protect & encrypt & 2 &" in texts["latex"]
    assert "encrypt" in texts["terminal"]


def test_the_column_can_be_chosen_where_there_are_steps(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(runs), "--breakdown", "--steps", "--columns", "step,phase_s", "--format", "csv"])
    assert capsys.readouterr().out.startswith("configuration,status,error,path,step,phase_s,")
    with pytest.raises(ConfigError, match="--columns=step: no such column"):
        main([str(runs), "--breakdown", "--columns", "step"])


def test_steps_without_phases_are_refused_in_one_line(runs: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--steps: .*add --breakdown") as refused:
        main([str(runs), "--steps"])
    assert "\n" not in str(refused.value)


def test_without_a_finished_run_there_is_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, configuration(), "failed", error="x")
    assert main([str(tmp_path), "--breakdown", "--steps"]) == 0
    assert "failed: x" in capsys.readouterr().out
