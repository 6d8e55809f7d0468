import io
from typing import Any

import polars as pl
import pytest

from results import render
from results.columns import ASSUMPTION, BY_KEY, CONFIGURATION
from results.render import Sheet, cell

COLUMNS = (CONFIGURATION, *(BY_KEY[key] for key in ("seeds", "accuracy", "accuracy_points", "round_ratio")), ASSUMPTION)


def figures(key: str, value: float | None, half: float | None = None, n: int = 3) -> dict[str, Any]:
    low, high = (None, None) if half is None or value is None else (value - half, value + half)
    return {key: value, f"{key}_low": low, f"{key}_high": high, f"{key}_n": n}


RATIO = {"round_ratio": 3.162, "round_ratio_low": 3.01, "round_ratio_high": 3.32, "round_ratio_n": 3}


def row(label: str, **changes: Any) -> dict[str, Any]:
    base = {
        "status": "finished",
        "path": "runs/x",
        "configuration": label,
        "seeds": 3,
        "assumption": "50 % of {a|b}_c are honest",
        **figures("accuracy", 0.94123, 0.00352),
        **figures("accuracy_points", -0.25, 0.5),
    }
    return base | RATIO | changes


SHEET = Sheet(
    COLUMNS,
    [row("data=digits secure_sum=plain"), row("data=digits secure_sum=ckks", **figures("accuracy_points", None))],
    [{"path": "runs/x_1", "configuration": "seed=1", "status": "failed", "error": "it broke: a|b"}],
    ("Note one.", "Note two."),
)


@pytest.mark.parametrize(
    ("key", "value", "half", "text"),
    [
        ("accuracy", 0.94123, 0.00352, "94.12 ± 0.35"),
        ("accuracy", 0.94123, 0.0352, "94.1 ± 3.5"),
        ("accuracy", 0.94123, None, "94.12"),
        ("accuracy", 1.0, None, "100.0"),
        ("accuracy", 0.0, None, "0.00"),
        ("accuracy_points", 0.3, None, "+0.30"),
        ("accuracy_points", 0.3, 12.3, "+0 ± 12"),
        ("accuracy_points", -0.0001, 0.5, "+0.00 ± 0.50"),
        ("accuracy_points", 0.0, 0.0, "+0.00"),
        ("round_s", 0.0123456, 0.00071, "0.01235 ± 0.00071"),
        ("round_s", 1234.56, 0.1, "1234.56 ± 0.10"),
        ("upload_bytes_per_parameter", 4.0, 0.0, "4.000"),
        ("upload_bytes_per_parameter", 4.0, 1e-4, "4.00000 ± 0.00010"),
        ("accuracy", 0.94123, 1e-5, "94.12"),
        ("upload_bytes_per_parameter", 4.1, 1e-16, "4.100"),
        ("rounds", 20.0, None, "20"),
        ("peak_rss_bytes", 625467392.0, None, "596"),
        ("loss", None, None, "–"),  # noqa: RUF001
    ],
)
def test_figures_are_as_exact_as_they_are_certain(key: str, value: float | None, half: float | None, text: str) -> None:
    assert cell(figures(key, value, half), BY_KEY[key]) == text


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (3.162, 3.01, 3.32, "3.16 [3.01, 3.32]"),
        (2.449, 0.1897, 31.61, "2.45 [0.19, 31.61]"),
        (126.4, 98.2, 160.9, "126 [98, 161]"),
        (1.0, 1.0, 1.0, "1.00"),
        (1.9, None, None, "1.90"),
    ],
)
def test_a_ratio_has_an_interval_that_is_not_symmetric(value: float, low: float, high: float, text: str) -> None:
    assert cell({"round_ratio": value, "round_ratio_low": low, "round_ratio_high": high}, BY_KEY["round_ratio"]) == text


def test_markdown() -> None:
    lines = render.markdown(SHEET).splitlines()
    assert lines[0].split(" | ")[1].strip() == "seeds"
    assert lines[1].replace("-", "") == "|  | : | : | : | : |  |"
    assert len({len(line) for line in lines[:4]}) == 1, "aligned"
    assert "94.12 ± 0.35" in lines[2]
    assert r"{a\|b}_c" in lines[2]
    assert " – |" in lines[3]  # noqa: RUF001
    assert "Note one. Note two." in lines
    assert "failed: it broke: a|b: runs/x_1 (seed=1)" in lines


def test_latex_is_booktabs_and_escaped() -> None:
    lines = render.latex(SHEET).splitlines()
    assert lines[1:3] == [r"\begin{tabular}{@{}p{4cm}rrrrp{4cm}@{}}", r"\toprule"]
    assert lines[3].startswith(r"configuration & seeds & accuracy (\%) & $\Delta$ accuracy (points) &")
    assert lines[4] == r"\midrule"
    assert lines[5] == (
        r"data=digits secure\_sum=plain & 3 & 94.12 $\pm$ 0.35 & $-$0.25 $\pm$ 0.50 & 3.16 [3.01, 3.32] & "
        r"50 \% of \{a|b\}\_c are honest \\"
    )
    assert lines[7:9] == [r"\bottomrule", r"\end{tabular}"]
    assert lines[-1] == r"\par\footnotesize failed: it broke: a|b: runs/x\_1 (seed=1)"
    assert all(line.count("&") == 5 for line in lines[3:7] if "&" in line)


def test_latex_escapes_every_special_character() -> None:
    sheet = Sheet((ASSUMPTION,), [{"assumption": "a\\b~c^d#e$f<g>"}])
    expected = r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d\#e\$f\textless{}g\textgreater{} \\"
    assert expected in render.latex(sheet).splitlines()


def test_csv_is_raw_and_whole() -> None:
    frame = pl.read_csv(io.StringIO(render.csv(SHEET)))
    assert frame.columns[-1] == "assumption"
    assert frame["configuration"].to_list() == ["data=digits secure_sum=plain", "data=digits secure_sum=ckks", "seed=1"]
    assert frame["accuracy"].to_list() == [0.94123, 0.94123, None]
    assert frame["accuracy_low"][0] == 0.94123 - 0.00352
    assert frame["round_ratio"].to_list() == [3.162, 3.162, None]
    assert frame["accuracy_points"].to_list() == [-0.25, None, None]
    assert frame["status"].to_list() == ["finished", "finished", "failed"]
    assert frame["error"].to_list() == [None, None, "it broke: a|b"]


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_the_terminal_shows_everything_at_every_width(width: int) -> None:
    table, _, below = render.terminal(SHEET, width).partition("\n\nNote one.")
    assert max(map(len, table.splitlines())) <= width
    words = " ".join(table.split())
    for text in ("secure_sum=plain", "secure_sum=ckks", "94.12", "± 0.35", "[3.01, 3.32]", "(%)", "(points)", "honest"):
        assert text in words or text in table, f"{text} is missing at width {width}"
    assert "…" not in table
    assert below == " Note two.\n\nfailed: it broke: a|b: runs/x_1 (seed=1)\n"


def test_the_terminal_takes_no_markup_from_the_text() -> None:
    sheet = Sheet((ASSUMPTION,), [{"assumption": "[red]all[/red] of [bold]"}])
    assert "[red]all[/red] of [bold]" in render.terminal(sheet, 80)
