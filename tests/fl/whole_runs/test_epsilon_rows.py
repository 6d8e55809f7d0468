"""Rows of epsilon: the largest by evaluated round, and that of each client at the end."""

import polars as pl
import pytest

from fl.checkpoint import Checkpoints
from tests.composed import run
from tests.fl.whole_runs.spending import DELTA, epsilon_of

OVERRIDES = ("mechanism=client_dp", f"delta={DELTA}", "accountant=rdp", "rounds=4", "cohort=2")


def rows_of(folder, *overrides: str) -> pl.DataFrame:
    run(folder, *OVERRIDES, *overrides)
    return Checkpoints(folder, 2).rows().filter(pl.col("stage") == "ledger", pl.col("metric") == "epsilon_client")


def test_each_evaluated_round_has_the_largest_epsilon_so_far(tmp_path):
    rows = rows_of(tmp_path, "server.evaluate_every=2", "cohort=null")
    told = rows.filter(pl.col("where") == "server")
    assert told["round"].to_list() == [2, 4]
    assert told["value"].to_list() == pytest.approx([epsilon_of(2), epsilon_of(4)])


def test_the_last_round_has_that_of_every_client_that_took_part(tmp_path):
    rows = rows_of(tmp_path)
    everybody = Checkpoints(tmp_path, 2).rows()
    asked = everybody.filter(pl.col("metric") == "down_bytes")["where"].value_counts()
    own = rows.filter(pl.col("where") != "server")
    assert set(own["round"]) == {4}
    assert dict(own.select("where", "value").iter_rows()) == {
        client: pytest.approx(epsilon_of(times)) for client, times in asked.iter_rows()
    }
    assert rows.filter(pl.col("where") == "server")["value"].to_list() == [own["value"].max()]


def test_who_promises_nothing_has_no_epsilon(tmp_path):
    run(tmp_path, "rounds=1")
    assert "epsilon_client" not in Checkpoints(tmp_path, 2).rows()["metric"]
