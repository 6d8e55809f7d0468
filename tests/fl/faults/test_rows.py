"""The rows and the log of a round that goes wrong."""

import logging

import pytest

from fl.checkpoint import Checkpoints
from fl.server import Server
from tests.composed import server_of, workspace_of
from tests.fl.faults.runs import run


def test_a_fault_is_a_line_of_the_log_and_a_row_though_its_client_is_never_heard(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="fedveil"):
        found = run(
            tmp_path, "faults.dropout_rate=0.2", "faults.scaled_clients=1", "faults.kind=zero", "faults.rate=0.1"
        )
    rows = found.rows.filter(found.rows["metric"].str.starts_with("fault_"))
    told = [record.getMessage() for record in caplog.records if "on purpose: " in record.getMessage()]
    kinds = [(row["round"], row["metric"].removeprefix("fault_"), row["where"]) for row in rows.iter_rows(named=True)]
    lines = [f"round {number}: a fault on purpose: {kind} of {who} at stage collect" for number, kind, who in kinds]
    assert sorted(told) == sorted(lines)
    assert set(rows["metric"]) == {"fault_dropout", "fault_scaled", "fault_zero"}
    assert set(rows["value"]) == {1.0}


class Unplugged(Exception):
    """An unforeseen error."""


@pytest.mark.parametrize("where", ["step", "_evaluate"])
def test_whatever_ends_a_round_its_rows_and_those_before_stay(tmp_path, monkeypatch, where):
    work = workspace_of("rounds=3")
    server = server_of(work, tmp_path)
    original = getattr(Server, where)

    def fail_in_2(self, number, *rest):
        if number == 2:
            raise Unplugged
        return original(self, number, *rest)

    monkeypatch.setattr(Server, where, fail_in_2)
    with pytest.raises(Unplugged):
        server.run()
    rows = Checkpoints(tmp_path, 2).rows()
    assert set(rows["round"]) == {0, 1, 2}
    assert set(rows.filter(round=2, metric="up_bytes")["where"]) == {f"client/{i}" for i in range(4)}
