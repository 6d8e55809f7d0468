from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import ConfigError
from results.columns import BY_KEY
from results.commands.plot import main
from results.commands.table import main as table
from results.measurements import Row
from results.plots import phases, points
from results.plots.overview import overview
from results.plots.points import Interval, Point, front, of_column
from results.plots.rounds import accuracy_by_round
from results.rows import to_frame
from results.runs import collect, find_runs
from results.store import RunDirectory
from tests.results.samples import CKKS, configuration, store, summary

DP = {"dp_sgd": {"_target_": "privacy.DpSgd", "noise_multiplier": 1.0}}


def rows(train_s: float) -> list[Row]:
    """Two clients over two rounds: they train for `train_s` each."""
    made = []
    for number in (1, 2):
        made += [Row(number, f"client/{client}", "train", "wall", train_s, "s") for client in (0, 1)]
        made += [
            Row(number, "client/0", "protect", "wall", 0.05, "s"),
            Row(number, "client/0", "collect", "up_bytes", 2048.0, "bytes"),
            Row(number, "server", "collect", "compute", 0.01, "s"),
            Row(number, "server", "round", "wall", 1.0, "s"),
        ]
        made.append(Row(number, "server", "evaluate", "accuracy", 0.5 + 0.1 * number + train_s, "1"))
        made.append(Row(number, "client/0", "evaluate", "accuracy", 0.01, "1"))  # of its own examples
    return made


def add(root: Path, train_s: float, values: dict[str, Any], **figures: Any) -> None:
    path = store(root, values, "finished", summary(**figures))
    RunDirectory(path).write_rows(to_frame(path.name, rows(train_s)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Plain and CKKS, with 5 and with 50 clients, over two seeds."""
    for clients in (5, 50):
        for seed in (1, 2):
            given = configuration(clients=clients, seed=seed)
            add(tmp_path / "runs", 0.1 * seed, given, round_s=0.1 * clients)
            add(tmp_path / "runs", 0.1, given | {"secure_sum": CKKS}, round_s=0.3 * clients, backend="ckks")
    return tmp_path / "runs"


@pytest.fixture
def private(folder: Path) -> Path:
    for epsilon, accuracy in ((1.0, 0.6), (2.0, 0.7), (20.0, 0.85)):
        mechanism = {"dp_sgd": DP["dp_sgd"] | {"noise_multiplier": 3 / epsilon}}
        values = configuration(clients=5, mechanism=mechanism)
        add(folder, 0.1, values, epsilon=epsilon, accuracy=accuracy, backend="dp_sgd+plain")
    return folder


def drawn(folder: Path, out: Path, kind: str, *options: str) -> str:
    """The text of a picture, saved in a mode that keeps words."""
    with pytest.MonkeyPatch.context() as patch:
        from results.plots import style

        patch.setitem(style.RC, "svg.fonttype", "none")
        assert main([kind, str(folder), "--out", str(out), *options]) == 0
    return out.read_text()


@pytest.mark.parametrize(("ending", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_the_table_draws_what_it_prints(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str, magic: bytes
) -> None:
    out = tmp_path / f"figure{ending}"
    assert table([str(folder), "--format", "markdown", "--plot", str(out)]) == 0
    assert out.read_bytes().startswith(magic)
    assert "clients=5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (
            "overview",
            (),
            (
                "CKKS",
                "noise_multiplier=3.0",
                "test accuracy (%)",
                "time (ms/round)",
                "clients: train",
                "server",
            ),
        ),
        (
            "pareto",
            (),
            ("round / plain", "accuracy (%)", "Pareto front", "3: plain clients=50", "CKKS"),
        ),
        ("pareto", ("--x", "upload_ratio", "--y", "loss"), ("upload / plain", "loss (nats)")),
        ("phases", (), ("clients=50", "clients: train", "clients: protect", "server", "time (ms/round)")),
        ("phases", ("--y", "sent_bytes"), ("clients: protocol", "sent (KiB/round)")),
        ("scaling", ("--x", "clients"), ("clients", "round (s)", "plain", "CKKS")),
        ("epsilon", (), ("ε", "accuracy (%)", "DP-SGD", "plain")),
    ],
)
def test_headings_and_names_are_in_the_picture(
    private: Path, tmp_path: Path, kind: str, options: Sequence[str], words: Sequence[str]
) -> None:
    text = drawn(private, tmp_path / "figure.svg", kind, *options)
    assert [word for word in words if f">{word}<" not in text] == []


def test_a_picture_fits_one_column_and_the_same_runs_make_the_same_file(private: Path, tmp_path: Path) -> None:
    for kind in ("pareto", "epsilon", "phases", "overview"):
        first, second = (tmp_path / f"{kind}{i}.svg" for i in (1, 2))
        text = drawn(private, first, kind)
        assert text == drawn(private, second, kind)
        width = float(text.partition('width="')[2].partition("pt")[0]) / 72
        assert width == pytest.approx(3.4, abs=0.01)


def test_a_bar_is_cut_into_phases_of_clients_and_the_whole_of_others(folder: Path) -> None:
    from results.table import phases as broken_down

    column = next(c for c in broken_down(collect(find_runs([folder]))).columns if c.key == "phase_s")
    found = phases.stacks(broken_down(collect(find_runs([folder]))).rows, column)
    bar = found["plain clients=5"]
    assert bar["clients", "train"] == pytest.approx(1000 * (0.2 + 0.4) / 2), "two clients, the mean of two seeds"
    assert bar["clients", "protect"] == pytest.approx(50)
    assert bar["server", "all"] == pytest.approx(10)
    assert sum(bar.values()) == pytest.approx(360), "nothing counts twice"


def test_accuracy_by_round_is_a_mean_between_extremes(folder: Path) -> None:
    curves = accuracy_by_round(collect(find_runs([folder])))
    plain = [
        row for row in curves.to_dicts() if '"clients": 5,' in row["configuration"] and "Plain" in row["configuration"]
    ]
    assert [(row["round"], *(pytest.approx(row[key]) for key in ("value", "low", "high"))) for row in plain] == [
        (1, 0.75, 0.7, 0.8),
        (2, 0.85, 0.8, 0.9),
    ]


values = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


@given(values, st.sampled_from(["accuracy", "loss"]), st.sampled_from(["accuracy", "loss"]))
def test_the_front_holds_whom_nobody_beats(numbers: list[tuple[int, int]], across: str, up: str) -> None:
    x = of_column(BY_KEY[across])
    y = of_column(BY_KEY[up])
    found = [Point({}, Interval(float(a)), Interval(float(b))) for a, b in numbers]

    def beats(one: Point, other: Point) -> bool:
        gains = [
            (a.value - b.value) * (1 if axis.key == "accuracy" else -1)
            for axis, a, b in ((x, one.x, other.x), (y, one.y, other.y))
        ]
        return min(gains) >= 0 and max(gains) > 0

    expected = [point for point in found if not any(beats(other, point) for other in found)]
    assert sorted(front(found, x, y)) == sorted(expected)


def test_lines_are_of_what_differs_in_more_than_x() -> None:
    def point(**parts: str) -> Point:
        return Point({"parts": parts, "name": parts["secure_sum"]}, Interval(float(parts["clients"])), Interval(0.0))

    of = points.of_key("clients")
    found = [
        point(clients="20", secure_sum="secagg", rounds="2", **{"secure_sum.clients": "20"}),
        point(clients="5", secure_sum="secagg", rounds="2", **{"secure_sum.clients": "5"}),
        point(clients="5", secure_sum="plain", alpha="1", rounds="2"),
    ]
    lines = points.series(found, of)
    assert {label: [p.x.value for p in line] for label, line in lines.items()} == {
        "secagg": [5, 20],
        "plain alpha=1": [5],
    }


def test_what_spans_decades_stands_on_a_logarithmic_axis(tmp_path: Path) -> None:
    for units, parameters in ((10, 1000.0), (100, 1e4), (10_000, 1e6)):
        values = configuration(model={"_target_": "fl.models.Mlp", "units": units})
        add(tmp_path / "runs", 0.1, values, parameters=parameters, round_s=parameters / 1e5)
    text = drawn(tmp_path / "runs", tmp_path / "figure.svg", "scaling", "--x", "parameters")
    assert [word for word in ("parameters", "10³", "10⁶", "0.1", "10", "plain") if f">{word}<" not in text] == []
    assert ">200000<" not in text


def test_modelled_rounds_can_be_drawn(folder: Path, tmp_path: Path) -> None:
    column = ("--x", "modelled_round_s_wan_1g")
    with pytest.raises(ConfigError, match="modelled_round_s_wan_1g"):
        main(["pareto", str(folder), "--out", str(tmp_path / "figure.svg"), *column])
    text = drawn(folder, tmp_path / "figure.svg", "pareto", *column, "--network", "wan_1g")
    assert "modelled round, wan_1g (s)" in text


@pytest.mark.parametrize("name", ["figure.gif", "figure"])
def test_another_ending_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"--plot=.*must end in one of \.png, \.pdf, \.svg"):
        overview(collect(find_runs([folder])), tmp_path / name)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("bars",), ("KIND", "bars", "pareto")),
        (("pareto", "--x", "speed"), ("--x=speed", "round_ratio")),
        (("pareto", "--y", "assumption"), ("--y=assumption", "accuracy")),
        (("pareto", "--x", "clients"), ("--x=clients", "round_ratio")),
        (("scaling",), ("--x", "clients")),
        (("scaling", "--x", "server"), ("--x=server", "vary: clients")),
        (("phases", "--y", "phase_ratio"), ("--y=phase_ratio", "phase_s, sent_bytes")),
        (("overview", "--y", "loss"), ("--y=loss", "overview")),
        (("overview", "--spread", "std"), ("--spread=std", "pareto, epsilon, scaling")),
        (("epsilon",), ("epsilon", "nothing to draw")),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    folder: Path, tmp_path: Path, arguments: Sequence[str], named: Sequence[str]
) -> None:
    with pytest.raises(ConfigError) as refusal:
        main([arguments[0], str(folder), "--out", str(tmp_path / "figure.png"), *arguments[1:]])
    assert "\n" not in str(refusal.value)
    assert [name for name in named if name not in str(refusal.value)] == []
    assert not (tmp_path / "figure.png").exists()


def test_a_picture_that_cannot_be_written_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        main(["pareto", str(folder), "--out", str(tmp_path / "nowhere" / "figure.png")])


def test_nothing_finished_is_nothing_to_draw(tmp_path: Path) -> None:
    store(tmp_path / "runs", configuration(), "failed", error="no")
    for kind in ("overview", "phases", "pareto"):
        with pytest.raises(ConfigError):
            main([kind, str(tmp_path / "runs"), "--out", str(tmp_path / "figure.png")])


def test_more_than_have_a_colour_are_told_by_their_backend(tmp_path: Path) -> None:
    for clients in range(2, 14):
        add(tmp_path / "runs", 0.1, configuration(clients=clients))
        add(tmp_path / "runs", 0.1, configuration(clients=clients, secure_sum=CKKS), backend="ckks")
    for kind in ("overview", "pareto", "phases"):
        text = drawn(tmp_path / "runs", tmp_path / "figure.svg", kind)
        assert ("clients=7" in text) == (kind != "pareto"), kind
        assert ">CKKS<" in text, kind
