import pytest

from privacy.errors import ConfigError
from results.columns import SUMMARISED
from results.published import registry
from results.published.registry import Figure, Kind

NO_ADDRESS = {"link_arithmetic"}  # from a report quoted second hand; the figures follow from arithmetic only


@pytest.mark.parametrize("name", registry.names())
def test_what_is_published_here_can_be_run(name):
    from tests.composed import compose

    table = registry.load(name)
    assert table.source.startswith("http") or name in NO_ADDRESS
    assert table.hardware
    assert len({row.name for row in table.rows}) == len(table.rows) > 0
    for row in table.rows:
        assert row.compute or row.kind is not Kind.modelled
        if row.kind is Kind.measured and not row.compute:
            assert compose(*table.overrides, *row.overrides, f"seed={table.seeds[0]}").seed == table.seeds[0]
            assert {figure.figure for figure in row.figures} <= {*SUMMARISED}


@pytest.mark.parametrize("name", registry.names())
def test_every_row_that_has_figures_of_ours_has_something_to_judge(name):
    for row in registry.load(name).rows:
        judged = [figure.figure for figure in row.figures if figure.reproduced(1.0) is not None]
        assert bool(judged) == (row.kind is not Kind.cited), row.name


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
        (Figure("a", 2.7, factor=2), 5.4, True),
        (Figure("a", 2.7, factor=2), 5.41, False),
        (Figure("a", 2.7, factor=2), 1.35, True),
        (Figure("a", 2.7, factor=2), 1.34, False),
        (Figure("a", 2.7, factor=1.5), 1.34, False),
        (Figure("a", -85.0, absolute=15), -70.0, True),
        (Figure("a", -85.0, absolute=15), -69.9, False),
        (Figure("a", 86.0), 86.0, None),
        (Figure("a"), 86.0, None),
    ],
)
def test_a_band_decides(figure, ours, verdict):
    assert figure.reproduced(ours) is verdict


def test_a_figure_of_a_run_has_the_unit_of_the_tables():
    assert (Figure("accuracy").heading, Figure("accuracy").scale) == ("accuracy (%)", 100)
    assert (Figure("epsilon_prv").heading, Figure("epsilon_prv").scale) == ("epsilon_prv", 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: t\nsauce: s\n", "Key 'sauce' not in 'Table'"),
        ("rows: [{name: a, figures: [{figure: b, absolute: x}]}]", "could not be converted to Float"),
        ("rows: [{name: a, kind: guessed}]", "expected one of [measured, modelled, cited]"),
        (
            "title: t\nsource: s\nhardware: h\nrows: [{name: a, figures: [{figure: b, absolute: 1, relative: 1}]}]",
            "a, b: more than one band",
        ),
        (
            "title: t\nsource: s\nhardware: h\nrows: [{name: a, figures: [{figure: b, at_least: 1, factor: 2}]}]",
            "a, b: more than one band",
        ),
        ("rows: [{name: a, figures: [{figure: b, compare: product}]}]", "expected one of [ratio, difference]"),
        ("rows: [{name: a, small: {rounds: 2}}]", "Key 'rounds' not in 'Small'"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, monkeypatch, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.setattr(registry, "FOLDER", tmp_path)
    with pytest.raises(ConfigError, match=r"^NAME=mine: mine\.yaml: ") as refused:
        registry.load("mine")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_table_is_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match=r"^NAME=none: allowed are all, crypten_models, \w.*tramer_boneh$"):
        registry.load("none")
