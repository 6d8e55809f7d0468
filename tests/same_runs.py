"""Weights and bytes of 28 configurations under two seeds, to compare one commit with another.

`python -m tests.same_runs FOLDER` trains them and prints one line a run: the SHA-256 of the final weights, and the
bytes that clients sent and received. `python -m tests.same_runs FOLDER --against OTHER` compares two such folders:
weights bit for bit, or within 1e-4 where CKKS rounds; bytes exactly, or within 0.1 % where ciphertexts are compressed.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import torch

BACKENDS = (
    "plain,ckks,ckks_clients,bfv,bfv_clients,pad,crypten,crypten_median,crypten_norm_bounded,crypten_trimmed_mean,"
    "secagg,secagg_curious,fedml_he,flare,dp_sgd,client_dp,local_dp,dp_ftrl,party_dp,distributed_dp,"
    "distributed_dp_bfv,distributed_dp_pad,distributed_dp_crypten,distributed_dp_secagg,dp_sgd_ckks,dp_sgd_crypten,"
    "dp_sgd_secagg,client_dp_secagg"
)
SETTINGS = ("seed=1,2", "noise=seeded", "rounds=3", "output.twins=false")
WEIGHTS_WITHIN = 1e-4  # CKKS
BYTES_WITHIN = 1e-3  # compressed ciphertexts
HEADER_BYTES = len(b"fedveil checkpoint 1\n") + 65
COUNTED = ("up_bytes", "down_bytes")

Name = tuple[str, int]  # of a configuration, and its seed


def train(folder: Path) -> None:
    """Run all configurations as one sweep."""
    grid = (f"privacy={BACKENDS}", *SETTINGS, f"out={folder}")
    subprocess.run([sys.executable, "-m", "experiments.cli", "sweep", *grid], check=True)


def figures(run: Path) -> tuple[torch.Tensor, dict[str, float]]:
    """The final weights of a run, shape (D,), float32, and its bytes by direction."""
    newest = max((run / "checkpoints").glob("round-*.ckpt"))
    saved = torch.load(io.BytesIO(newest.read_bytes()[HEADER_BYTES:]), weights_only=True)
    rows = pl.read_parquet(run / "rows.parquet").with_columns(pl.col("metric").cast(pl.String))
    moved = rows.filter(pl.col("metric").is_in(COUNTED)).group_by("metric").agg(pl.col("value").sum())
    return saved["state"]["weights_D"], dict(moved.sort("metric").iter_rows())


def runs(folder: Path) -> dict[Name, Path]:
    """The runs of a folder by backend, settings of the secure sum, and seed."""
    found = {}
    for summary in folder.rglob("summary.json"):
        configuration = json.loads((summary.parent / "config.json").read_text())
        found[_label(json.loads(summary.read_text())["backend"], configuration), configuration["seed"]] = summary.parent
    return found


def _label(backend: str, configuration: dict[str, Any]) -> str:
    """The settings that distinguish a configuration from the others, without the names of classes."""
    secure_sum = {key: value for key, value in configuration["secure_sum"].items() if key != "_target_"}
    told = json.dumps([secure_sum, configuration["server"]["min_contributors"]], sort_keys=True)
    return f"{backend} {hashlib.sha256(told.encode()).hexdigest()[:6]}"


def line(name: Name, run: Path) -> str:
    """One run in words."""
    weights_D, moved = figures(run)
    digest = hashlib.sha256(weights_D.numpy().tobytes()).hexdigest()[:16]
    return f"{name[0]:45} seed {name[1]}  {digest}  " + " ".join(f"{key}={value:.0f}" for key, value in moved.items())


def differences(one: Path, other: Path) -> list[str]:
    """Each difference between the runs of two folders, in words."""
    mine = runs(one)
    theirs = runs(other)
    found = [f"only in one folder: {name}" for name in sorted(mine.keys() ^ theirs.keys())]
    for name in sorted(mine.keys() & theirs.keys()):
        found += [f"{name[0]} seed {name[1]}: {what}" for what in _differ(name[0], mine[name], theirs[name])]
    return found


def _differ(backend: str, one: Path, other: Path) -> list[str]:
    one_D, sent = figures(one)
    other_D, sent_there = figures(other)
    rounded = "ckks" in backend
    found = []
    if not (torch.allclose(one_D, other_D, rtol=0, atol=WEIGHTS_WITHIN) if rounded else torch.equal(one_D, other_D)):
        found.append(f"weights are up to {float((one_D - other_D).abs().max()):.2g} apart")
    room = BYTES_WITHIN if rounded or "bfv" in backend else 0.0
    for metric in COUNTED:
        if abs(sent[metric] - sent_there[metric]) > room * sent_there[metric]:
            found.append(f"{metric} {sent[metric]:.0f} for {sent_there[metric]:.0f}")
    return found


def main() -> int:
    """Train, or compare; the exit status is 1 where two folders differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.same_runs", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--against", type=Path)
    given = parser.parse_args()
    if given.against is None:
        train(given.folder)
        print("\n".join(line(name, run) for name, run in sorted(runs(given.folder).items())))
        return 0
    found = differences(given.folder, given.against)
    print("\n".join(found) or f"{len(runs(given.folder))} runs: no difference")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
