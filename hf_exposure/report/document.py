"""`report.pdf`: the page as a document for filing. fpdf2 lays it out, in the font that comes with matplotlib."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_exposure.errors import MissingDependencyError
from hf_exposure.records.identity import IDENTITY
from hf_exposure.report.forecast import HOW_A_FORECAST_IS_READ, forecast_table
from hf_exposure.report.outcome import OUTCOME_COLORS, outcome_text
from hf_exposure.report.page import CAPTIONS, LIMITS, facts_of, how_measured, how_to_read, settings_groups
from hf_exposure.report.privacy import privacy_sentences
from hf_exposure.report.table import Table, rates_table, report_table
from hf_exposure.report.verdict import headline, judgment

if TYPE_CHECKING:
    from hf_exposure.estimators.forecast import ExposureForecast
    from hf_exposure.records.exposure_report import ExposureReport

_MARGIN_MM, _FAINT = 18, (90, 90, 90)


def report_document(
    report: ExposureReport,
    plots: Mapping[str, bytes],
    identity: str = "",
    forecasts: Mapping[int, ExposureForecast] | None = None,
) -> bytes:
    """The report as PDF, on A4.

    Args:
        report: the report to show.
        plots: PNG bytes by file name, as for `report_page`.
        identity: the report's measurement id, if it has one.
        forecasts: forecasts for an unfinished training, as for `report_page`.

    Raises:
        MissingDependencyError: fpdf2 or matplotlib is not installed.
    """
    document = _new_document()
    document.set_title("Exposure report")
    if identity:
        document.set_keywords(f"{IDENTITY} {identity}")
    document.add_page()
    _badge(document, report)
    _paragraph(document, headline(report), size=14, style="B")
    _paragraph(document, judgment(report))
    _pairs(document, facts_of(report, identity))
    _heading(document, "By repetitions")
    _table(document, report_table(report))
    _paragraph(document, how_to_read(report.settings["confidence_level"]), size=8, color=_FAINT)
    if (forecast := forecast_table(forecasts or {}, report)) is not None:
        _heading(document, "At the end of training")
        _table(document, forecast)
        _paragraph(document, HOW_A_FORECAST_IS_READ, size=8, color=_FAINT)
    if (rates := rates_table(report)) is not None:
        _heading(document, "Canaries against controls")
        _table(document, rates)
    if privacy := privacy_sentences(report):
        _heading(document, "Differential privacy")
        _list(document, privacy)
    for name, (title, caption) in CAPTIONS.items():
        if name in plots:
            _picture(document, plots[name], title, caption)
    _heading(document, "How it was measured")
    _list(document, how_measured(report))
    for title, pairs in settings_groups(report):
        _paragraph(document, title, style="B")
        _pairs(document, pairs)
    _heading(document, "Limits")
    _list(document, LIMITS)
    return bytes(document.output())


def check_installed() -> None:
    """Raise a `MissingDependencyError` unless fpdf2 and matplotlib are installed."""
    if any(importlib.util.find_spec(name) is None for name in ("fpdf", "matplotlib")):
        raise MissingDependencyError('a PDF needs fpdf2 and matplotlib: pip install "hf-exposure[pdf]"')


def _new_document() -> Any:
    check_installed()
    import matplotlib
    from fpdf import FPDF

    document = FPDF(format="A4")
    document.set_margins(_MARGIN_MM, _MARGIN_MM)
    document.set_auto_page_break(True, _MARGIN_MM)
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    document.add_font("DejaVu", "", fonts / "DejaVuSans.ttf")
    document.add_font("DejaVu", "B", fonts / "DejaVuSans-Bold.ttf")
    document.set_font("DejaVu", size=9)
    return document


def _badge(document: Any, report: ExposureReport) -> None:
    name = report.outcome.value.upper()
    # Reset the fill color, which would otherwise fill tables too.
    with document.local_context(fill_color=OUTCOME_COLORS[report.outcome], text_color=(255, 255, 255)):
        document.set_font("DejaVu", "B", 11)
        document.cell(document.get_string_width(name) + 6, 8, name, fill=True, align="C")
    document.ln(10)
    _paragraph(document, outcome_text(report), size=8, color=_FAINT)


def _heading(document: Any, text: str) -> None:
    document.ln(3)
    _paragraph(document, text, size=12, style="B")


def _paragraph(
    document: Any, text: str, *, size: int = 9, style: str = "", color: tuple[int, int, int] = (0, 0, 0)
) -> None:
    document.set_font("DejaVu", style, size)
    document.set_text_color(*color)
    document.multi_cell(0, size * 0.5, text, new_x="LMARGIN", new_y="NEXT", align="L")
    document.ln(1)


def _list(document: Any, items: Sequence[str]) -> None:
    for item in items:
        _paragraph(document, f"•  {item}")


def _pairs(document: Any, pairs: Sequence[tuple[str, object]]) -> None:
    if pairs:
        rows = [(name, str(value)) for name, value in pairs]
        _cells(document, rows, widths=(30, 70), aligns=("LEFT", "LEFT"), has_head=False)


def _table(document: Any, table: Table) -> None:
    aligns = tuple("LEFT" if kind else "RIGHT" for kind in table.kinds)
    _cells(document, [table.heads, *([str(cell) for cell in row] for row in table.rows)], aligns=aligns)


def _cells(
    document: Any,
    rows: Sequence[Sequence[str]],
    *,
    aligns: tuple[str, ...],
    widths: tuple[int, ...] | None = None,
    has_head: bool = True,
) -> None:
    document.set_font("DejaVu", "", 8)
    document.set_text_color(0, 0, 0)
    with document.table(
        col_widths=widths, text_align=aligns, first_row_as_headings=has_head, borders_layout="HORIZONTAL_LINES",
        line_height=4.2, padding=0.6,
    ) as table:  # fmt: skip
        for cells in rows:
            row = table.row()
            for cell in cells:
                row.cell(cell)
    document.ln(2)


def _picture(document: Any, content: bytes, title: str, caption: str) -> None:
    with document.unbreakable() as whole:
        whole.image(io.BytesIO(content), w=whole.epw, alt_text=title)
        _paragraph(whole, caption, size=8, color=_FAINT)
