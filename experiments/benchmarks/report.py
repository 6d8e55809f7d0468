"""`fedveil report` over many configurations: the page's size, how long it takes to write, and to open in Chromium.

The runs are copies of two real ones, see `experiments.benchmarks.tables`. Opening is timed by the browser itself, from
navigation on: the page has loaded at the end of its load event, and is drawn when it sets a mark after its plots.
The processor time is that of the page's own thread until then; other work on the machine does not change it.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.benchmarks import BenchFigure
from experiments.benchmarks.tables import fill
from privacy.errors import ConfigError

TIMES = """() => [
    performance.getEntriesByType("navigation")[0].loadEventEnd,
    performance.getEntriesByName("drawn")[0]?.startTime ?? 0,
]"""
PATIENCE_S = 60.0
MIB = 2**20


def options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument(
        "--configurations", type=int, default=500, help="number of configurations (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each configuration (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="how often the page is opened (default: %(default)s)")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser (default: %(default)s)")


def measure(arguments: argparse.Namespace) -> list[BenchFigure]:
    """All figures of this benchmark.

    Raises:
        ConfigError: there is no browser.
    """
    if arguments.chromium is None:
        raise ConfigError.of("--chromium", None, "name a Chromium; none is on the PATH")
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        page = Path(folder) / "report.html"
        fill(runs, arguments.configurations * arguments.seeds, arguments.seeds)
        start_s = time.perf_counter()
        subprocess.run([sys.executable, "-m", "experiments.cli", "report", str(runs), "--out", str(page)], check=True)
        wrote_s = time.perf_counter() - start_s
        opened = open_page(page, arguments.chromium, arguments.repeats)
        size_bytes = page.stat().st_size
    name = f"{arguments.configurations} configurations of {arguments.seeds} seeds"
    load_s, drawn_s, processor_s = (statistics.median(times) for times in zip(*opened, strict=True))
    return [
        BenchFigure(f"{name}, page", size_bytes / MIB, "MiB"),
        BenchFigure(f"{name}, written in", wrote_s, "s"),
        BenchFigure(f"{name}, loaded in", load_s, "s", "<= 2"),
        BenchFigure(f"{name}, drawn in", drawn_s, "s", "<= 2"),
        BenchFigure(f"{name}, drawn in, processor", processor_s, "s"),
    ]


def open_page(page: Path, chromium: str, repeats: int) -> list[tuple[float, float, float]]:
    """Seconds until loaded, seconds until drawn, and processor seconds, for each opening in a fresh browser profile."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError as error:  # only developers have it
        raise ConfigError("bench report: needs playwright, which `pip install fedveil[dev]` brings") from error

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        found = [_open_once(browser, page) for _ in range(repeats)]
        browser.close()
    return found


def _open_once(browser: Any, page: Path) -> tuple[float, float, float]:
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    tab = context.new_page()
    end_s = time.monotonic() + PATIENCE_S
    debugger = context.new_cdp_session(tab)
    debugger.send("Performance.enable", {"timeDomain": "threadTicks"})
    tab.goto(page.as_uri())
    load_ms = drawn_ms = 0.0
    while not (load_ms and drawn_ms) and time.monotonic() < end_s:
        tab.wait_for_timeout(50)
        load_ms, drawn_ms = tab.evaluate(TIMES)
    assert load_ms, "the page did not load"
    assert drawn_ms, "its plots were not drawn"
    measured = {metric["name"]: metric["value"] for metric in debugger.send("Performance.getMetrics")["metrics"]}
    context.close()
    return load_ms / 1e3, drawn_ms / 1e3, measured["ThreadTime"]
