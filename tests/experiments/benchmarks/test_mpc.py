import numpy as np
import pytest

from experiments.benchmarks import main, mpc
from experiments.benchmarks.mpc import Clients, MpcSetting, Seat
from privacy.errors import ConfigError
from privacy.testing.party_threads import peers_among


def test_uploads_are_no_longer_for_more_parties_and_no_shorter_than_the_floor():
    figures = {figure.name: figure for figure in mpc.upload_figures(26_010, 10)}
    assert figures.pop("26,010 parameters: the floor, 21 bits").value == 21 / 8  # 10 x 2^16 and one step, and a sign
    assert list(figures) == [f"26,010 parameters, {parties} parties: up" for parties in (2, 3, 5)]
    for figure in figures.values():
        assert 4 < figure.value < 4.03
        assert figure.met


def test_the_server_relays_to_each_party_a_box_of_each_client():
    clients = Clients(MpcSetting(3, 4, 50))
    handed = clients.handed()
    assert set(handed) == {"party/0", "party/1", "party/2"}
    for records in handed.values():
        assert set(clients.cohort) < set(records)
    assert len(clients.share_s) == 4
    assert min(clients.share_s) > 0


def test_medians_leave_the_first_repeat_out_and_bars_apply():
    clients = Clients(MpcSetting(2, 3, 1000))
    clients.share_s = [9.0, 0.001, 0.002, 0.001]
    times = {"ours": 0.02, "stage": 0.05, "numpy": 0.01, "naive": 0.05}
    measured = {way: [9.0, second, 5.0, second / 2] for way, second in times.items()}
    figures = {figure.name: figure for figure in mpc.race_figures(clients, measured)}
    case = "2 parties, 3 x 1,000: "
    assert figures[case + "client"].value == pytest.approx(1.0)
    assert figures[case + "stage"].value == pytest.approx(50)
    assert figures[case + "ours / numpy's"].value == pytest.approx(2)
    assert figures[case + "naive / ours"].value == pytest.approx(2.5)
    assert [figures[case + name].met for name in ("ours / numpy's", "naive / ours", "ours")] == [True, False, None]


class Alone(Seat):
    """A single party that sums the values it is given."""

    def __init__(self, sum_D: np.ndarray) -> None:
        self._setting = MpcSetting(2, 3, 2)
        self._exact_D = np.zeros(3)
        self._repeats = 0
        self._peers = peers_among(["party/0"])["party/0"]
        self._sum_D = sum_D

    def ours(self) -> np.ndarray:
        return self._sum_D


def test_a_sum_that_is_another_is_no_measurement():
    assert Alone(np.full(3, 3 * 2.0**-15)).time_s("ours") > 0
    with pytest.raises(AssertionError, match="ours sums something else"):
        Alone(np.array([0.0, 0.0, 1.0])).time_s("ours")


@pytest.mark.slow
def test_the_command_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(mpc, "SIZES", (300,))
    assert main(["mpc", "--parameters", "300", "--clients", "3", "--parties", "2", "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    for figure in ("client", "ours", "stage", "numpy", "naive", "ours / numpy's", "naive / ours"):
        assert f"2 parties, 3 x 300: {figure} " in printed


@pytest.mark.parametrize("option", ["--clients", "--parameters", "--repeats"])
def test_wrong_numbers_are_refused(option):
    with pytest.raises(ConfigError, match=f"{option}=0: must be at least 1"):
        main(["mpc", option, "0"])
