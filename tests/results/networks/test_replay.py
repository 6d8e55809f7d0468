import io
from pathlib import Path

import polars as pl
import pytest

from privacy.errors import ConfigError
from results.commands.table import main
from results.measurements import Row
from results.networks.links import Link, Network, Profile, load
from results.networks.replay import Replay, columns, replay
from results.rows import to_frame
from results.store import RunDirectory
from tests.results.samples import CKKS, configuration, store, summary

MB = 1e6
# 8 Mbit/s are 1 MB/s
NETWORK = Network("x", Profile("", "", Link(80, 80), Link(8, 8), Link(16, 16), 100, initial_window_bytes=None))


def told(number: int, *measured: tuple[str, str, str, float]) -> list[Row]:
    return [Row(number, *entry, "x") for entry in measured]


def replayed(*rows: Row) -> Replay:
    return replay(to_frame("x", rows), NETWORK)


def plain_round(number: int, slow_s: float = 3.0) -> list[Row]:
    sizes = (("down_bytes", MB), ("up_bytes", 2 * MB))
    return told(
        number,
        *((f"client/{i}", "collect", metric, size) for i in (0, 1) for metric, size in sizes),
        ("client/0", "train", "wall", 1.0),
        ("client/0", "protect", "wall", 0.5),
        ("client/0", "protect/x", "part", 9.0),
        ("client/1", "train", "wall", slow_s),
        ("client/1", "train", "cpu", 99.0),
        ("server", "collect", "compute", 0.25),
        ("server", "protocol", "compute", 0.125),
        ("server", "step", "wall", 0.125),
        ("server", "collect/add", "part", 9.0),
        ("server", "round", "wall", 99.0),
        ("server", "evaluate", "wall", 99.0),
        ("transport", "collect", "wall", 99.0),
    )


def test_a_round_is_the_server_the_slowest_client_and_the_bytes() -> None:
    found = replayed(*plain_round(1))
    assert found.transfer_s == pytest.approx(1 + 2 + 0.1)
    assert found.round_s == pytest.approx(0.5 + 3.0 + 3.1)


def test_rounds_are_medians_and_set_up_is_none_of_them() -> None:
    rows = told(0, ("client/0", "collect", "up_bytes", 1e12), ("client/0", "train", "wall", 1e6))
    rows += [row for number, slow_s in ((1, 30.0), (2, 3.0), (3, 4.0)) for row in plain_round(number, slow_s)]
    assert replayed(*rows).round_s == pytest.approx(0.5 + 4.0 + 3.1)


def test_each_stage_is_a_round_trip_and_envelopes_count() -> None:
    stages = [
        ("client/0", stage, metric, size)
        for stage in ("advertise", "mask", "unmask")
        for metric, size in (("down_bytes", 0.0), ("envelope_bytes", MB / 2), ("up_bytes", MB))
    ]
    assert replayed(*told(1, *stages)).transfer_s == pytest.approx(3 * (0.1 + 0.5 + 1))


def test_a_keyholder_waits_for_the_cohort_and_computes() -> None:
    opening = [("keyholder", "open", "down_bytes", 4 * MB), ("keyholder", "open", "up_bytes", 2 * MB)]
    found = replayed(*plain_round(1), *told(1, *opening, ("keyholder", "protect", "wall", 0.75)))
    assert found.transfer_s == pytest.approx(3.1 + 2 + 1 + 0.1)
    assert found.round_s == pytest.approx(found.transfer_s + 0.5 + 3.0 + 0.75)


def test_parties_wait_for_one_another_once_a_communication_round() -> None:
    talk = [
        entry
        for i, waited_s in ((0, 5.0), (1, 4.0), (2, 4.5))
        for entry in (
            (f"party/{i}", "peers", "comm_bytes", 16 * MB),
            (f"party/{i}", "peers", "comm_rounds", 4.0),
            (f"party/{i}", "peers", "comm_wall", waited_s),
            (f"party/{i}", "protect", "wall", 5.25),
        )
    ]
    found = replayed(*plain_round(1), *told(1, *talk))
    assert found.transfer_s == pytest.approx(3.1 + 4 * 0.05 + 8 / 2), "8 MB are sent at 2 MB/s"
    assert found.round_s == pytest.approx(found.transfer_s + 0.5 + 3.0 + 1.25), "party/1 has the most to compute"


def test_a_dealer_is_asked_by_the_party_that_tells_of_it() -> None:
    deal = [("party/0", "dealer", "comm_bytes", 8 * MB), ("party/0", "dealer", "comm_rounds", 2.0)]
    assert replayed(*told(1, *deal)).transfer_s == pytest.approx(2 * 0.05 + 2)


def test_a_round_whose_clients_tell_no_times_has_no_modelled_one() -> None:
    silent = [row for row in plain_round(1) if row.metric != "wall" or not row.where.startswith("client/")]
    found = replayed(*silent)
    assert found.round_s is None
    assert found.transfer_s == pytest.approx(3.1)
    assert replayed() == (None, None)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    for seed in (1, 2):
        for secure_sum, extra_s in (({}, 0.0), ({"secure_sum": CKKS}, 2.0)):
            path = store(root, configuration(seed=seed, **secure_sum), "finished", summary())
            RunDirectory(path).write_rows(to_frame("x", plain_round(1, 3.0 + extra_s)))
    store(root, configuration(seed=3), "failed", error="x")
    return root


def test_the_table_shows_modelled_rounds_and_says_that_they_are(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(runs), "--network", "wan_1g,mobile"]) == 0
    text = capsys.readouterr().out
    for name in ("wan_1g", "mobile"):
        assert f" modelled round, {name} (s) " in text
        assert f" modelled round / plain, {name} " in text
        assert f"Modelled over {name}, {load(name).profile.title} (source: " in text
    assert text.count("A modelled round is not measured") == 1
    assert main([str(runs)]) == 0
    assert "modelled round" not in capsys.readouterr().out.lower()


def test_csv_holds_the_models_figures(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [column.key for column in columns(load("mobile"))]
    main([str(runs), "--network", "mobile", "--columns", ",".join(keys), "--format", "csv"])
    frame = pl.read_csv(io.StringIO(capsys.readouterr().out)).filter(pl.col("status") == "finished")
    plain_s = replay(to_frame("x", plain_round(1)), load("mobile")).round_s
    assert plain_s is not None
    assert frame["modelled_round_s_mobile"].to_list() == pytest.approx([plain_s, plain_s + 2])
    assert frame["modelled_ratio_mobile"].to_list() == pytest.approx([1, (plain_s + 2) / plain_s])


def test_what_is_wrong_with_a_network_is_said_in_one_line(runs: Path) -> None:
    for arguments, named in (
        (["--network", "dialup"], "--network=dialup: allowed are"),
        (["--columns", "modelled_round_s_mobile"], "no such column"),
        (["--network", "mobile", "--breakdown"], "leave --breakdown out"),
    ):
        with pytest.raises(ConfigError, match=named):
            main([str(runs), *arguments])
