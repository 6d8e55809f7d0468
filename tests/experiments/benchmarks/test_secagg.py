import numpy as np
import pytest

from experiments.benchmarks import main, secagg
from experiments.benchmarks.flower_secagg import FlowerSettings, flower_round
from experiments.benchmarks.secagg_costs import Costs, SecAggCase
from privacy.errors import ConfigError, RuntimeFailure

CASE = SecAggCase(6, 400, 1 / 6)
WHOLE = FlowerSettings(1.0, 0.5)


def test_both_sum_the_same_vectors_and_cost_something():
    """Each round checks its sum; a value of Flower's is eight bytes, one of ours nineteen bits."""
    ours = secagg.our_round(CASE)
    flowers = flower_round(CASE, WHOLE)
    for costs in (ours, flowers):
        assert set(costs.clients_s) == set(range(6))
        assert min(costs.clients_s.values()) > 0
        assert costs.server_s > 0
        (gone,) = CASE.gone
        assert costs.up_bytes[gone] < min(size for client, size in costs.up_bytes.items() if client != gone)
        assert costs.bytes_of(CASE.gone)[0] > costs.up_bytes[gone]
    assert ours.payload_bytes == 401 // 8 * 19 + 19
    assert flowers.bytes_of(CASE.gone)[0] > 8 * 400
    assert ours.bytes_of(CASE.gone)[0] < flowers.bytes_of(CASE.gone)[0] / 2


def test_flowers_settings_are_its_own():
    """The defaults of Flower's class, read from its signature."""
    from flwr.server.workflow import SecAggPlusWorkflow

    workflow = SecAggPlusWorkflow(1.0, 0.5)
    for name in ("clipping_range", "quantization_range", "modulus_range"):
        assert getattr(WHOLE, name) == getattr(workflow, name)


def test_a_sum_that_is_another_is_no_measurement(monkeypatch):
    monkeypatch.setattr(SecAggCase, "exact", lambda self: np.full(self.parameters, 99.0))
    with pytest.raises(RuntimeFailure, match=r"Flower's SecAgg\+ is off by"):
        flower_round(CASE, WHOLE)
    with pytest.raises(AssertionError, match="ours sums something else"):
        secagg.our_round(CASE)


def test_a_flower_that_halts_is_no_measurement():
    with pytest.raises(RuntimeFailure, match=r"Flower's SecAgg\+ halted"):
        flower_round(SecAggCase(6, 10, 5 / 6), FlowerSettings(1.0, 0.9))


def test_the_last_step_of_a_generator_counts():
    def steps():
        sum(range(300_000))
        yield from ()

    costs = Costs()
    with pytest.raises(StopIteration), costs.of_server():
        next(steps())
    assert costs.server_s > 0


def costs_of(server_s: float, client_s: float) -> Costs:
    clients = range(4)
    return Costs(
        server_s, dict.fromkeys(clients, client_s), dict.fromkeys(clients, 500), dict.fromkeys(clients, 100), 280
    )


def test_ratios_are_of_medians_and_bars_are_for_the_defaults():
    case = SecAggCase(4, 100, 0.0)
    measured = {
        ("ours", case): [costs_of(*pair) for pair in ((1, 1), (2, 2), (9, 3))],
        ("Flower's, same", case): [costs_of(*pair) for pair in ((8, 8), (6, 1), (1, 30))],
        ("Flower's, defaults", case): [costs_of(*pair) for pair in ((20, 2), (20, 2), (20, 2))],
    }
    figures = {figure.name: figure for figure in secagg.compare([case], measured)}
    at = "4 x 100, 0% gone: "
    assert figures[at + "ours: server"].value == 2
    assert figures[at + "ours: up"].value == 5
    assert figures[at + "Flower's, same / ours: server"].value == 3
    assert figures[at + "Flower's, same / ours: a client"].value == 4
    assert figures[at + "Flower's, same / ours: server"].met is None
    assert figures[at + "Flower's, defaults / ours: server"].met is True
    assert figures[at + "Flower's, defaults / ours: a client"].met is False


def test_the_clients_that_are_gone_are_the_same_for_all_and_as_many_as_is_said():
    assert [len(SecAggCase(100, 5, share / 100).gone) for share in (0, 5, 10, 30)] == [0, 5, 10, 30]
    assert SecAggCase(100, 5, 0.3).gone == SecAggCase(100, 900, 0.3).gone
    assert np.allclose(
        SecAggCase(3, 5, 0.0).exact(), sum(SecAggCase(3, 5, 0.0).update(client).astype(float) for client in range(3))
    )


@pytest.mark.slow
@pytest.mark.parametrize("curves", [False, True])
def test_the_command_line(capsys, monkeypatch, curves):
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setattr(secagg, "CURVE_CLIENTS", (3, 5))
    monkeypatch.setattr(secagg, "CURVE_LENGTHS", (50, 70))
    monkeypatch.setattr(secagg, "CURVE_PARAMETERS", 60)
    small = ["--clients", "5", "--parameters", "60", "--dropouts", "0,20", "--repeats", "1"]
    assert main(["secagg", *(["--curves", "--repeats", "1"] if curves else small)]) == 0
    printed = capsys.readouterr().out
    wanted = (
        ["3 x 60", "5 x 60", "10 x 50", "10 x 70"]
        if curves
        else ["5 x 60, 0% gone: Flower's, same: server", "20% gone"]
    )
    for name in wanted:
        assert name in printed
    assert ("ChaCha20 alone" in printed) is not curves


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clients", "2"], "--clients=2: must be at least 3"),
        (["--repeats", "0"], "--repeats=0: must be at least 1"),
        (["--parameters", "0"], "--parameters=0: must be at least 1"),
        (["--dropouts", "0,31"], "--dropouts=0,31: must be whole numbers from 0 to 30"),
        (["--dropouts", "x"], "--dropouts=x: must be whole numbers"),
    ],
)
def test_wrong_numbers_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        main(["secagg", *options])
