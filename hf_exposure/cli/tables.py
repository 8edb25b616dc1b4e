"""Tables for a terminal. No secret is in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_exposure.report import ExposureReport
    from hf_exposure.report.comparison import Comparison

__all__ = ["comparison_table", "group_table"]


def group_table(report: ExposureReport) -> str:
    """One line for each repetition count, controls last."""
    from hf_exposure.report.group_text import group_cells, group_heads, times_inserted

    groups = sorted(report.groups, key=lambda group: (group.repetitions == 0, group.repetitions))
    rows = [[times_inserted(group.repetitions), str(group.canaries), *group_cells(group)] for group in groups]
    return _aligned([["inserted", "canaries", *group_heads(report.settings["confidence_level"])], *rows])


def comparison_table(comparison: Comparison) -> str:
    """One line for each run."""
    from hf_exposure.report.comparison_page import run_cells

    heads = ["run", comparison.utility_key, "exposure (bits)", "interval", "controls", "p-value (corrected)", "front"]
    return _aligned([heads, *(run_cells(run) for run in comparison.runs)])


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be: the first to the left, figures to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
