"""An audit in a terminal and as one page, which links the reports of its parts."""

from __future__ import annotations

import json
from pathlib import Path

from hf_exposure.files import write_aside
from hf_exposure.records.audit import AUDIT_FILE, AUDIT_PAGE, AuditReport, AuditState
from hf_exposure.report.page import render
from hf_exposure.report.save import make_folder

_HEADS = {
    AuditState.FOUND: "The model reveals some of its training data",
    AuditState.NOT_FOUND: "The parts that ran found no training data in the model",
    AuditState.NO_VERDICT: "No verdict: a part of the audit is inconclusive",
    AuditState.NOT_RUN: "No verdict: no part was run on the model",
}

LIMITS = (
    "Finding nothing does not prove that nothing was memorized: other data, other words before a secret, or stronger "
    "attacks may reveal more.",
    "Each part tests something different. Canaries test texts that are repeated exactly; membership tests records "
    "like those that were held out; natural secrets cover the formats that were scanned for; sampling covers what "
    "the model generates unprompted.",
    "The figures hold for this model, this data and these settings.",
)


def headline(report: AuditReport) -> str:
    """The verdict, and the parts that lead to it."""
    names = [part.name for part in report.parts if part.state is report.verdict and part.name != "scan"]
    listed = f" ({', '.join(names)})" if names else ""
    return f"{_HEADS[report.verdict]}{listed}."


def audit_text(report: AuditReport) -> str:
    """The text that `print(report)` shows: the verdict, and a line for each part."""
    width = max((len(part.name) for part in report.parts), default=0)
    states = max((len(part.state.value) for part in report.parts), default=0)
    lines = [f"{part.name:<{width}}  {part.state.value:<{states}}  {part.summary}" for part in report.parts]
    return "\n".join([headline(report), "", *lines])


def save_audit(report: AuditReport, folder: str | Path) -> list[Path]:
    """Writes `audit.json` and `audit.html`, which only their owner may read.

    Raises:
        InputError: the folder cannot be created or written to.
    """
    target = make_folder("folder", folder)
    page = render(
        "audit.html.j2",
        script="",
        identity="",
        headline=headline(report),
        invalid=report.verdict in (AuditState.NO_VERDICT, AuditState.NOT_RUN),
        facts=[("model", report.model), ("data", report.dataset or "not given")],
        parts=report.parts,
        settings=[*report.settings.items(), *report.versions.items()],
        limits=LIMITS,
    )
    document = json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n"
    return [
        write_aside(target / AUDIT_FILE, document, private=True),
        write_aside(target / AUDIT_PAGE, page, private=True),
    ]
