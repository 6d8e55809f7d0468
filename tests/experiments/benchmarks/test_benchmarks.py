import json
import sys
from unittest.mock import patch

import pytest
import torch

from experiments.benchmarks import BENCHMARKS, BenchFigure, main, runtime, show
from privacy.errors import ConfigError


@pytest.fixture(scope="module")
def race():
    race = runtime.Race("data=digits", "clients=20", "cohort=5", "rounds=9", "training.lr=0.05")
    race.alternate(2)
    return race


def test_the_bare_loop_computes_what_the_testbed_computes(race):
    servers = race.servers.values()
    assert len(servers) == 2
    for server in servers:
        assert (server.weights.detach() - race.work.initial_D).abs().max() > 1e-2
        assert (server.weights.detach() - race.bare.global_D).abs().max() < 1e-5
    values = {figure.name: figure.value for figure in race.figures()}
    assert {"(a) bare loop, round", "(b) in process, round", "(t) in process, 5 together, round"} <= values.keys()
    assert [len(laps) for laps in race.laps.values()] == [2, 2, 2]
    ratios = [one.cpu_s / bare.cpu_s for one, bare in zip(race.laps["auto"], race.laps["bare"], strict=True)]
    assert values["(t) / (a)"] == pytest.approx(sum(ratios) / 2), "the median of two"


def test_a_round_goes_on_without_measurement():
    work = runtime.configured("data=digits", "clients=3", "rounds=1")
    server = runtime.server_of(work, runtime.inprocess.InProcessGrid(work.plan.hash, 3))
    with patch.object(runtime.participant, "Phases", runtime.Unmeasured):
        server.advance(1)
    assert not server.transport.dropped


def test_a_model_that_the_table_lacks_is_refused():
    with pytest.raises(ConfigError, match="--models=vgg: allowed are mlp, logistic, lenet, cnn_mcmahan"):
        main(["runtime", "--models", "mlp,vgg"])


def test_an_interpreter_without_the_peer_is_refused(tmp_path):
    for python in (sys.executable, tmp_path / "none"):
        with pytest.raises(ConfigError, match=r"^--pfl=.*: must be the interpreter .* pip install pfl==0\.6\.0 torch$"):
            main(["runtime", "--pfl", str(python)])


def test_a_baseline_that_computes_something_else_is_no_baseline(race):
    with torch.no_grad():
        race.bare.global_D += 1e-3
    with pytest.raises(AssertionError, match="computes something else"):
        race.check()
    with torch.no_grad():
        race.bare.global_D -= 1e-3


@pytest.mark.parametrize(
    ("value", "bar", "met"), [(1.1, "<= 1.15", True), (1.2, "<= 1.15", False), (2.9, ">= 3", False), (5, None, None)]
)
def test_a_figure_knows_whether_it_meets_its_bar(value, bar, met):
    assert BenchFigure("x", value, "1", bar).met is met


def test_the_file_holds_what_is_printed(tmp_path, capsys):
    figures = [BenchFigure("a round", 0.25, "s"), BenchFigure("ratio", 1.5, "1", "<= 1.15")]
    show(figures, tmp_path / "figures.json")
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "figures.json").read_text())
    assert "a round" in printed
    assert "NO" in printed
    assert [row["value"] for row in written["figures"]] == [0.25, 1.5]
    assert [row["met"] for row in written["figures"]] == [None, False]
    assert written["environment"]["packages"]["torch"]


def test_an_unknown_benchmark_names_those_that_exist():
    with pytest.raises(ConfigError, match=f"bench=nope: allowed are {', '.join(BENCHMARKS)}"):
        main(["nope"])
