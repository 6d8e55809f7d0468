"""`tracking=`: export of an ended run to MLflow or TensorBoard, from the files that it wrote.

A run that a tracker already has is not exported again.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
from omegaconf import DictConfig

from fl.config.schema import MLFLOW, TENSORBOARD
from privacy.errors import RuntimeFailure
from results import files
from results.store import TRACKED, RunDirectory

SET_UP = 0  # the round number of the set-up, which is left out


def track(config: DictConfig, run: RunDirectory) -> None:
    """Export an ended run to the tracker that the configuration names; the caller holds the lock of its folder.

    Raises:
        RuntimeFailure: the tracker refuses or cannot be reached; the results of the run are unchanged.
    """
    told = files.read_json(run.path / TRACKED) or {}
    name = config.tracking.name
    place = config.tracking.uri or config.tracking.folder
    if name not in TRACKERS or told.get(name, "") == (place or "default"):
        return
    try:
        TRACKERS[name](place, config.experiment, run)
    except Exception as error:  # for instance an unreachable server: the results stay
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RuntimeFailure(f"tracking={name}: {first}; the results are in {run.path}, try again later") from error
    files.write_json(run.path / TRACKED, told | {name: place or "default"})


def _to_mlflow(uri: str | None, experiment: str, run: RunDirectory) -> None:
    """A run of MLflow: the configuration as parameters, measurements by round, the summary, and its files."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow
    from mlflow.entities import Metric

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    if uri is not None:
        mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment)
    summary = run.summary() or {}
    with mlflow.start_run(run_name=run.path.name, tags={"fedveil.backend": str(summary.get("backend"))}) as started:
        mlflow.log_params(dict(_flat(run.configuration() or {})))
        metrics = [Metric(key, value, 0, step) for step, key, value in _series(run.rows())]
        for start in range(0, len(metrics), 1000):  # the limit of one request
            mlflow.MlflowClient().log_batch(started.info.run_id, metrics=metrics[start : start + 1000])
        mlflow.log_metrics(_figures(summary))
        mlflow.log_dict(summary, "summary.json")


def _to_tensorboard(folder: str | None, _: str, run: RunDirectory) -> None:
    """Scalars by round under the name of the measured role, the configuration and the summary."""
    from torch.utils.tensorboard import SummaryWriter

    place = run.path / "tensorboard" if folder is None else Path(folder) / run.path.name
    with SummaryWriter(str(place)) as writer:
        writer.add_text("configuration", f"```json\n{json.dumps(run.configuration(), indent=1)}\n```")
        for step, key, value in _series(run.rows()):
            writer.add_scalar(key, value, step)
        for key, value in _figures(run.summary() or {}).items():
            writer.add_scalar(f"summary/{key}", value)


TRACKERS: dict[str, Callable[[str | None, str, RunDirectory], None]] = {
    MLFLOW: _to_mlflow,
    TENSORBOARD: _to_tensorboard,
}


def _series(rows: pl.DataFrame) -> Iterator[tuple[int, str, float]]:
    """Round, `who/stage/metric`, and the value: the mean over all clients, or over all parties."""
    who = pl.col("where").str.split("/").list.first()
    means = (
        rows.filter((pl.col("round") > SET_UP) & pl.col("value").is_finite())
        .group_by("round", who.alias("who"), "stage", "metric")
        .agg(pl.col("value").mean())
        .sort("round", "who", "stage", "metric")
    )
    for step, whose, stage, metric, value in means.iter_rows():
        yield step, f"{whose}/{stage}/{metric}", value


def _figures(summary: Mapping[str, Any]) -> dict[str, float]:
    numbers = {key: value for key, value in summary.items() if isinstance(value, int | float)}
    return {"".join(c if c.isalnum() or c in "_-. /" else "_" for c in key): float(v) for key, v in numbers.items()}


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(inner)
