"""Published figures beside ours, with a verdict that follows from the band alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev

import polars as pl

from results.columns import Column
from results.registry import Figure, Kind, Row, Table
from results.render import Sheet

TEXTS = ("row", "figure", "verdict")
COLUMNS = tuple(
    Column(name, name, "text" if name in TEXTS else "count")  # a count is printed as it is
    for name in ("row", "figure", "published", "ours", "seeds", "difference", "kind", "band", "verdict")
)


@dataclass(frozen=True)
class Line:
    """One figure, in the unit of its heading; None for what there is not. `difference` is ours less the published."""

    row: str
    figure: str
    published: float | None
    spread: float | None
    ours: float | None
    std: float | None  # over the seeds
    seeds: int | None
    difference: float | None
    kind: str
    band: str | None
    verdict: str | None


@dataclass(frozen=True)
class Result:
    """A row as it came out: our figures by name, one for each seed that ran, as runs and formulas give them.

    `reason` says why some are missing, on one line; `failed` whether that is a fault and not only something that is
    not on this machine.
    """

    row: Row
    values: Mapping[str, Sequence[float]]
    reason: str = ""
    failed: bool = False

    def lines(self) -> list[Line]:
        """A line a figure."""
        return [self._line(figure) for figure in self.row.figures]

    def _line(self, figure: Figure) -> Line:
        values = [figure.scale * value for value in self.values.get(figure.figure, ())]
        ours = fmean(values) if values else None
        compared = ours is not None and figure.published is not None
        return Line(
            row=self.row.name,
            figure=figure.heading,
            published=figure.published,
            spread=figure.spread,
            ours=ours,
            std=stdev(values) if len(values) > 1 else None,
            seeds=len(values) if values and not self.row.compute else None,
            difference=ours - figure.published if compared else None,  # type: ignore[operator]
            kind=self.row.kind.name,
            band=figure.band,
            verdict=self._verdict(figure, ours),
        )

    def _verdict(self, figure: Figure, ours: float | None) -> str | None:
        """Over some of the seeds alone there is none."""
        if self.row.kind is Kind.cited:
            return None
        if self.reason or ours is None:
            return f"not run: {self.reason or 'nothing measured it'}"
        verdict = figure.reproduced(ours)
        return None if verdict is None else "reproduced" if verdict else "not reproduced"


def sheet(table: Table, results: Sequence[Result]) -> Sheet:
    """What is printed of a table."""
    figures = [
        (line, figure) for result in results for line, figure in zip(result.lines(), result.row.figures, strict=True)
    ]
    several = any(line.std is not None for line, _ in figures)
    notes = (
        f"{table.title}. Source: {table.source}. Hardware there: {table.hardware}.",
        table.note,
        "Ours is the mean ± the standard deviation over the seeds." if several else "",
    )
    return Sheet(COLUMNS, [_cells(line, figure) for line, figure in figures], notes=tuple(filter(None, notes)))


def csv(results: Mapping[str, Sequence[Result]]) -> str:
    """Raw figures in full precision, of all tables."""
    lines = [{"table": name, **asdict(line)} for name, rows in results.items() for row in rows for line in row.lines()]
    return pl.DataFrame(lines, infer_schema_length=None).write_csv()


def _cells(line: Line, figure: Figure) -> dict[str, str | None]:
    texts = {name: None if value is None else str(value) for name, value in asdict(line).items()}
    published, ours = _with_spread(line.published, line.spread), _with_spread(line.ours, line.std)
    return texts | {"published": published, "ours": ours, "difference": _difference(line, figure)}


def _with_spread(value: float | None, spread: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:.4g} ± {spread:.2g}" if spread else f"{value:.4g}"


def _difference(line: Line, figure: Figure) -> str | None:
    """In the terms of the band: a share where it is one."""
    if line.difference is None:
        return None
    if figure.relative is None:
        return f"{line.difference:+z.3g}"
    assert figure.published
    return f"{100 * line.difference / abs(figure.published):+z.2g} %"
