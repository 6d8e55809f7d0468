import pytest

from privacy.errors import ConfigError
from results.plot import _phases, plot
from results.rows import Row, to_frame
from results.runs import collect, find_runs
from results.store import RunDirectory
from results.table import main
from tests.results.samples import configuration, store, summary


def rows(train_s):
    """Two clients over two rounds: they train for `train_s` each, and a round takes 1 s."""
    made = []
    for number in (1, 2):
        made += [Row(number, f"client/{client}", "train", "wall", train_s, "s") for client in (0, 1)]
        made += [
            Row(number, "client/0", "protect", "wall", 0.05, "s"),
            Row(number, "server", "round", "wall", 1.0, "s"),
        ]
        made.append(Row(number, "server", "evaluate", "accuracy", 0.5 + 0.1 * number, "1"))
    return made


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "runs"
    for clients in (5, 10):
        for seed in (1, 2):
            path = store(root, configuration(clients=clients, seed=seed), "finished", summary())
            RunDirectory(path).write_rows(to_frame(path.name, rows(0.1 * seed)))
    return root


def test_phases_are_medians_over_rounds_of_sums_over_clients():
    phases = _phases(to_frame("r", rows(0.2)))
    assert phases["train"] == pytest.approx(0.4)
    assert phases["protect"] == pytest.approx(0.05)
    assert phases["prepare"] == 0
    assert phases["messages and server"] == pytest.approx(1 - 0.4 - 0.05)


@pytest.mark.parametrize(("ending", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_the_table_draws_what_it_prints(folder, tmp_path, capsys, ending, magic):
    out = tmp_path / f"figure{ending}"
    assert main([str(folder), "--format", "markdown", "--plot", str(out)]) == 0
    assert out.read_bytes().startswith(magic)
    assert "clients=5" in capsys.readouterr().out


def test_labels_and_axes_are_in_the_picture(folder, tmp_path):
    import matplotlib

    out = tmp_path / "figure.svg"
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        plot(collect(find_runs([folder])), out)
    text = out.read_text()
    for wanted in ("clients=5", "clients=10", "test accuracy (%)", "time of a round (ms)", "messages and server"):
        assert wanted in text


@pytest.mark.parametrize("name", ["figure.gif", "figure"])
def test_another_ending_is_refused(folder, tmp_path, name):
    with pytest.raises(ConfigError, match=r"must end in one of \.png, \.pdf, \.svg"):
        plot(collect(find_runs([folder])), tmp_path / name)


def test_nothing_finished_is_nothing_to_draw(tmp_path):
    store(tmp_path / "runs", configuration(), "failed", error="no")
    with pytest.raises(ConfigError, match="here are 0"):
        plot(collect(find_runs([tmp_path / "runs"])), tmp_path / "figure.png")
