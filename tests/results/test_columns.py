"""Each column's unit and what it is compared to, as its heading says: a heading that lies looks like any other."""

import pytest

from results import breakdown
from results.columns import BY_KEY, COLUMNS, Column

UNITS = {  # how the raw figures, in SI units and shares of 1, become those under a heading
    "%": 100.0,
    "s": 1.0,
    "s/round": 1.0,
    "nats": 1.0,
    "B": 1.0,
    "B/param": 1.0,
    "/round": 1.0,
    "MiB": 1 / 1024 / 1024,
    "MiB/round": 1 / 1024 / 1024,
    "KiB/round": 1 / 1024,
    "ms/round": 1000.0,
    "1e-9": 1e9,
    "points": 1.0,  # the difference is taken in points
}
COMPARED = {
    "accuracy_points": "accuracy",
    "round_ratio": "round_s",
    "train_ratio": "train_s",
    "client_ratio": "client_s",
    "upload_ratio": "upload_bytes_per_parameter",
    "download_ratio": "download_bytes_per_parameter",
    "phase_ratio": "phase_s",
    "sent_ratio": "sent_bytes",
    "received_ratio": "received_bytes",
}
EVERY = (*COLUMNS, *breakdown.COLUMNS)


@pytest.mark.parametrize("column", EVERY, ids=lambda column: column.key)
def test_a_figure_is_scaled_to_the_unit_of_its_heading(column: Column) -> None:
    unit = column.heading.partition("(")[2].rstrip(")")
    assert column.scale == (UNITS[unit] if unit else 1.0)


@pytest.mark.parametrize("column", EVERY, ids=lambda column: column.key)
def test_a_comparison_is_of_the_figure_that_its_name_says(column: Column) -> None:
    assert column.source == COMPARED.get(column.key, "")
    assert (column.kind in ("ratio", "difference")) == (column.key in COMPARED)
    if column.kind == "ratio":
        measured = next(one for one in EVERY if one.key == column.source)
        assert column.heading == f"{measured.heading.partition(' (')[0]} / plain"


def test_no_two_columns_share_a_name_and_each_is_found_by_it() -> None:
    assert all(BY_KEY[column.key] is column for column in COLUMNS)
    assert len({column.heading for column in COLUMNS}) == len({column.key for column in COLUMNS}) == len(COLUMNS)


def test_bounds_are_the_largest_of_any_seed_and_figures_their_mean() -> None:
    assert {column.key for column in COLUMNS if column.kind == "largest"} == {"epsilon", "sum_error", "cut_share"}
