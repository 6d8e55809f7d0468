"""The summary of a run (`summary.json`), computed from its rows."""

from collections.abc import Mapping

import polars as pl

from privacy.addresses import CLIENTS
from results.measurements import COMPILE, EVALUATE, WITNESS

# Values that no row holds; null where the run does not give them.
FINAL = ("rounds", "epsilon", "weights_sha256", "backend", "assumption")

IS_CLIENT = pl.col("where").str.starts_with(CLIENTS)


def summarise(frame: pl.DataFrame, *, parameters: int, final: Mapping[str, object]) -> dict[str, object]:
    """The summary of a run; figures that were never measured are None, never 0.

    Set-up (round 0) counts only in peak memory. Keys hold the units (`_s`, `_bytes`); other figures have none.

    - `accuracy`, `loss`, `macro_f1`: of the last evaluation, which is that of round `evaluated_round`;
    - `client_accuracy`, `client_accuracy_deviation`, `client_accuracy_lowest`: mean, standard deviation and minimum
      over clients, of the last model that each scored on its own examples (`runtime.client_evaluation`);
    - `round_s`: median over rounds; `first_round_s`: round 1; both without the waiting for clients' witnesses, and with
      that for their evaluation;
    - `witness_s`: this waiting (exact where clients run in turn, elsewhere a lower bound), mean over rounds;
    - `train_s`: training time of a round's clients, summed; median over rounds, since a process's first one is slow;
    - `client_s`: training and protecting time of a round's clients, summed; likewise the median;
    - `upload_bytes_per_parameter`: serialised protocol bytes that a client sent in a round, over all stages; mean over
      the clients and rounds that sent anything, divided by the model's parameters. Download likewise.
      `envelope_bytes` are the further bytes of routing and configuration, by client and round;
    - `parties_bytes`: bytes between parties, and their dealer, without the server in a round, each byte counted once;
      mean over rounds. `parties_rounds`: how often they wait for one another in a round, the maximum over parties;
    - `dropped`, `rejected`: the number of contributions that went missing or were refused, over all rounds;
    - `faults`: the number of injected faults, over all rounds (`faults` in the configuration);
    - `sum_error`: the largest absolute error of a sum, over its values and all rounds (`runtime.measure_sum_error`);
    - `cut_share`: the largest share of a round's values that clients cut to `secure_sum.bound`;
    - `peak_rss_bytes`, `peak_cuda_bytes`: the largest of any address and phase but the witness and evaluation.

    Args:
        frame: the rows of one run, with `results.rows.SCHEMA`.
        parameters: the number of the model's parameters.
        final: values that rows do not hold: the keys of `FINAL`, and any others.
    """
    assert parameters > 0
    rounds = frame.filter(pl.col("round") >= 1)
    measured: dict[str, object] = {
        **_evaluation(rounds),
        **_at_clients(rounds),
        **_times(rounds),
        **_traffic(rounds, parameters),
        **_between_parties(rounds),
        "dropped": _count(rounds, "^dropped$"),
        "rejected": _count(rounds, "^rejected$"),
        "faults": _count(rounds, "^fault_"),
        "sum_error": _server(rounds, "protocol", "sum_error")["value"].max(),
        "cut_share": _server(rounds, "protocol", "cut_share")["value"].max(),
        "peak_rss_bytes": _largest(frame, "peak_rss"),
        "peak_cuda_bytes": _largest(frame, "peak_cuda"),
        "parameters": parameters,
    }
    assert not measured.keys() & final.keys(), "a measured figure is never overruled"
    return {**measured, **dict.fromkeys(FINAL), **final}


def _evaluation(rounds: pl.DataFrame) -> dict[str, object]:
    metrics = ("accuracy", "loss", "macro_f1")
    values = {metric: _server(rounds, "evaluate", metric) for metric in metrics}
    last = {metric: frame["value"].last() if len(frame) else None for metric, frame in values.items()}
    return {**last, "evaluated_round": values["accuracy"]["round"].max()}


def _at_clients(rounds: pl.DataFrame) -> dict[str, object]:
    told = rounds.filter(IS_CLIENT, pl.col("stage") == EVALUATE, pl.col("metric") == "accuracy").sort("round")
    last = told.unique("where", keep="last", maintain_order=True)["value"]
    return {
        "client_accuracy": last.mean(),
        "client_accuracy_deviation": last.std(),
        "client_accuracy_lowest": last.min(),
    }


def _times(rounds: pl.DataFrame) -> dict[str, object]:
    witness = _server(rounds, "round", WITNESS).select("round", spent="value")
    walls = _server(rounds, "round", "wall").join(witness, on="round", how="left", maintain_order="left")
    walls = walls.with_columns(pl.col("value") - pl.col("spent").fill_null(0.0))
    first = walls.filter(pl.col("round") == 1)["value"]
    worked = rounds.filter(IS_CLIENT, ~pl.col("stage").is_in([WITNESS, EVALUATE, COMPILE]), pl.col("metric") == "wall")
    return {
        "round_s": walls["value"].median(),
        "first_round_s": first[0] if len(first) else None,
        "witness_s": walls["spent"].mean(),
        "train_s": _usual(worked.filter(pl.col("stage") == "train")),
        "client_s": _usual(worked),
    }


def _usual(times: pl.DataFrame) -> object:
    """The median over rounds of the total of each round."""
    return times.group_by("round", maintain_order=True).agg(pl.col("value").sum())["value"].median()


def _traffic(rounds: pl.DataFrame, parameters: int) -> dict[str, object]:
    up = _bytes(rounds, "up_bytes")
    down = _bytes(rounds, "down_bytes")
    return {
        "upload_bytes_per_parameter": None if up is None else up / parameters,
        "download_bytes_per_parameter": None if down is None else down / parameters,
        "envelope_bytes": _bytes(rounds, "envelope_bytes"),
    }


def _between_parties(rounds: pl.DataFrame) -> dict[str, object]:
    told = rounds.filter(pl.col("metric") == "comm_bytes").group_by("round").agg(pl.col("value").sum())["value"].mean()
    assert told is None or isinstance(told, float)
    waits = rounds.filter(pl.col("stage") == "peers", pl.col("metric") == "comm_rounds")
    most = waits.group_by("round").agg(pl.col("value").max())["value"].mean()
    # both ends report each byte
    return {"parties_bytes": None if told is None else told / 2, "parties_rounds": most}


def _bytes(rounds: pl.DataFrame, metric: str) -> float | None:
    """The mean over (client, round) of the sum over stages."""
    sent = rounds.filter(IS_CLIENT, pl.col("metric") == metric)
    mean = sent.group_by("where", "round", maintain_order=True).agg(pl.col("value").sum())["value"].mean()
    assert mean is None or isinstance(mean, float)
    return mean


def _server(rounds: pl.DataFrame, stage: str, metric: str) -> pl.DataFrame:
    wanted = (pl.col("where") == "server") & (pl.col("stage") == stage) & (pl.col("metric") == metric)
    return rounds.filter(wanted).sort("round")


def _count(rounds: pl.DataFrame, metric: str) -> int | None:
    """The number of lost contributions, which have rows of their own; 0 for a run with clients and without losses."""
    if rounds.filter(IS_CLIENT).is_empty():
        return None
    return int(rounds.filter(IS_CLIENT, pl.col("metric").str.contains(metric))["value"].sum())


def _largest(frame: pl.DataFrame, metric: str) -> int | None:
    values = frame.filter(pl.col("metric") == metric, ~pl.col("stage").is_in([WITNESS, EVALUATE, COMPILE]))["value"]
    return int(values.max()) if len(values) else None  # type: ignore[arg-type]
