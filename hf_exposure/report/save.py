"""The files of a report: `report.json`, the page and the plots, which carry one measurement id."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_exposure.canaries import CanarySet
from hf_exposure.checks import one_of, path_of
from hf_exposure.errors import InputError
from hf_exposure.fields import plain
from hf_exposure.files import make_private_folder, one_writer, write_aside
from hf_exposure.records.exposure_report import REPORT_FILE, ExposureReport
from hf_exposure.records.identity import DOCUMENT_FILE, IDENTITY, PAGE_FILE, REPORT_FILES, identity_of
from hf_exposure.records.sums import write_sums
from hf_exposure.report import plots
from hf_exposure.report.forecast import forecast_exposures, run_of
from hf_exposure.report.page import report_page


def save_report(
    report: ExposureReport,
    folder: str | Path,
    history: Sequence[ExposureReport] = (),
    *,
    training_log: Sequence[Mapping[str, Any]] = (),
    include_secrets: bool = False,
    canaries: CanarySet | None = None,
    formats: Sequence[str] = (),
) -> list[Path]:
    """Writes `report.json`, `report.html`, `SHA256SUMS`, and plots if matplotlib is installed.

    The arguments, result and errors are those of `ExposureReport.save`, which calls this function.
    """
    for name, records, kind in (("history", history, ExposureReport), ("training_log", training_log, Mapping)):
        if not isinstance(records, Sequence) or not all(isinstance(record, kind) for record in records):
            remedy = "Pass callback.reports, and trainer.state.log_history."
            raise InputError(name, f"must be a list of {kind.__name__}", type(records).__name__, remedy)
    if isinstance(formats, str):
        raise InputError("formats", "must be a list", formats, f"Write formats=[{formats!r}].")
    for wanted in formats:
        one_of("formats", wanted, ["pdf", "svg"], "Use 'pdf'; the page and PNG plots are always written.")
    earlier = [{"step": r.step, "epoch": r.epoch, **r.metrics()} for r in history]
    values = report.to_dict(include_secrets=include_secrets, canaries=canaries)
    identity = identity_of([report.to_dict(), earlier, list(training_log)])
    content = {**values, "history": plain(earlier), IDENTITY: identity}
    document = json.dumps(content, indent=1, allow_nan=False) + "\n"
    run = run_of(report, history)
    forecasts = forecast_exposures(run) if run[-1].step == report.step else {}  # otherwise the training went on
    target = make_folder("folder", folder)
    # Processes of one job may save into the same folder; the lock makes the last one leave files that belong together.
    with one_writer(target):
        written = [write_aside(target / REPORT_FILE, document, private=True)]
        drawn = []
        if plots.matplotlib_is_installed():
            drawn = plots.draw_plots(report, history, target, training_log, identity, formats)
        pictures = {path.name: path.read_bytes() for path in drawn if path.suffix == ".png"}
        page = report_page(report, pictures, identity, forecasts)
        written += [write_aside(target / PAGE_FILE, page, private=True), *drawn]
        if "pdf" in formats:
            from hf_exposure.report.document import report_document

            paper = report_document(report, pictures, identity, forecasts)
            written.append(write_aside(target / DOCUMENT_FILE, paper, private=True))
        for name in set(REPORT_FILES) - {path.name for path in written}:
            (target / name).unlink(missing_ok=True)  # of an earlier report
        return [*written, write_sums(target, [path.name for path in written])]


def make_folder(argument: str, folder: str | Path) -> Path:
    """Creates the folder if necessary, and checks that it is writable.

    Raises:
        InputError: the folder cannot be created or written to.
    """
    target = path_of(argument, folder)
    try:
        make_private_folder(target)
        reason = "" if os.access(target, os.W_OK | os.X_OK) else "Permission denied"
    except OSError as error:
        reason = str(error.strerror)
    if reason:
        rule = f"must be a folder that can be made and written to ({reason})"
        raise InputError(argument, rule, str(folder), "Name another folder.")
    return target
