import math

import pytest

from results.measurements import Row
from results.rows import to_frame
from results.summary import summarise

FINAL = {"rounds": 3, "epsilon": None, "weights_sha256": "ab", "backend": "plain", "assumption": "trusted"}


def server(round_: int, stage: str, metric: str, value: float, unit: str = "s") -> Row:
    return Row(round_, "server", stage, metric, value, unit)


def client(round_: int, index: int, stage: str, metric: str, value: float, unit: str = "bytes") -> Row:
    return Row(round_, f"client/{index}", stage, metric, value, unit)


def two_stage_rows() -> list[Row]:
    """Three rounds of clients 0 and 1; client 1 sends nothing in round 3; a model of 10 parameters."""
    return [
        client(0, 0, "setup", "up_bytes", 9999),
        client(0, 0, "setup", "peak_rss", 5000),
        *(server(r, "round", "wall", wall) for r, wall in ((1, 9.0), (2, 2.0), (3, 4.0))),
        *(server(r, "evaluate", "accuracy", a, "1") for r, a in ((2, 0.7), (1, 0.9), (3, 0.8))),
        *(server(r, "evaluate", "loss", a, "1") for r, a in ((1, 2.0), (3, 1.5))),
        *(client(r, k, "collect", "up_bytes", 40) for r, k in ((1, 0), (1, 1), (2, 0), (2, 1), (3, 0))),
        *(client(r, k, "open", "up_bytes", 10) for r, k in ((1, 0), (2, 0), (3, 0))),
        *(client(r, k, "collect", "down_bytes", 20) for r in (1, 2, 3) for k in (0, 1)),
        *(client(r, 0, "collect", "envelope_bytes", 7) for r in (1, 2, 3)),
        *(client(r, k, "train", "wall", s, "s") for r, k, s in ((1, 0, 1.0), (1, 1, 2.0), (2, 0, 3.0), (3, 0, 5.0))),
        *(client(r, 0, "protect", "wall", s, "s") for r, s in ((1, 1.0), (2, 4.0), (3, 1.0))),
        *(client(r, 0, "witness", "wall", 2.0, "s") for r in (1, 2, 3)),
        server(1, "round", "witness", 2.0, "s"),
        client(3, 0, "train", "cpu", 77.0, "s"),
        client(2, 1, "train", "peak_rss", 4000),
        client(3, 1, "collect", "dropped", 1.0, "1"),
        *(client(r, 1, "collect", f"fault_{kind}", 1.0, "1") for r, kind in ((0, "late"), (1, "late"), (3, "dropout"))),
        *(server(r, "protocol", "sum_error", e, "1") for r, e in ((0, 5.0), (1, 0.5), (2, 2.0), (3, 1.0))),
        Row(1, "keyholder", "open", "up_bytes", 123456, "bytes"),
        Row(1, "transport", "collect", "wall", 50.0, "s"),
    ]


def test_figures_of_a_run_by_hand() -> None:
    figures = summarise(to_frame("r", two_stage_rows()), parameters=10, final=FINAL)
    # five client-rounds sent 5 * 40 + 3 * 10 = 230 bytes; six received 20 each
    assert figures["upload_bytes_per_parameter"] == pytest.approx(230 / 5 / 10)
    assert figures["download_bytes_per_parameter"] == pytest.approx(2.0)
    assert figures["envelope_bytes"] == 7
    assert figures["round_s"] == 4.0
    assert figures["first_round_s"] == 9.0 - 2.0, "less what the round waited for witnesses"
    assert figures["train_s"] == 3  # the median of 3, 3 and 5
    assert figures["client_s"] == 6  # the median of 4, 7 and 6: training and protecting, no witness
    assert figures["accuracy"] == 0.8
    assert figures["evaluated_round"] == 3
    assert figures["loss"] == 1.5
    assert figures["peak_rss_bytes"] == 5000
    assert (figures["dropped"], figures["rejected"], figures["faults"]) == (1, 0, 2)
    assert figures["sum_error"] == 2.0
    assert {key: figures[key] for key in FINAL} == FINAL


def party(round_: int, index: int, stage: str, metric: str, value: float) -> Row:
    return Row(round_, f"party/{index}", stage, metric, value, "bytes" if metric == "comm_bytes" else "1")


def test_what_passes_between_parties_counts_once_though_both_ends_tell_it() -> None:
    """Two parties send each other 50 bytes in round 1 and 150 in round 2, and the dealer 30 to the first in each."""
    rows = [
        *(party(r, p, "peers", "comm_bytes", 2 * b + 30 * (p == 0)) for r, b in ((1, 50), (2, 150)) for p in (0, 1)),
        *(party(r, 0, "dealer", "comm_bytes", 30) for r in (1, 2)),
        *(party(r, p, "peers", "comm_rounds", 5 + p) for r in (1, 2) for p in (0, 1)),
        *(party(r, 0, "dealer", "comm_rounds", 99) for r in (1, 2)),
    ]
    figures = summarise(to_frame("r", rows), parameters=1, final={})
    assert figures["parties_bytes"] == (2 * 50 + 30 + 2 * 150 + 30) / 2
    assert figures["parties_rounds"] == 6


def test_what_was_not_measured_is_none_and_never_zero() -> None:
    figures = summarise(to_frame("r", []), parameters=10, final={})
    assert figures.pop("parameters") == 10
    assert set(figures) >= {"accuracy", "round_s", "train_s", "upload_bytes_per_parameter", "dropped", "weights_sha256"}
    assert "sum_error" in figures
    assert set(figures.values()) == {None}


def test_set_up_is_no_round() -> None:
    rows = [
        server(0, "round", "wall", 5.0),
        server(0, "evaluate", "accuracy", 0.1, "1"),
        server(2, "round", "wall", 1.0),
    ]
    figures = summarise(to_frame("r", rows), parameters=1, final={})
    assert figures["round_s"] == 1.0
    assert figures["first_round_s"] is None
    assert figures["accuracy"] is None


def test_order_of_rows_does_not_matter() -> None:
    rows = two_stage_rows()
    forwards, backwards = (summarise(to_frame("r", order), parameters=10, final=FINAL) for order in (rows, rows[::-1]))
    assert forwards.keys() == backwards.keys()
    for key, value in forwards.items():
        assert backwards[key] == (pytest.approx(value) if isinstance(value, float) else value)


def test_a_diverged_run_keeps_its_nan() -> None:
    figures = summarise(to_frame("r", [server(1, "evaluate", "loss", math.nan, "1")]), parameters=1, final={})
    assert isinstance(figures["loss"], float)
    assert math.isnan(figures["loss"])


def test_final_adds_and_never_overrules() -> None:
    rows = to_frame("r", two_stage_rows())
    assert summarise(rows, parameters=10, final={"delta": 1e-5})["delta"] == 1e-5
    with pytest.raises(AssertionError, match="overruled"):
        summarise(rows, parameters=10, final={"accuracy": 1.0})
