import hashlib
import json
from pathlib import Path
from typing import Any

from results.store import open_run

PLAIN = {"_target_": "privacy.PlainSum"}
CKKS = {"_target_": "privacy.CkksSum", "scale": 40}


def configuration(**changes: Any) -> dict[str, Any]:
    base = {
        "clients": 10,
        "rounds": 4,
        "seed": 1,
        "experiment": "default",
        "data": {"name": "digits", "image_column": "image", "alpha": 0.5},
        "model": {"_target_": "fl.models.Mlp"},
        "training": {"lr": 0.1, "optimizer": {"_target_": "torch.optim.SGD", "momentum": 0.0}},
        "mechanism": {},
        "secure_sum": PLAIN,
    }
    return base | changes


def canonical(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def summary(**changes: Any) -> dict[str, Any]:
    base = {
        "accuracy": 0.9,
        "loss": 0.3,
        "round_s": 0.1,
        "train_s": 0.05,
        "upload_bytes_per_parameter": 4.0,
        "download_bytes_per_parameter": 4.0,
        "epsilon": None,
        "backend": "plain",
        "assumption": "the server is trusted",
    }
    return base | changes


def store(
    root: Path, values: dict[str, Any], status: str | None, figures: dict[str, Any] | None = None, **fields: Any
) -> Path:
    """Make the folder of a run as the run would leave it."""
    text = canonical(values)
    path = root / hashlib.sha256(text.encode()).hexdigest()[:16]
    with open_run(path, text, "x: 1\n", force=False) as run:
        if figures is not None:
            run.write_summary(figures)
        if status is not None:
            run.write_status(status, **fields)
    return path
