import pytest

from privacy.errors import ConfigError
from results import registry
from results.registry import Figure, Result, Row
from tests.composed import compose


@pytest.mark.parametrize("name", registry.names())
def test_what_is_published_here_can_be_run(name):
    table = registry.load(name)
    assert table.source.startswith("http")
    assert table.rows
    for row in table.rows:
        assert row.figures
        if not row.compute:
            assert compose(*table.overrides, *row.overrides, f"seed={table.seeds[0]}").seed == table.seeds[0]


@pytest.mark.parametrize("name", registry.names())
def test_every_row_has_something_to_judge(name):
    for row in registry.load(name).rows:
        assert any(figure.reproduced(1.0) is not None for figure in row.figures), row.name


@pytest.mark.parametrize(
    ("figure", "ours", "verdict"),
    [
        (Figure("a", 94.63, absolute=0.5), 94.13, True),
        (Figure("a", 94.63, absolute=0.5), 94.12, False),
        (Figure("a", 94.63, absolute=0.5), 95.14, False),
        (Figure("a", 2.0, relative=0.01), 2.019, True),
        (Figure("a", 2.0, relative=0.01), 2.021, False),
        (Figure("a", -2.0, relative=0.01), -2.019, True),
        (Figure("a", 86.0, at_least=85.5), 85.5, True),
        (Figure("a", 86.0, at_least=85.5), 99.0, True),
        (Figure("a", 86.0, at_least=85.5), 85.4, False),
        (Figure("a", 86.0), 86.0, None),
        (Figure("a"), 86.0, None),
    ],
)
def test_a_band_decides(figure, ours, verdict):
    assert figure.reproduced(ours) is verdict


def test_a_line_has_the_mean_over_the_seeds_in_the_published_unit():
    row = Row("r", figures=[Figure("accuracy", 94.63, 0.34, scale=100, absolute=0.5)])
    (line,) = Result(row, {"accuracy": [0.9449, 0.9413, 0.9464]}).lines()
    assert line["published"] == "94.63 ± 0.34"
    assert line["ours"] == "94.42 ± 0.26"
    assert (line["runs"], line["kind"], line["band"], line["verdict"]) == ("3", "measured", "within 0.5", "reproduced")


def test_what_did_not_run_says_why_and_has_no_verdict():
    row = Row("r", figures=[Figure("accuracy", 94.63, absolute=0.5)])
    (line,) = Result(row, {"accuracy": []}, "data=mnist: not here").lines()
    assert (line["ours"], line["verdict"]) == ("", "not run: data=mnist: not here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: t\nsauce: s\n", "Key 'sauce' not in 'Table'"),
        ("rows: [{name: a, figures: [{figure: b, absolute: x}]}]", "could not be converted to Float"),
        (
            "title: t\nsource: s\nhardware: h\nrows: [{name: a, figures: [{figure: b, absolute: 1, relative: 1}]}]",
            "a, b: more than one band",
        ),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"^NAME=mine: mine\.yaml: ") as refused:
        registry.load("mine", tmp_path)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_table_is_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match=r"^NAME=none: allowed are all, .*opacus_mnist"):
        registry.load("none")
