"""Which plots there are of a report, of a run and of several runs, and the files they go to."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_exposure.errors import MissingDependencyError
from hf_exposure.files import write_aside
from hf_exposure.report.identity import IDENTITY
from hf_exposure.report.plots.against_utility import against_utility
from hf_exposure.report.plots.by_repetitions import by_repetitions
from hf_exposure.report.plots.by_step import LOSSES, beside_losses, by_step, loss_curve
from hf_exposure.report.plots.of_references import of_references
from hf_exposure.report.plots.style import as_png, mark_invalid
from hf_exposure.report.verdict import validity_line
from hf_exposure.validity import Validity

if TYPE_CHECKING:
    from hf_exposure.report.comparison import Comparison
    from hf_exposure.report.exposure_report import ExposureReport

__all__ = ["draw_comparison", "draw_plots", "matplotlib_is_installed"]


def matplotlib_is_installed() -> bool:
    """Whether plots can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_plots(
    report: ExposureReport,
    history: Sequence[ExposureReport],
    folder: Path,
    training_log: Sequence[Mapping[str, Any]] = (),
    identity: str = "",
) -> list[Path]:
    """Writes the plots of a report into `folder`.

    Always `exposure_by_repetitions.png`; `references.png` where the report knows what its references cost; with a
    history of at least two reports of different steps, this one counted, `exposure_by_step.png`; and with a trainer's
    log of losses besides, `exposure_and_loss.png`. Each carries the report's measurement id, where it has one.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    _need_matplotlib()
    figures = {"exposure_by_repetitions.png": by_repetitions(report)}
    if report.references is not None:
        figures["references.png"] = of_references(report)
    run = [*history, *([report] if all(earlier.step != report.step for earlier in history) else [])]
    if len(run) > 1:
        figures["exposure_by_step.png"] = by_step(run)
        if any(loss_curve(training_log, key)[0] for key in LOSSES):
            figures["exposure_and_loss.png"] = beside_losses(run, training_log)
    if report.validity is Validity.INVALID:
        # A picture travels without its page.
        for figure in figures.values():
            mark_invalid(figure, validity_line(report))
    return _write(figures, folder, identity)


def draw_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes `exposure_against_utility.png` into `folder`, where at least two runs have both figures.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    _need_matplotlib()
    if len(comparison.placed) < 2:
        return []
    return _write({"exposure_against_utility.png": against_utility(comparison)}, folder)


def _need_matplotlib() -> None:
    if not matplotlib_is_installed():
        raise MissingDependencyError('plots need matplotlib: pip install "hf-exposure[plots]"')


def _write(figures: Mapping[str, Any], folder: Path, identity: str = "") -> list[Path]:
    marks = {IDENTITY: identity} if identity else {}
    return [write_aside(folder / name, as_png(figure, marks), private=True) for name, figure in figures.items()]
