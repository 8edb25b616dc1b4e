"""The tables of a report: the same rows in a terminal, on a page, in a notebook and in pandas. No secrets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hf_exposure.records import ExposureReport, RepetitionGroup
from hf_exposure.records.groups import table_order
from hf_exposure.report.verdict import group_cells, group_heads, headline, judgement, times_inserted


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells of plain values, with what each column is.

    Attributes:
        caption: what it shows, for a reader who cannot see it.
        heads: names of the columns.
        rows: the cells.
        kinds: of each column: "text", "note" or "" for figures.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[object]]
    kinds: Sequence[str]

    def __str__(self) -> str:
        """For a terminal: columns as wide as they must be, the first to the left, figures to the right."""
        return aligned([self.heads, *([str(cell) for cell in row] for row in self.rows)])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Lines in which the cells of a column end at one place, or begin at one in the first column.

    Example:
        >>> print(aligned([["", "bits"], ["once", "3.0"], ["8 times", "11.2"]]))
                 bits
        once      3.0
        8 times  11.2
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def group_table(groups: Iterable[RepetitionGroup], confidence_level: float) -> Table:
    """One row for each repetition count, in the order given."""
    return Table(
        caption="Exposure by repetitions",
        heads=("inserted", "canaries", *group_heads(confidence_level)),
        rows=[[times_inserted(group.repetitions), group.canaries, *group_cells(group)] for group in groups],
        kinds=("text", "", "", "", "", ""),
    )


def report_table(report: ExposureReport) -> Table:
    """The table of a report: one row for each repetition count, controls last."""
    groups = sorted(report.groups, key=lambda group: table_order(group.repetitions))
    return group_table(groups, report.settings["confidence_level"])


def report_text(report: ExposureReport) -> str:
    """What `print(report)` shows: the verdict, the table and the notes."""
    notes = [f"note: {note}" for note in report.notes]
    return "\n".join([headline(report), judgement(report), "", str(report_table(report)), *notes])


def report_frame(report: ExposureReport) -> Any:
    """The table as a pandas DataFrame."""
    import pandas  # half a second, which nothing else here needs

    table = report_table(report)
    return pandas.DataFrame(list(table.rows), columns=list(table.heads))
