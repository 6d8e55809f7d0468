"""What several labs do: run a sweep of the project, and show a picture."""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from privacy.errors import RuntimeFailure
from results.comparison import compare
from results.runs import collect, find_runs
from results.store import ROWS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# beside the notebook; a folder `results` there could be taken for our package, which an editable install finds last
FOLDER = Path("lab_runs")
PROGRAM = (sys.executable, "-P", "-m", "experiments.cli")


def sweep(name: str, *overrides: str) -> Path:
    """Run a sweep into a folder of its own, and return the folder. Finished runs are not run again.

    It runs in a process of its own: parties are processes, and would run the lab's script again if it started them.

    Raises:
        RuntimeFailure: a run failed; the message is the last line that it printed.
    """
    folder = FOLDER / name
    command = (*PROGRAM, "sweep", *overrides, f"out={folder}", "output.progress=false")
    print("fedveil sweep", *overrides, flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = (done.stdout if done.returncode == 0 else done.stderr or done.stdout).strip().splitlines()
    if done.returncode != 0:
        raise RuntimeFailure(said[-1] if said else "the sweep failed and said nothing")
    print(said[-1], flush=True)
    return folder


def swept(name: str, *overrides: str) -> pl.DataFrame:
    """The runs of a sweep, a row for each configuration, and the plain runs that they are compared with."""
    return compare(collect(find_runs([sweep(name, *overrides)])))


def setting(key: str) -> pl.Expr:
    """A value of a run's configuration, such as `data.alpha`, as text."""
    return pl.col("configuration").cast(pl.String).str.json_path_match(f"$.{key}").alias(key)


def rows_of(folder: Path) -> pl.DataFrame:
    """The rows that the runs of a folder have measured, with their configurations and backends."""
    runs = collect(find_runs([folder]))
    frames = [
        pl.read_parquet(Path(path, ROWS)).with_columns(
            configuration=pl.lit(str(configuration)), backend=pl.lit(backend)
        )
        for path, configuration, backend in runs.select("path", "configuration", "backend").iter_rows()
    ]
    return pl.concat(frames)


def show(figure: "Figure", file: str) -> None:
    """Write a picture beside the notebook; the notebook shows it by itself."""
    figure.savefig(file, dpi=110, bbox_inches="tight")
    print(f"picture: {file}")
