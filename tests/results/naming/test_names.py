"""Names of rows, plain rows that only another weighting sets apart, and what stands beside a mean."""

import statistics
from pathlib import Path
from typing import Any

import pytest

from privacy.errors import ConfigError
from results.commands.table import main
from results.naming.names import Naming
from results.runs import collect, find_runs
from results.table import phases, table, usual_spread
from tests.results.samples import CKKS, configuration, store, summary

SECAGG = {"_target_": "privacy.SecAggSum"}
DP = {"dp_sgd": {"_target_": "privacy.DpSgd", "noise_multiplier": 1.0}}


def weighted(weighting: str, **changes: Any) -> dict[str, Any]:
    return configuration(training={"lr": 0.1, "weighting": weighting}, **changes)


def backend(name: str, accuracy: float = 0.9) -> dict[str, Any]:
    return summary(backend=name, accuracy=accuracy)


def add(root: Path, values: dict[str, Any], name: str, accuracy: float = 0.9) -> None:
    store(root, values, "finished", backend(name, accuracy))


@pytest.fixture
def presets(tmp_path: Path) -> Path:
    """A sweep over presets, of which two weigh all clients alike; so each weighting has a plain twin."""
    add(tmp_path, weighted("examples"), "plain", 0.91)
    add(tmp_path, weighted("uniform"), "plain", 0.89)
    add(tmp_path, weighted("examples", secure_sum=CKKS), "ckks", 0.90)
    add(tmp_path, weighted("uniform", mechanism=DP), "dp_sgd+plain", 0.80)
    add(tmp_path, weighted("uniform", mechanism=DP, secure_sum=SECAGG), "dp_sgd+secagg", 0.70)
    return tmp_path


def rows(root: Path, *renames: str, every_plain: bool = False) -> dict[str, dict[str, Any]]:
    sheet = table(collect(find_runs([root])), naming=Naming(renames, every_plain))
    return {row["configuration"]: dict(row) for row in sheet.rows}


def test_one_plain_row_stands_for_presets_that_differ_in_weighting(presets: Path) -> None:
    found = rows(presets)
    assert list(found) == ["plain", "CKKS", "DP-SGD", "DP-SGD + SecAgg+"]
    assert found["plain"]["accuracy"] == 0.91
    assert found["DP-SGD"]["accuracy_points"] == pytest.approx(-9.0), "against its own twin"
    [note] = [note for note in table(collect(find_runs([presets]))).notes if "training.weighting" in note]
    assert note.startswith("training.weighting=uniform for DP-SGD, DP-SGD + SecAgg+, compared with plain runs of that")
    assert "accuracy 89 %" in note


def test_the_phases_leave_the_same_rows_out(presets: Path) -> None:
    from results.measurements import Row
    from results.rows import to_frame
    from results.store import RunDirectory

    for path in find_runs([presets]):
        RunDirectory(path).write_rows(to_frame(path.name, [Row(1, "client/0", "train", "wall", 0.1, "s")]))
    found = phases(collect(find_runs([presets])))
    assert {row["configuration"] for row in found.rows} == {"plain", "CKKS", "DP-SGD", "DP-SGD + SecAgg+"}


def test_all_plain_rows_stand_on_request(presets: Path) -> None:
    assert [name for name in rows(presets, every_plain=True) if name.startswith("plain")] == [
        "plain training.weighting=examples",
        "plain training.weighting=uniform",
    ]


def test_a_weighting_that_was_swept_keeps_its_rows(presets: Path) -> None:
    add(presets, weighted("uniform", secure_sum=CKKS), "ckks")
    assert {"plain training.weighting=uniform", "CKKS training.weighting=uniform"} <= set(rows(presets))


def test_weightings_of_plain_alone_keep_their_rows(tmp_path: Path) -> None:
    for weighting in ("examples", "uniform"):
        add(tmp_path, weighted(weighting), "plain")
    assert len(rows(tmp_path)) == 2


def test_settings_that_do_not_differ_in_weighting_keep_their_rows(presets: Path) -> None:
    add(presets, weighted("examples", clients=20, secure_sum=CKKS), "ckks")
    for weighting, mechanism in (("examples", {}), ("uniform", {}), ("uniform", DP)):
        add(presets, weighted(weighting, clients=20, mechanism=mechanism), "dp_sgd+plain" if mechanism else "plain")
    assert {"plain clients=10", "plain clients=20", "DP-SGD clients=20"} <= set(rows(presets))


def test_a_backend_and_a_row_are_renamed(presets: Path) -> None:
    found = rows(presets, "DP-SGD=record-level DP", "CKKS=HE = ours")
    assert list(found) == ["plain", "HE = ours", "record-level DP", "DP-SGD + SecAgg+"]
    add(presets, weighted("examples", secure_sum=CKKS, clients=20), "ckks")
    found = rows(presets, "CKKS=HE", "HE clients=20=many")
    assert {"HE clients=10", "many"} <= set(found)
    assert found["many"]["name"] == "HE", "the name of its backend in a legend"


@pytest.mark.parametrize(
    ("renames", "said"),
    [
        (("ckks=HE",), "--rename=ckks=HE: give OLD=NEW, where OLD is one of CKKS; DP-SGD; DP-SGD + SecAgg+; plain"),
        (("CKKS",), "--rename=CKKS: give OLD=NEW, where OLD is one of "),
        (("CKKS=",), "--rename=CKKS=: give OLD=NEW, where OLD is one of "),
        (("CKKS=HE", "DP-SGD=HE"), "--rename=DP-SGD=HE: two rows would be called HE"),
    ],
)
def test_a_name_that_cannot_be_given_is_refused(presets: Path, renames: tuple[str, ...], said: str) -> None:
    options = [option for text in renames for option in ("--rename", text)]
    with pytest.raises(ConfigError) as refusal:
        main([str(presets), *options])
    assert str(refusal.value).startswith(said)


@pytest.mark.parametrize(
    ("name", "given", "short"),
    [
        ("an aggregate is named", ("privacy.CryptenSum", "crypten_median"), "CrypTen median"),
        ("another's class keeps its name", ("outside.RingSum", "ring"), "ring"),
        ("what a run says of another backend is not believed", ("privacy.CkksSum", "plain"), "CKKS"),
    ],
)
def test_short_names(tmp_path: Path, name: str, given: tuple[str, str], short: str) -> None:
    target, told = given
    add(tmp_path, configuration(), "plain")
    add(tmp_path, configuration(secure_sum={"_target_": target}), told)
    assert list(rows(tmp_path)) == ["plain", short], name


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    for seed, accuracy in ((1, 0.80), (2, 0.90), (3, 0.85)):
        add(tmp_path, configuration(seed=seed), "plain", accuracy)
    return tmp_path


@pytest.mark.parametrize(
    ("spread", "cell", "note"),
    [
        ("ci", "85 ± 12", "± is half the width of the 95 % t interval over seeds."),
        ("std", "85.0 ± 5.0", "± is the standard deviation over seeds."),
        ("range", "85.0 [80.0, 90.0]", "[ ] holds the least and the largest figure of a seed."),
    ],
)
def test_what_stands_beside_a_mean(
    seeds: Path, capsys: pytest.CaptureFixture[str], spread: str, cell: str, note: str
) -> None:
    assert statistics.stdev((80, 90, 85)) == 5.0  # and Student's quantile for 3 is 4.303: 4.303 * 5 / sqrt(3) = 12.4
    assert main([str(seeds), "--columns", "accuracy", "--spread", spread]) == 0
    text = capsys.readouterr().out
    assert f" {cell} |" in text
    assert note in text


def test_a_plot_shows_the_range_where_an_interval_says_nothing(seeds: Path) -> None:
    assert usual_spread(collect(find_runs([seeds]))) == "ci"
    for seed in (1, 2):
        add(seeds, configuration(seed=seed, clients=20), "plain")
    assert usual_spread(collect(find_runs([seeds]))) == "range"


def test_two_seeds_come_with_a_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2):
        add(tmp_path, configuration(seed=seed), "plain", 0.8 + seed / 100)
    main([str(tmp_path)])
    assert "12.7 standard errors" in capsys.readouterr().out
    main([str(tmp_path), "--spread", "range"])
    assert "12.7 standard errors" not in capsys.readouterr().out


def test_a_plain_row_that_nothing_is_compared_with_stays(tmp_path: Path) -> None:
    for weighting in ("examples", "uniform"):
        add(tmp_path, weighted(weighting), "plain")
    add(tmp_path, weighted("uniform", mechanism=DP), "dp_sgd+plain")
    assert len(rows(tmp_path)) == 3
    assert not [note for note in table(collect(find_runs([tmp_path]))).notes if "left out" in note]


def test_csv_has_every_plain_row_since_it_has_no_notes(presets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(presets), "--format", "csv"])
    assert capsys.readouterr().out.count("\nplain training.weighting=") == 2
    main([str(presets), "--format", "csv", "--plain", "one"])
    assert capsys.readouterr().out.count("\nplain") == 1


def test_a_later_key_at_its_default_has_a_name(tmp_path: Path) -> None:
    add(tmp_path, configuration(), "plain")
    add(
        tmp_path,
        configuration(
            training={"lr": 0.1, "optimizer": {"_target_": "torch.optim.SGD", "momentum": 0.0}, "accumulate": 4}
        ),
        "plain",
    )
    assert list(rows(tmp_path)) == ["training.accumulate=1", "training.accumulate=4"]


@pytest.mark.parametrize("turned", [False, True])
def test_a_row_keeps_the_name_that_it_was_given(presets: Path, turned: bool) -> None:
    add(presets, weighted("examples", secure_sum=CKKS, clients=20), "ckks")
    renames = ["CKKS clients=20=ours", "CKKS=HE"]
    found = rows(presets, *renames) if not turned else rows(presets, "CKKS=HE", "HE clients=20=ours")
    assert "ours" in found
    assert "HE clients=10" in found
