import io

import polars as pl
import pytest

from results import render
from results.published import verdicts
from results.published.registry import Compare, Figure, Kind, PublishedRow, Table
from results.published.verdicts import Result

ACCURACY = Figure("accuracy", 94.63, 0.34, absolute=0.5)
THREE = {"accuracy": [0.9449, 0.9413, 0.9464]}  # mean 94.42, standard deviation 0.2621


def printed(row, values, **fields):
    (cells,) = verdicts.sheet(Table("t", "s", "h"), [Result(row, values, **fields)]).rows
    return cells


def test_a_line_has_the_mean_over_the_seeds_in_the_published_unit():
    (line,) = Result(PublishedRow("r", figures=[ACCURACY]), THREE).lines()
    assert (line.ours, line.std, line.difference) == pytest.approx((94.42, 0.26211, -0.21), abs=1e-4)
    assert (line.figure, line.seeds, line.kind, line.band) == ("accuracy (%)", 3, "measured", "within 0.5")
    assert line.verdict == "reproduced"
    cells = printed(PublishedRow("r", figures=[ACCURACY]), THREE)
    assert (cells["published"], cells["ours"]) == ("94.63 ± 0.34", "94.42 ± 0.26")
    assert cells["difference"] == "-0.21"


def test_a_mean_out_of_the_band_is_not_reproduced():
    (line,) = Result(PublishedRow("r", figures=[ACCURACY]), {"accuracy": [0.9449, 0.9313]}).lines()
    assert line.verdict == "not reproduced"


def test_where_the_band_is_a_share_so_is_the_difference():
    row = PublishedRow("r", Kind.modelled, compute={"function": "f"}, figures=[Figure("x", -2.0, relative=0.05)])
    cells = printed(row, {"x": [-2.05]})
    assert (cells["difference"], cells["band"], cells["verdict"]) == ("-2.5 %", "within 5 %", "reproduced")
    assert cells["seeds"] is None
    assert printed(row, {"x": [-2.0]})["difference"] == "+0 %"


def test_what_did_not_run_says_why_and_has_no_verdict():
    (line,) = Result(PublishedRow("r", figures=[ACCURACY]), {"accuracy": []}, "data=mnist: not here").lines()
    assert (line.ours, line.difference, line.verdict) == (None, None, "not run: data=mnist: not here")


def test_some_of_the_seeds_are_shown_and_not_judged():
    (line,) = Result(PublishedRow("r", figures=[ACCURACY]), THREE, "a worker died", failed=True).lines()
    assert line.ours == pytest.approx(94.42)
    assert line.verdict == "not run: a worker died"


def test_what_no_run_measured_is_not_judged():
    (line,) = Result(PublishedRow("r", figures=[ACCURACY]), {}).lines()
    assert line.verdict == "not run: nothing measured it"


def test_a_cited_figure_stands_alone():
    (line,) = Result(PublishedRow("r", Kind.cited, figures=[Figure("x", 1.58)]), {}).lines()
    assert (line.published, line.ours, line.kind, line.verdict) == (1.58, None, "cited", "cited")


def test_the_sheet_says_where_the_figures_come_from():
    table = Table("Title", "https://example.org", "an abacus", "Note.")
    row = PublishedRow("r | s", figures=[ACCURACY])
    text = render.markdown(verdicts.sheet(table, [Result(row, THREE)]))
    assert "Title. Source: https://example.org. Hardware there: an abacus. Note. Ours is the mean ±" in text
    assert "standard deviation" not in render.markdown(verdicts.sheet(table, [Result(row, {"accuracy": [0.94]})]))


def test_csv_has_the_raw_figures_of_all_tables():
    results = {
        "a": [Result(PublishedRow("r", figures=[ACCURACY]), THREE)],
        "b": [Result(PublishedRow("s", Kind.cited, figures=[Figure("x", 1.58)]), {})],
    }
    frame = pl.read_csv(io.StringIO(verdicts.csv(results)))
    assert frame["table"].to_list() == ["a", "b"]
    assert frame["ours"].to_list() == [pytest.approx(94.42, abs=1e-9), None]
    assert frame["verdict"].to_list() == ["reproduced", "cited"]


def test_a_ratio_to_plain_is_judged_by_the_ratio_of_ratios():
    row = PublishedRow("r", figures=[Figure("round_s", 2.0, factor=2, compare=Compare.ratio)])
    (line,) = Result(row, {"round_s ratio": [3.0, 5.0]}).lines()
    assert (line.figure, line.ours, line.ratio_of_ratios) == ("round / plain", 4.0, 2.0)
    assert (line.band, line.verdict) == ("within a factor of 2", "reproduced")
    (line,) = Result(row, {"round_s ratio": [3.0, 5.2]}).lines()
    assert (line.ratio_of_ratios, line.verdict) == (pytest.approx(2.05), "not reproduced")
    assert printed(row, {"round_s ratio": [0.9]})["ratio of ratios"] == "0.45"


def test_a_difference_to_plain_is_in_the_published_unit():
    row = PublishedRow("r", figures=[Figure("accuracy", -85.0, absolute=15, compare=Compare.difference)])
    (line,) = Result(row, {"accuracy difference": [-0.80, -0.70]}).lines()
    assert (line.figure, line.ours) == ("accuracy (%) less plain", pytest.approx(-75))
    assert (line.difference, line.ratio_of_ratios) == (pytest.approx(10), None)
    assert line.verdict == "reproduced"
    (line,) = Result(row, {"accuracy difference": [-0.69]}).lines()
    assert line.verdict == "not reproduced"


def test_the_same_figure_may_stand_beside_its_ratio():
    row = PublishedRow("r", figures=[Figure("round_s"), Figure("round_s", compare=Compare.ratio)])
    whole, ratio = Result(row, {"round_s": [3.0], "round_s ratio": [1.5]}).lines()
    assert (whole.ours, ratio.ours) == (3.0, 1.5)


@pytest.mark.parametrize(
    ("ours", "verdict"), [(0.90, "not reproduced: another optimiser"), (0.9449, "reproduced"), (None, "not run: x")]
)
def test_a_reason_stands_behind_a_miss_and_makes_no_verdict(ours, verdict):
    row = PublishedRow("r", figures=[ACCURACY], reason="another optimiser")
    values = {} if ours is None else {"accuracy": [ours]}
    (line,) = Result(row, values, "" if values else "x").lines()
    assert line.verdict == verdict


def test_a_small_setting_is_said_and_what_only_the_full_one_can_show_is_not_judged():
    whole = Figure("accuracy", 94.63, absolute=0.5, full_only=True)
    row = PublishedRow("r", figures=[whole, ACCURACY])
    short, judged = Result(row, {"accuracy": [0.50]}, small="2 rounds").lines()
    assert (short.setting, short.verdict) == (
        "small: 2 rounds",
        "not judged: nothing is published for the small setting",
    )
    assert judged.verdict == "not reproduced"
    (short, _) = Result(row, {"accuracy": [0.945]}).lines()
    assert (short.setting, short.verdict) == ("full", "reproduced")
