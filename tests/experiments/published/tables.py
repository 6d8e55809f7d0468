"""The cells of published tables that the command line prints, and the folder of their runs."""

from pathlib import Path

RUNS = Path("results", "runs", "reproduce_ours")


def cells(out: str, row: str, figure: str) -> list[str]:
    """The cells of one line of a Markdown table, after the two given ones."""
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
    (line,) = [cells for cells in found if cells[:2] == [row, figure]]
    return line[2:]


def verdict(out: str, row: str, figure: str) -> str:
    """The last cell of the line, the verdict."""
    return cells(out, row, figure)[-1]
