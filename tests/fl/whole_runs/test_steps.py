"""Steps that protocols record, as rows of real runs: inside the phases, and counted once."""

from pathlib import Path

import polars as pl
import pytest

from fl.metering import Meter
from fl.participant import Request, answer
from privacy.secure_sums.plain import PlainSum
from privacy.spans import note, span
from results.breakdown import ALL, by_phase, by_step
from results.summary import summarise
from tests.composed import MASKED, PROBE, rows_in, run_with_set_up, workspace_of

PARAMETERS = 650
PACKED = 4096 * 54 // 8  # one polynomial of `lean`, a prime of 54 bits
HEAD = 8
SEED = 64

CLIENT = {
    "plain": set(),
    "masked": set(),
    "pad": {"encode", "mask", "serialise"},
    "bfv": {"encode", "mask", "encrypt", "serialise", "check"},
    "ckks": {"encode", "mask", "encrypt", "serialise", "check"},
}
ADDING = {"collect/add", "protocol/serialise"}
SERVER = {"plain": {"collect/add"}, "masked": set(), "pad": ADDING, "bfv": ADDING, "ckks": ADDING}
OPENER = {name: {"unmask", "open", "decode"} | (found & {"check"}) for name, found in CLIENT.items()}

Case = tuple[str, str | None]
CASES: list[Case] = [("plain", None), ("masked", None)]
CASES += [(name, "clients") for name in ("pad", "bfv", "ckks")] + [("ckks", "keyholder")]
SLOW: list[Case] = [("pad", "keyholder"), ("bfv", "keyholder")]  # a keyholder takes seconds to start


def rows_of(folder: Path, *overrides: str) -> pl.DataFrame:
    """The rows of a whole run, set-up included."""
    run_with_set_up(folder, *overrides)
    return rows_in(folder / "checkpoints")


def overrides_of(case: Case) -> tuple[str, ...]:
    name, keys = case
    if keys is None:
        return MASKED if name == "masked" else (f"secure_sum={name}",)
    return f"secure_sum={name}", f"secure_sum.keys={keys}", "secure_sum.bound=4"


@pytest.fixture(
    scope="module",
    params=[*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)],
    ids=lambda case: "-".join(filter(None, case)),
)
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, pl.DataFrame]:
    return request.param, rows_of(tmp_path_factory.mktemp("run"), *PROBE, *overrides_of(request.param))


def steps(rows: pl.DataFrame, where: str) -> set[str]:
    return set(rows.filter((pl.col("where") == where) & (pl.col("metric") == "part"))["stage"])


def test_each_role_tells_its_steps(ran):
    (name, keys), rows = ran
    signing = {"sign"} if keys else set()  # only with a roster are replies signed
    protecting, opening = ({f"protect/{step}" for step in found | signing} for found in (CLIENT[name], OPENER[name]))
    replies = set(rows.filter(metric="up_bytes")["stage"]) if keys else set()
    assert steps(rows, "server") == SERVER[name] | {f"{stage}/verify" for stage in replies}
    for client in ("client/1", "client/2", "client/3"):
        assert steps(rows, client) == protecting
    assert steps(rows, "client/0") == (protecting | opening if keys == "clients" else protecting), "it is who opens"
    assert steps(rows, "keyholder") == (opening if keys == "keyholder" else set())


def test_parts_of_a_phase_are_less_than_the_phase(ran):
    (name, _), rows = ran
    parts = rows.filter(pl.col("metric") == "part").with_columns(pl.col("stage").str.split("/").list.first())
    summed = parts.group_by("round", "where", "stage").agg(pl.col("value").sum().alias("parts"), pl.col("value").min())
    wholes = rows.filter(pl.col("metric").is_in(["wall", "compute"])).select(
        "round", "where", "stage", pl.col("value").alias("whole")
    )
    both = summed.join(wholes, on=["round", "where", "stage"], how="left")
    # four clients with a keyholder or an election; the server's protocol, and the stages collect and open
    assert len(both.filter(pl.col("round") > 0)) == 2 * {"plain": 1, "masked": 0}.get(name, 4 + 1 + 3)
    assert (both["value"] >= 0).all()
    assert (both["parts"] <= both["whole"] + 1e-9).all()
    assert set(rows.filter(pl.col("metric") == "part")["unit"]) <= {"s"}


def test_nothing_that_adds_up_times_sees_them(ran):
    _, rows = ran
    without = rows.filter(~pl.col("metric").is_in(["part", "ciphertexts", "ciphertext_bytes"]))
    final = {"rounds": 2}
    assert summarise(rows, parameters=PARAMETERS, final=final) == summarise(without, parameters=PARAMETERS, final=final)
    assert by_phase(rows).equals(by_phase(without))


def test_the_lines_of_a_breakdown_are_these_steps_and_add_up_to_their_phase(ran):
    (name, keys), rows = ran
    lines = by_step(rows)
    protect = lines.filter(party="clients", phase="protect")["step"].to_list()
    opening = OPENER[name] if keys == "clients" else set()
    signing = {"sign"} if keys else set()
    assert set(protect) == {ALL, "other"} | CLIENT[name] | signing | opening
    summed = lines.filter(pl.col("step") != ALL).group_by("party", "phase").agg(pl.col("phase_s").sum().alias("steps"))
    both = lines.filter(step=ALL).join(summed, on=["party", "phase"])
    assert len(both) == len(lines.filter(step="other")) > 2
    assert both["steps"].to_list() == pytest.approx(both["phase_s"].to_list(), rel=1e-9)
    assert (lines["phase_s"].drop_nulls() >= -1e-9).all()


def test_ciphertexts_of_an_upload_are_counted_as_they_are(ran):
    (name, keys), rows = ran
    found = rows.filter(pl.col("metric").is_in(["ciphertexts", "ciphertext_bytes"])).sort("round", "where")
    if name not in ("bfv", "ckks"):
        assert found.is_empty()
        return
    assert set(found["where"]) == {f"client/{i}" for i in range(4)}
    assert set(found["stage"]) == {"protect"}
    counts, sizes = (found.filter(pl.col("metric") == metric) for metric in ("ciphertexts", "ciphertext_bytes"))
    assert counts["value"].to_list() == [1.0] * 8
    bytes_each = HEAD + (2 * PACKED if keys == "keyholder" else PACKED + SEED)
    assert sizes["value"].to_list() == [bytes_each] * 8
    assert set(sizes["unit"]) == {"bytes"}
    sent = rows.filter((pl.col("metric") == "up_bytes") & (pl.col("stage") == "collect")).sort("round", "where")
    assert all(0 < extra < 200 for extra in sent["value"] - sizes["value"]), (
        "names, tag and salt are all that is beside"
    )


def test_clients_tell_nothing_else(ran):
    _, rows = ran
    told = rows.filter((pl.col("where") != "server") & (pl.col("where") != "transport") & (pl.col("round") > 0))
    known = {"wall", "cpu", "peak_rss", "part", "ciphertexts", "ciphertext_bytes", "up_bytes", "down_bytes"}
    assert set(told["metric"]) <= known | {"envelope_bytes"}


def test_clients_that_report_nothing_report_no_steps(tmp_path):
    overrides = (*PROBE, *overrides_of(("bfv", "clients")))
    told = rows_of(tmp_path / "told", *overrides, "runtime.client_metrics=true")
    assert set(told.filter(pl.col("metric") == "part")["where"]) > {"server", "client/0"}
    assert not told.filter(pl.col("metric") == "ciphertexts").is_empty()
    rows = rows_of(tmp_path / "quiet", *overrides, "runtime.client_metrics=false")
    assert set(rows.filter(pl.col("metric") == "part")["where"]) == {"server"}
    assert rows.filter(pl.col("metric") == "ciphertexts").is_empty()


class Within(PlainSum):
    """A secure sum that asks for the contribution inside a step."""

    def respond(self, stage, inbound, me, contribution):
        note("ciphertexts", 3)
        note("secrets", 4)
        with span("encode"):
            return super().respond(stage, inbound, me, contribution)


def test_training_is_no_step_even_inside_one():
    work = workspace_of("secure_sum._target_=tests.fl.whole_runs.test_steps.Within", "model=mlp")
    _, metrics = answer(work, Request("client/0", "collect", 1, "a", {}, work.initial_D.numpy().copy()), {})
    parts = {name for name in metrics if name.endswith(".part")}
    assert parts == {"protect/encode.part"}
    assert metrics["protect/encode.part"] <= metrics["protect.wall"]
    meter = Meter()
    meter.phases("client/0", metrics)
    told = {(row.stage, row.metric): row.value for row in meter.take()}
    assert told["protect", "ciphertexts"] == 3
    assert ("protect", "secrets") not in told, "no row without a unit"


def test_the_servers_steps_are_told_also_of_what_it_refuses():
    meter = Meter()

    def refuse():
        with meter.compute("collect"), span("add"):
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        refuse()
    assert {(row.where, row.stage, row.metric) for row in meter.take()} == {
        ("server", "collect", "compute"),
        ("server", "collect/add", "part"),
    }
