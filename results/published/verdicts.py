"""Published figures beside ours, with a verdict that depends only on the band."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev

import polars as pl

from results.columns import Column
from results.published.registry import Figure, Kind, PublishedRow, Table
from results.render import Sheet

TEXTS = ("row", "figure", "setting", "verdict")
FULL = "full"  # the published setting
COLUMNS = tuple(
    Column(name, name, "text" if name in TEXTS else "count")  # a count is printed unchanged
    for name in (
        *("row", "figure", "published", "ours", "seeds", "difference", "ratio of ratios"),
        *("kind", "setting", "band", "verdict"),
    )
)


@dataclass(frozen=True)
class VerdictLine:
    """One figure, in the unit of its heading; None for missing values.

    `difference` is ours minus the published figure; `ratio_of_ratios` is ours over it, where both are ratios.
    """

    row: str
    figure: str
    published: float | None
    spread: float | None
    ours: float | None
    std: float | None  # standard deviation over the seeds
    seeds: int | None
    difference: float | None
    ratio_of_ratios: float | None
    kind: str
    setting: str | None
    band: str | None
    verdict: str | None


@dataclass(frozen=True)
class Result:
    """The result of a row: our figures by name, one for each seed that ran, in the units of runs and formulas.

    `reason` explains missing figures on one line; `failed` is true where the cause is a fault, and not only a resource
    that this machine or setting lacks. `small` names the part that was smaller than published.
    """

    row: PublishedRow
    values: Mapping[str, Sequence[float]]
    reason: str = ""
    failed: bool = False
    small: str = ""

    def lines(self) -> list[VerdictLine]:
        """One line for each figure."""
        return [self._line(figure) for figure in self.row.figures]

    def _line(self, figure: Figure) -> VerdictLine:
        values = [figure.scale * value for value in self.values.get(figure.key, ())]
        ours = fmean(values) if values else None
        compared = ours is not None and figure.published is not None
        return VerdictLine(
            row=self.row.name,
            figure=figure.heading,
            published=figure.published,
            spread=figure.spread,
            ours=ours,
            std=stdev(values) if len(values) > 1 else None,
            seeds=len(values) if values and not self.row.compute else None,
            difference=ours - figure.published if compared else None,  # type: ignore[operator]
            ratio_of_ratios=ours / figure.published if compared and figure.is_ratio else None,  # type: ignore[operator]
            kind=self.row.kind.name,
            setting=None if self.row.kind is Kind.cited else f"small: {self.small}" if self.small else FULL,
            band=figure.band,
            verdict=self._verdict(figure, ours),
        )

    def _verdict(self, figure: Figure, ours: float | None) -> str | None:
        """The verdict on a figure; there is none over only some of the seeds."""
        if self.row.kind is Kind.cited:
            return self.row.kind.name
        if self.reason or ours is None:
            return f"not run: {self.reason or 'nothing measured it'}"
        if self.small and figure.full_only:
            return "not judged: nothing is published for the small setting"
        verdict = figure.reproduced(ours)
        if verdict is None or verdict:
            return "reproduced" if verdict else None
        return f"not reproduced: {self.row.reason}" if self.row.reason else "not reproduced"


def sheet(table: Table, results: Sequence[Result], took_s: float | None = None) -> Sheet:
    """The sheet of a table, with the elapsed time if it is given."""
    figures = [
        (line, figure) for result in results for line, figure in zip(result.lines(), result.row.figures, strict=True)
    ]
    several = any(line.std is not None for line, _ in figures)
    notes = (
        f"{table.title}. Source: {table.source}. Hardware there: {table.hardware}.",
        table.note,
        "Ours is the mean ± the standard deviation over the seeds." if several else "",
        "" if took_s is None else f"Took {took_s:.0f} s, including runs that did not exist before.",
    )
    return Sheet(COLUMNS, [_cells(line, figure) for line, figure in figures], notes=tuple(filter(None, notes)))


def csv(results: Mapping[str, Sequence[Result]]) -> str:
    """Raw figures in full precision, of all tables."""
    lines = [{"table": name, **asdict(line)} for name, rows in results.items() for row in rows for line in row.lines()]
    return pl.DataFrame(lines, infer_schema_length=None).write_csv()


def _cells(line: VerdictLine, figure: Figure) -> dict[str, str | None]:
    texts = {name: None if value is None else str(value) for name, value in asdict(line).items()}
    published = _with_spread(line.published, line.spread)
    ours = _with_spread(line.ours, line.std)
    ratio = None if line.ratio_of_ratios is None else f"{line.ratio_of_ratios:.3g}"
    shown = {"published": published, "ours": ours, "difference": _difference(line, figure), "ratio of ratios": ratio}
    return texts | shown


def _with_spread(value: float | None, spread: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:.4g} ± {spread:.2g}" if spread else f"{value:.4g}"


def _difference(line: VerdictLine, figure: Figure) -> str | None:
    """The difference in the terms of the band: a share for a relative band."""
    if line.difference is None:
        return None
    if figure.relative is None:
        return f"{line.difference:+z.3g}"
    assert figure.published
    return f"{100 * line.difference / abs(figure.published):+z.2g} %"
