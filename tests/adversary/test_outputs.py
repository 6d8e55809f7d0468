"""The promise of epsilon over all that a run writes: neighbouring data change nothing in it that nobody has named.

The adversary reads the results: rows, summary, checkpoints, ledger, state, log and what a tracker is told. Two runs
have the same noise, and data that differ in one record or in one client. Each output that differs is a function of the
noised sum, or has its sentence on the card; `fl/card/outputs.py` is the table.
"""

import io
import json
import logging
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import execute as execution
from experiments.execute import execute
from experiments.tracking import _figures, _series
from fl import plan as planning
from fl import server
from fl.card.outputs import FRESH, NAMED, NOISED, SWITCHED, output_of
from fl.checkpoint import HEADER_BYTES
from fl.threats import threat_card
from fl.training import stopping
from fl.workspace import Workspace, workspace
from privacy.errors import PrivacyRefusal
from results.store import RunDirectory
from tests.composed import SMALL, compose, workspace_of

PRIVATE = ("noise=seeded", "accountant=rdp", "server.evaluate_every=1", "training.epochs=1", "output.progress=false")
MASKS = ("secure_sum=pad", "secure_sum.keys=clients")
MECHANISMS = {
    "dp_sgd": ("mechanism=dp_sgd", "delta=1e-5", "training.sample_rate=0.1"),
    "dp_sgd at a rate of its own": ("mechanism=dp_sgd", "delta=1e-5"),
    "client_dp": (
        "mechanism=client_dp",
        "delta=1e-2",
        "mechanism.client_dp.adaptive=true",
        "+mechanism.client_dp.bit_noise_fraction=0.2",
        "server=fedavgm",
    ),
    "client_dp under masks": ("mechanism=client_dp", "delta=1e-2", "mechanism.client_dp.clip=3", *MASKS),
    "local_dp": ("mechanism=local_dp", "delta=1e-2"),
    "dp_ftrl": ("mechanism=dp_ftrl", "delta=1e-2", "cohort=2"),
    "distributed_dp": ("mechanism=distributed_dp", "delta=1e-2"),
    "dp_sgd that may end early": (
        *("mechanism=dp_sgd", "delta=1e-5", "training.sample_rate=0.1", "rounds=6"),
        *("data.public_share=0.5", "server.patience=1", "server.least_gain=0.001"),
    ),
}


# ---- neighbouring data


def without_a_record(monkeypatch) -> None:
    _changed_partition(monkeypatch, lambda indices: indices[1:])


def with_another_record(monkeypatch) -> None:
    _changed_partition(monkeypatch, lambda indices: np.append(indices[1:], indices[-1]))


def _changed_partition(monkeypatch, change) -> None:
    honest = planning.partition

    def partition(*arguments):
        first, *others = honest(*arguments)
        return [change(first), *others]

    monkeypatch.setattr(planning, "partition", partition)


def without_a_client(monkeypatch) -> None:
    """Zero out the contribution of a client: it trains on nothing."""
    _trained_otherwise(monkeypatch, lambda: None)


def _trained_otherwise(monkeypatch, act) -> None:
    """Let a client take no part in its group's training, and act in place of training alone."""
    taken = Workspace.taken
    train = Workspace.train

    def with_group(work, number, attempt, client, global_D):
        return None if client == 0 else taken(work, number, attempt, client, global_D)

    def alone(work, job) -> None:
        act() if job.address == "client/0" else train(work, job)

    monkeypatch.setattr(Workspace, "taken", with_group)
    monkeypatch.setattr(Workspace, "train", alone)


def with_another_client(monkeypatch) -> None:
    _changed_partition(monkeypatch, lambda indices: indices[:40])


NEIGHBOURS = {"record": (without_a_record, with_another_record), "client": (without_a_client, with_another_client)}


# ---- all that a run writes


class Lines(logging.Handler):
    """The lines of the log, without the numbers of the rounds."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def written(folder: Path, *overrides: str) -> dict[str, Any]:
    """Every output of a run, by the names of `fl/card/outputs.py`."""
    workspace.cache_clear()
    handler = Lines()
    log = logging.getLogger("fedveil")
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.DEBUG)
    try:
        execute(compose(*SMALL, *overrides, *PRIVATE, f"out={folder}"))
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        workspace.cache_clear()
    run = RunDirectory(folder)
    found: dict[str, Any] = {"log/left out": [line for line in handler.lines if "is left out" in line]}
    found["log/ends"] = [line for line in handler.lines if "ends the run" in line]
    found["log"] = [line for line in handler.lines if "is left out" not in line and "ends the run" not in line]
    found |= {f"summary/{key}": value for key, value in (run.summary() or {}).items()}
    found |= {f"status/{key}": value for key, value in (run.status() or {}).items()}
    found |= {f"data/{key}": value for key, value in (run.data() or {}).items()}
    found["environment"] = (folder / "environment.json").read_text()
    return found | _rows(run) | _checkpoint(folder) | _ledger(folder)


def _rows(run: RunDirectory) -> dict[str, Any]:
    found = defaultdict(list)
    rows = run.rows()
    for _, number, where, stage, metric, value, _ in rows.iter_rows():
        found[f"rows/{where.partition('/')[0]}/{stage}.{metric}"].append((number, where, value))
    told = {f"rows/{who}/{stage}.{metric}" for _, key, _ in _series(rows) for who, stage, metric in [_split(key)]}
    assert told <= found.keys(), "a tracker is told more than the rows hold"
    assert _figures(run.summary() or {}).keys() <= (run.summary() or {}).keys()
    return {name: sorted(values) for name, values in found.items()} | {"rows/rounds": rows["round"].max()}


def _split(key: str) -> tuple[str, str, str]:
    who, _, rest = key.partition("/")
    stage, _, metric = rest.rpartition("/")
    return who, stage, metric


def _checkpoint(folder: Path) -> dict[str, Any]:
    last = max((folder / "checkpoints").glob("*.ckpt"))
    content = torch.load(io.BytesIO(last.read_bytes()[HEADER_BYTES:]), weights_only=True)
    assert content.keys() == {"state", "generators"}
    state = {f"checkpoint/{key}": repr(_plain(value)) for key, value in content["state"].items()}
    return state | {"checkpoint/generators": repr(_plain(content["generators"]))}


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _ledger(folder: Path) -> dict[str, Any]:
    found = defaultdict(list)
    for line in (folder / "checkpoints" / "ledger.jsonl").read_text().splitlines():
        for key, value in json.loads(line).items():
            found[f"ledger/{key}"].append(value)
    return dict(found)


def differences(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """The names of all outputs that are not in both runs, or have another value in the rounds that both have."""
    ends = one["rows/rounds"], other["rows/rounds"]
    shared = [{name: _until(ends, name, value) for name, value in run.items()} for run in (one, other)]
    found = {name for name in one.keys() | other.keys() if shared[0].get(name, []) != shared[1].get(name, [])}
    # the process's generators are seeded afresh for each round, so those of two rounds say nothing
    return found - {"checkpoint/generators"} if "rows/rounds" in found else found


def _until(ends: tuple[int, int], name: str, value: Any) -> Any:
    """The rows of the rounds that both have; the epsilon that a run ends with is that of all planned rounds."""
    if not name.startswith("rows/") or not isinstance(value, list):
        return value
    ends_early = ends[0] != ends[1] and ".epsilon_" in name
    return [row for row in value if row[0] <= min(ends) - ends_early]


def unnamed(names: set[str], card: str) -> set[str]:
    """The outputs that no line of the table explains, or whose sentence is missing from the card."""
    lines = {name: output_of(name) for name in names}
    return {
        name
        for name, line in lines.items()
        if line is None or line.category == SWITCHED or (line.category == NAMED and line.reason not in card)
    }


def unit_of(overrides) -> str:
    return "record" if overrides[0] == "mechanism=dp_sgd" else "client"


@pytest.mark.parametrize("name", MECHANISMS)
def test_what_differs_between_neighbours_is_noised_or_named(name, tmp_path, monkeypatch):
    overrides = MECHANISMS[name]
    card = "\n".join(threat_card(workspace_of(*overrides, *PRIVATE)))
    base = written(tmp_path / "base", *overrides)
    for number, neighbour in enumerate(NEIGHBOURS[unit_of(overrides)]):
        with monkeypatch.context() as changed:
            neighbour(changed)
            other = written(tmp_path / str(number), *overrides)
        differ = differences(base, other)
        assert "checkpoint/weights_D" in differ, "the data did differ"
        assert not unnamed(differ, card), neighbour.__name__


def test_the_record_of_the_data_is_named(tmp_path):
    overrides = MECHANISMS["client_dp"]
    written_keys = {key for key in written(tmp_path / "run", *overrides) if key.startswith("data/")}
    assert written_keys == {"data/shape", "data/train", "data/test", "data/sha256"}
    assert not unnamed(written_keys, "\n".join(threat_card(workspace_of(*overrides, *PRIVATE))))
    assert unnamed(written_keys, "\n".join(threat_card(workspace_of(*PRIVATE)))) == written_keys


def test_a_client_that_refuses_is_named(tmp_path, monkeypatch):
    """Neighbours of which one has a client that cannot answer: who is left out, and why."""
    overrides = MECHANISMS["local_dp"]
    card = "\n".join(threat_card(workspace_of(*overrides, *PRIVATE)))
    base = written(tmp_path / "base", *overrides)

    def refuse() -> None:
        raise PrivacyRefusal("an example of this client cannot be trained on")

    _trained_otherwise(monkeypatch, refuse)
    differ = differences(base, written(tmp_path / "other", *overrides))
    expected = {"rows/client/collect.dropped", "rows/server/protocol.survivors", "summary/dropped", "log/left out"}
    assert expected <= differ
    assert unnamed(differ, card) == {"rows/client/collect.up_bytes"}, "that it sent nothing; sizes tell nothing else"


def test_an_end_at_another_round_is_named(tmp_path, monkeypatch):
    """Neighbours of which one goes on for a round more: all that tells it is a function of the models."""
    overrides = (*MECHANISMS["dp_sgd that may end early"], "server.least_gain=100")
    card = "\n".join(threat_card(workspace_of(*overrides, *PRIVATE)))
    base = written(tmp_path / "base", *overrides)

    def stops(losses, patience, least_gain):
        return stopping.stops(list(losses)[1:], patience, least_gain)

    for module in (server, execution):
        monkeypatch.setattr(module, "stops", stops)
    other = written(tmp_path / "other", *overrides)
    assert (base["rows/rounds"], other["rows/rounds"]) == (2, 3)
    differ = differences(base, other)
    assert {"rows/rounds", "log/ends", "checkpoint/round", "checkpoint/weights_D"} <= differ
    assert not unnamed(differ, card)


@pytest.mark.slow
def test_of_noise_by_parties_too(tmp_path, monkeypatch):
    overrides = ("privacy=party_dp", "delta=1e-2")
    card = "\n".join(threat_card(workspace_of(*overrides, *PRIVATE)))
    base = written(tmp_path / "base", *overrides)
    without_a_client(monkeypatch)
    differ = differences(base, written(tmp_path / "other", *overrides))
    assert "checkpoint/weights_D" in differ
    assert not unnamed(differ, card)


def test_an_exact_figure_would_be_noticed(tmp_path, monkeypatch):
    """The control: on request clients report exact figures, which this test sees, and the card says so."""
    overrides = (*MECHANISMS["client_dp"], "runtime.client_diagnostics=true")
    card = "\n".join(threat_card(workspace_of(*overrides, *PRIVATE)))
    base = written(tmp_path / "base", *overrides)
    without_a_client(monkeypatch)
    leaks = unnamed(differences(base, written(tmp_path / "other", *overrides)), card)
    assert {"rows/client/client_dp.update_norm", "rows/server/client_dp.update_norm_q50"} <= leaks
    assert all(output_of(name).category == SWITCHED for name in leaks)
    assert output_of("rows/client/client_dp.update_norm").reason in card


def test_scores_of_clients_are_exact_and_on_request(tmp_path, monkeypatch):
    overrides = (*MECHANISMS["client_dp"], "runtime.client_evaluation=true", "runtime.client_diagnostics=true")
    card = "\n".join(threat_card(workspace_of(*overrides, *PRIVATE)))
    base = written(tmp_path / "base", *overrides)
    with_another_client(monkeypatch)
    leaks = unnamed(differences(base, written(tmp_path / "other", *overrides)), card)
    told = {"rows/client/evaluate.accuracy", "rows/client/evaluate.loss", "summary/client_accuracy"}
    assert told <= leaks
    assert all(output_of(name).category == SWITCHED for name in leaks)
    assert all(output_of(name).reason in card for name in told)


def test_values_that_are_cut_are_counted_on_request_only(tmp_path):
    overrides = ("mechanism=client_dp", "delta=1e-2", "mechanism.client_dp.clip=3", *MASKS)
    cut = (*overrides, "secure_sum.bound=0.12")
    assert "rows/client/flatten.clipped_values" not in written(tmp_path / "quiet", *cut)
    told = written(tmp_path / "told", *cut, "runtime.client_diagnostics=true")
    assert "rows/client/flatten.clipped_values" in told
    assert "rows/server/protocol.clipped" in told


# ---- the table


def test_no_line_of_the_table_is_behind_another():
    """A line that is never reached says nothing."""
    from fl.card.outputs import OUTPUTS

    for output in OUTPUTS:
        example = re.sub(r"\*", "server/x" if output.names.startswith("rows/*") else "x", output.names)
        assert output_of(example) is not None
        assert output.category in (NOISED, SWITCHED, NAMED, FRESH)
        assert output.reason


def test_an_output_that_nobody_named_is_a_leak():
    assert unnamed({"rows/server/client_dp.exact_norm", "summary/accuracy"}, "") == {"rows/server/client_dp.exact_norm"}
    assert unnamed({"rows/client/train.wall"}, "") == {"rows/client/train.wall"}, "its sentence is missing"
