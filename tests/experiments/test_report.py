"""The report of real runs in a real browser, against `fedveil table`, `fedveil hash` and the runs' files."""

import csv
import io
import json
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from experiments import cli
from results.index import collect_under
from results.table import phases
from tests.experiments.command import QUICK, Here, process_state, read, refused

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")

HOSTILE = '</script><img src=x onerror="window.pwned=1"><!--<script>$x \'" %{x} &lt;'
QUOTED = HOSTILE.replace("'", "\\'")
SWEEP = ("sweep", *QUICK, "out=runs", "output.progress=false", "training.weighting=uniform")
DRAWN = "performance.getEntriesByName('drawn').length"  # the number of times that the plots were drawn
ROWS = "#table tbody tr[data-row]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six runs of three configurations, one with a hostile name, and two failed runs."""
    place = tmp_path_factory.mktemp("report")
    with chdir(place), process_state():
        assert cli.main([*SWEEP, "privacy=plain,dp_sgd,secagg", "seed=1,2"]) == 0
        assert cli.main([*SWEEP, f"data.image_column='{QUOTED}'"]) == 0
        assert cli.main([*SWEEP, "training.lr=-1"]) == 2
        assert cli.main(["report", "runs"]) == 0
    return place


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@dataclass
class Opened:
    """A page, with its console messages and requests."""

    page: Page
    said: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def rows(self) -> Locator:
        """The rows that pass the filter."""
        return self.page.locator(f"{ROWS}:visible")

    def cells(self) -> list[list[str]]:
        """The texts of the rows' cells."""
        return [row.locator(":scope > *").all_text_contents() for row in self.rows().all()]

    def column(self, heading: str) -> list[str]:
        """The texts of the column below a heading."""
        place = self.page.locator("#table thead th").all_text_contents().index(heading)
        return [cells[place] for cells in self.cells()]

    def sort(self, heading: str) -> str | None:
        """Click on a heading; returns the order that it announces."""
        place = self.page.locator("#table thead th").all_text_contents().index(heading)
        self.page.locator("#table thead button").nth(place).click()
        return self.page.locator("#table thead th").nth(place).get_attribute("aria-sort")

    def filter(self, words: str) -> None:
        """Type into the filter, and wait until the plots are redrawn."""
        before = self.page.evaluate(DRAWN)
        self.page.fill("#filter", words)
        self.wait_for(f"{DRAWN} > {before}")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true. Playwright's own method needs `eval`, which the page's policy forbids."""
        end_s = time.monotonic() + 30
        while not self.page.evaluate(expression):
            assert time.monotonic() < end_s, expression
            self.page.wait_for_timeout(20)

    def traces(self, plot: str) -> Any:
        """The traces of a plot."""
        return self.page.evaluate(f"document.getElementById('{plot}').data ?? []")


def opened(browser: Browser, file: Path, **options: Any) -> Opened:
    found = Opened(browser.new_context(viewport={"width": 1400, "height": 900}, **options).new_page())
    found.page.on("console", lambda message: found.said.append(message.text))
    found.page.on("pageerror", lambda error: found.said.append(str(error)))
    found.page.on("request", lambda request: found.requests.append(request.url))
    found.page.goto(file.as_uri())
    found.wait_for(f"{DRAWN} > 0")
    return found


@pytest.fixture
def report(browser: Browser, folder: Path) -> Iterator[Opened]:
    """The freshly opened report; after each test, the page must have logged nothing, and requested only itself."""
    found = opened(browser, folder / "report.html")
    yield found
    assert found.said == []
    assert found.requests == [(folder / "report.html").as_uri()]
    assert found.page.evaluate("window.pwned") is None
    found.page.context.close()


def tabled(here: Here, folder: Path) -> list[dict[str, str]]:
    """The raw figures of `fedveil table`."""
    lines = csv.DictReader(io.StringIO(here("table", str(folder / "runs"), "--format", "csv").out))
    return [line for line in lines if line["status"] == "finished"]


def test_the_figures_are_those_of_the_table(report: Opened, folder: Path, here: Here) -> None:
    markdown = here("table", str(folder / "runs"), "--format", "markdown").out
    table = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in markdown.splitlines() if line[:1] == "|"
    ]
    assert len(table) == 2 + 4
    assert report.page.locator("#table thead th").all_text_contents() == table[0]
    assert report.cells() == table[2:]
    notes = " ".join(report.page.locator("#notes li").all_text_contents())
    assert notes in markdown


def test_sorting_is_by_number_and_what_was_not_measured_comes_last(report: Opened, folder: Path, here: Here) -> None:
    raw = {row["configuration"]: row for row in tabled(here, folder)}
    for heading, key in (
        ("round (s)", "round_s"),
        ("upload (B/param)", "upload_bytes_per_parameter"),
        ("ε", "epsilon"),
    ):
        measured = sorted(float(row[key]) for row in raw.values() if row[key])
        for wanted, order in (("ascending", measured), ("descending", measured[::-1])):
            assert report.sort(heading) == wanted
            shown = [raw[label][key] for label in report.column("configuration")]
            assert [float(value) for value in shown[: len(order)]] == order
            assert set(shown[len(order) :]) <= {""}
    assert report.page.locator("[aria-sort]").count() == 1


def test_numbers_are_not_sorted_as_texts(report: Opened) -> None:
    values = report.page.evaluate(
        """() => [...document.querySelectorAll("#table tbody tr")].map((line, place) => {
            line.cells[1].dataset.value = [9, 100, 20, -1][place];
        })"""
    )
    assert len(values) == 4
    report.sort("seeds")
    sorted_ = report.page.evaluate(
        f'[...document.querySelectorAll("{ROWS}")].map((line) => line.cells[1].dataset.value)'
    )
    assert sorted_ == ["-1", "9", "20", "100"]


def test_the_filter_leaves_the_rows_that_hold_every_word(report: Opened) -> None:
    assert len(report.traces("pareto")) == 1 + 3, "the front and three backends"
    report.filter("SECAGG sum")
    assert [label.split(" ")[0] for label in report.column("configuration")] == ["SecAgg+"], "by its keys"
    assert report.page.locator("#count").text_content() == "1 of 4 configurations"
    assert [trace["name"] for trace in report.traces("pareto")] == ["Pareto front", "SecAgg+"]
    assert report.traces("epsilon") == []
    assert report.page.locator("#epsilon .empty").is_visible()
    report.filter("no such words")
    assert report.rows().count() == 0
    report.filter("")
    assert report.rows().count() == 4
    assert len(report.traces("epsilon")) == 1
    assert report.page.locator("#epsilon .empty").count() == 0


def test_the_plots_show_the_figures(report: Opened, folder: Path, here: Here) -> None:
    raw = tabled(here, folder)
    report.page.select_option("#overhead", "upload_ratio")
    report.wait_for("document.getElementById('pareto').layout.xaxis.title.text === 'upload / plain'")
    drawn = {(x, y) for trace in report.traces("pareto")[1:] for x, y in zip(trace["x"], trace["y"], strict=True)}
    told = {(float(row["upload_ratio"]), 100 * float(row["accuracy"])) for row in raw if row["upload_ratio"]}
    assert sorted(drawn) == [pytest.approx(point, rel=1e-5) for point in sorted(told)]
    best = report.traces("pareto")[0]
    front = [p for p in told if not any((q[0] <= p[0] and q[1] >= p[1]) and q != p for q in told)]
    assert list(zip(best["x"], best["y"], strict=True)) == [pytest.approx(point, rel=1e-5) for point in sorted(front)]
    [epsilon] = report.traces("epsilon")
    assert epsilon["x"] == [pytest.approx(float(row["epsilon"]), rel=1e-5) for row in raw if row["epsilon"]]


def test_no_button_sends_figures_away(report: Opened) -> None:
    names = report.page.locator(".modebar-btn").evaluate_all("buttons => buttons.map(button => button.dataset.title)")
    views = {"Zoom", "Zoom in", "Zoom out", "Pan", "Autoscale", "Reset axes", "Box Select", "Lasso Select"}
    assert set(names) == views | {"Download plot as a PNG"}, "plotly.js would offer to share the chart in its cloud"


def test_the_bars_add_up_to_the_breakdown(report: Opened, folder: Path) -> None:
    rows = phases(collect_under([folder / "runs"])).rows
    whole: dict[str, float] = {}
    for row in rows:  # phases of the clients, and totals of the other parties
        if (row["party"] == "clients") != (row["phase"] == "all") and row["phase_s"] is not None:
            whole[row["configuration"]] = whole.get(row["configuration"], 0.0) + 1e3 * row["phase_s"]
    drawn = [sum(widths) for widths in zip(*(trace["x"] for trace in report.traces("phases")), strict=True)]
    assert drawn == [pytest.approx(whole[label], rel=1e-4) for label in report.column("configuration")]


def test_a_row_opens_its_threat_card_provenance_and_commands(report: Opened, folder: Path, here: Here) -> None:
    opener = report.page.locator(f"{ROWS} button").filter(has_text="secagg")
    opener.click()
    assert opener.get_attribute("aria-expanded") == "true"
    details = report.page.locator("tr.details")
    runs = [run for run in (folder / "runs").glob("*/") if "SecAggSum" in (run / "config.json").read_text()]
    assert len(runs) == 2
    for run in runs:
        summary = read(run, "summary")
        assert details.locator("ul.card li").all_text_contents() == summary["threat_card"]
        for text in (f"runs/{run.name}", summary["weights_sha256"], summary["data_origin"], summary["device"]):
            assert details.get_by_text(text, exact=True).first.is_visible()
    details.locator("summary").click()
    assert f'"python": "{read(runs[0], "environment")["python"]}"' in (
        details.locator("details pre").text_content() or ""
    )
    commands = (details.locator("pre.command").text_content() or "").splitlines()
    assert details.locator("pre.command").is_visible()
    hashes = [here("hash", *shlex.split(command)[2:]).out.strip() for command in commands]
    assert [text[:16] for text in sorted(hashes)] == sorted(run.name for run in runs)
    assert all(details.get_by_text(text, exact=True).is_visible() for text in hashes)
    opener.click()
    assert details.count() == 0


def test_open_rows_are_sorted_and_filtered_with_theirs(report: Opened) -> None:
    report.page.locator(f"{ROWS} button").filter(has_text="SecAgg+").click()
    report.sort("configuration")
    report.sort("configuration")
    above = report.page.locator("tr.details").evaluate("(line) => line.previousElementSibling.textContent")
    assert "SecAgg+" in above
    report.filter("dp_sgd")
    assert report.page.locator("tr.details").is_hidden()


def test_what_failed_is_told_with_its_error(report: Opened, folder: Path) -> None:
    text = report.page.locator("#unfinished").text_content() or ""
    assert "training.lr=-1.0: must be a finite number above 0" in text
    assert "training.lr=-1.0 training.weighting=uniform seed=1" in text
    assert "failed" in text


def test_nothing_in_a_configuration_is_taken_for_the_page(report: Opened) -> None:
    label = report.page.locator(f"{ROWS} button").filter(has_text="onerror")
    assert json.dumps(HOSTILE) in (label.text_content() or "")
    label.click()
    command = report.page.locator("tr.details pre.command").text_content() or ""
    assert "</script><img" in command
    assert report.page.locator("img[src=x]").count() == 0
    report.page.locator("#pareto .points path").first.hover(force=True)


def test_a_dark_screen_and_paper_have_colours_of_their_own(browser: Browser, folder: Path) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = opened(browser, folder / "report.html", color_scheme="dark")
    assert dark.page.evaluate(paper) == "rgb(25, 25, 23)"
    assert dark.page.evaluate("document.getElementById('phases').layout.paper_bgcolor") == "#191917"
    dark.page.emulate_media(media="print")
    assert dark.page.evaluate(paper) == "rgb(255, 255, 255)"
    assert dark.page.locator("#filter").is_hidden()
    assert dark.page.pdf().startswith(b"%PDF")
    assert dark.said == []
    dark.page.context.close()


def test_columns_and_networks_are_those_of_the_table(browser: Browser, folder: Path, here: Here) -> None:
    chosen = ("--columns", "round_s,modelled_round_s_wan_1g", "--network", "wan_1g")
    assert here("report", str(folder / "runs"), "--out", "other.html", *chosen).status == 0
    other = opened(browser, Path("other.html").resolve())
    markdown = here("table", str(folder / "runs"), "--format", "markdown", *chosen).out
    head = [cell.strip() for cell in markdown.splitlines()[0].strip("|").split(" | ")]
    assert other.page.locator("#table thead th").all_text_contents() == head
    other.page.context.close()


def test_what_is_wrong_is_said_in_a_line(here: Here, folder: Path) -> None:
    runs = str(folder / "runs")
    assert "no run was found" in refused(here("report", "nowhere"))
    assert refused(here("report", runs, "--out", "page.pdf")) == "--out=page.pdf: must end in .html"
    assert "cannot be written (No such file or directory)" in refused(here("report", runs, "--out", "no/page.html"))
    assert "no such column" in refused(here("report", runs, "--columns", "nope"))


def test_epsilon_and_trust_are_in_view_on_a_small_laptop(browser: Browser, folder: Path) -> None:
    found = Opened(browser.new_context(viewport={"width": 1366, "height": 768}).new_page())
    found.page.goto((folder / "report.html").as_uri())
    assert "ε" in found.page.locator("#table thead th").all_text_contents()
    boxes = [box.bounding_box() for box in found.page.locator("#table thead th").all()]
    assert all(box is not None and box["x"] + box["width"] <= 1366 for box in boxes)
    found.page.context.close()


def test_a_row_is_a_card_on_a_phone(browser: Browser, folder: Path) -> None:
    found = Opened(browser.new_context(viewport={"width": 390, "height": 844}).new_page())
    found.page.goto((folder / "report.html").as_uri())
    found.wait_for(f"{DRAWN} > 0")
    assert found.page.evaluate("document.documentElement.scrollWidth") == 390
    for row in found.rows().all():
        boxes = [cell.bounding_box() for cell in row.locator(":scope > *").all()]
        assert all(box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)
    found.page.select_option("#order", label="accuracy (%)")
    shown = found.page.locator("#table td[data-heading='accuracy (%)']").evaluate_all(
        "(cells) => cells.map((cell) => Number(cell.dataset.value))"
    )
    assert shown == sorted(shown)
    found.filter("no such words")
    assert found.rows().count() == 0
    found.page.context.close()


@pytest.mark.parametrize("plot", ["pareto", "epsilon"])
def test_no_axis_shows_an_accuracy_above_100(report: Opened, plot: str) -> None:
    assert report.page.evaluate(f"document.getElementById('{plot}')._fullLayout.yaxis.range[1]") <= 100
