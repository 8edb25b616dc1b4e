"""A membership report as text for a terminal, as HTML for a notebook, and as a page with its plot."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hf_exposure.estimators import RocCurve
from hf_exposure.files import write_aside
from hf_exposure.records.identity import IDENTITY, identity_of
from hf_exposure.records.membership import (
    MEMBERSHIP_FILE,
    Distribution,
    MembershipReport,
    MembershipStatistic,
    MembershipVerdict,
)
from hf_exposure.report import plots
from hf_exposure.report.page import render
from hf_exposure.report.save import make_folder
from hf_exposure.report.table import Table
from hf_exposure.report.verdict import p_value_text

PAGE_FILE, PLOT_FILE = "membership.html", "membership_roc.png"

_CAPTIONS = {
    PLOT_FILE: (
        "True-positive rate against false-positive rate on a logarithmic axis, one line for each statistic",
        "The share of members recognized at each false-positive rate. The left end matters most to the people in the "
        "data: there, few held-out records are mistaken for members.",
    )
}
_BLIND_NAMES = {
    "tokens": "number of tokens",
    "compressed_bits": "compressed size",
    "base_loss": "loss of the base model",
}

LIMITS = (
    "Members and held-out records must be drawn in the same way. A difference of topic, length or date looks like "
    "membership; the blind comparisons show only some such differences.",
    "No membership detected is no proof: attacks with many shadow models are stronger than one model's statistics.",
    "An AUC is a mean over records. It may stay near 0.5 although a few records are recognized with certainty: read "
    "the true-positive rates at small false-positive rates.",
    "The best statistic is chosen after the fact. The verdict's p-value is corrected for this choice; the intervals "
    "are not.",
)


def headline(report: MembershipReport) -> str:
    """The verdict in one sentence."""
    counts = f"{report.members.records:,} members, {report.held_out.records:,} held-out records"
    if report.verdict is MembershipVerdict.NOT_COMPARABLE:
        names = " and ".join(_BLIND_NAMES.get(name, name) for name in report.differences)
        differ = f"members and held-out records differ in their {names}, which training does not change"
        return f"No verdict: {differ} ({counts})."
    if math.isnan(report.p_value):
        return f"No verdict: no statistic is defined ({counts})."
    test = f"corrected p {p_value_text(report.p_value)}"
    if report.verdict is MembershipVerdict.DETECTED:
        best, one = max(_defined(report).items(), key=lambda item: item[1].auc or 0.0)
        return f"Members can be told from held-out records: AUC {one.auc:.3f} by {best} ({counts}; {test})."
    return f"Membership was not detected ({counts}; {test})."


def statistics_table(report: MembershipReport) -> Table:
    """One row for each statistic."""
    rates = list(next(iter(report.statistics.values())).tpr) if report.statistics else []
    rows = [
        [
            name,
            _with_interval(one.auc, one.auc_low, one.auc_high),
            *(
                _with_interval(rate.rate, rate.low, rate.high) if rate.rate is not None else "undefined"
                for rate in (one.tpr[fpr] for fpr in rates)
            ),
            "" if one.p_value is None else p_value_text(one.p_value).removeprefix("= "),
        ]
        for name, one in report.statistics.items()
    ]
    heads = ("statistic", "AUC", *(f"TPR at {100 * fpr:g} % FPR" for fpr in rates), "p-value")
    return Table(caption="Membership by statistic", heads=heads, rows=rows, kinds=("text", *[""] * (len(heads) - 1)))


def records_table(report: MembershipReport) -> Table:
    """Exact memorization and extraction strength of members and held-out records."""
    rows = []
    for name, group in (("members", report.members), ("held-out", report.held_out)):
        for figure, found in (
            ("exact memorization", group.exact_memorization),
            ("extraction strength", group.extraction_strength),
        ):
            rows.append([figure, name, *_spread(found)])
    heads = ("figure of a record", "records", "mean", "10 %", "median", "90 %", "maximum")
    return Table(caption="Memorization of records", heads=heads, rows=rows, kinds=("text", "text", "", "", "", "", ""))


def blind_table(report: MembershipReport) -> Table:
    """The comparisons in which the two groups should not differ."""
    rows = [
        [_BLIND_NAMES.get(name, name), _with_interval(one.auc, one.auc_low, one.auc_high)]
        for name, one in report.blind.items()
    ]
    return Table(caption="Blind comparisons", heads=("from", "AUC (99 %)"), rows=rows, kinds=("text", ""))


def membership_text(report: MembershipReport) -> str:
    """The text that `print(report)` shows."""
    notes = [f"note: {note}" for note in all_notes(report)]
    tables = [str(table) for table in (statistics_table(report), records_table(report), blind_table(report))]
    return "\n".join([headline(report), "", "\n\n".join(tables), *notes])


def all_notes(report: MembershipReport) -> list[str]:
    """The report's own notes, and why figures are undefined: each reason once, with the names of the figures."""
    reasons: dict[str, list[str]] = {}
    for name, one in report.statistics.items():
        if one.reason:
            reasons.setdefault(one.reason, []).append(name)
    for one in _defined(report).values():
        for rate in one.tpr.values():
            if rate.reason:
                reasons.setdefault(rate.reason, [])
    said = [
        f"{', '.join(names)}: {reason}." if names else f"undefined: {reason}." for reason, names in reasons.items()
    ]
    return [*report.notes, *said]


def membership_html(report: MembershipReport) -> str:
    """The HTML that a notebook shows for a report."""
    return render(
        "notebook.html.j2",
        headline=headline(report),
        judgment="",
        table=statistics_table(report),
        rates=None,
        privacy=(),
        notes=all_notes(report),
    )


def membership_frame(report: MembershipReport) -> Any:
    """The table of statistics as a pandas DataFrame."""
    import pandas

    table = statistics_table(report)
    return pandas.DataFrame(list(table.rows), columns=list(table.heads))


def membership_page(report: MembershipReport, pictures: Mapping[str, bytes], identity: str = "") -> str:
    """The page as HTML. It loads nothing from the network and runs no script."""
    return render(
        "membership.html.j2",
        script="",
        identity=identity,
        headline=headline(report),
        invalid=report.verdict is MembershipVerdict.NOT_COMPARABLE,
        facts=_facts(report),
        statistics=statistics_table(report),
        records=records_table(report),
        blind=blind_table(report),
        plots=pictures,
        captions=_CAPTIONS,
        exposed=[
            (name, ", ".join(map(str, one.most_exposed))) for name, one in _defined(report).items() if one.most_exposed
        ],
        notes=all_notes(report),
        settings=_settings(report),
        limits=LIMITS,
        level=f"{100 * report.settings.get('confidence_level', 0.95):g} %",
    )


def save_membership(report: MembershipReport, folder: str | Path) -> list[Path]:
    """Writes `membership.json`, `membership.html` and, if matplotlib is installed, the ROC curves."""
    target = make_folder("folder", folder)
    values = report.to_dict()
    identity = identity_of(values)
    document = json.dumps({**values, IDENTITY: identity}, indent=1, allow_nan=False) + "\n"
    written = [write_aside(target / MEMBERSHIP_FILE, document, private=True)]
    pictures = {}
    curves = {name: _curve(report, one) for name, one in _defined(report).items()}
    if curves and plots.matplotlib_is_installed():
        pictures[PLOT_FILE] = plots.as_png(plots.of_rates(curves), {IDENTITY: identity})
        written.append(write_aside(target / PLOT_FILE, pictures[PLOT_FILE], private=True))
    else:
        (target / PLOT_FILE).unlink(missing_ok=True)  # of an earlier report
    page = membership_page(report, pictures, identity)
    return [*written, write_aside(target / PAGE_FILE, page, private=True)]


def _defined(report: MembershipReport) -> dict[str, MembershipStatistic]:
    return {name: one for name, one in report.statistics.items() if one.auc is not None}


def _curve(report: MembershipReport, one: MembershipStatistic) -> RocCurve:
    points = np.array(one.roc, dtype=np.float64).reshape(-1, 2)
    assert one.auc is not None and one.auc_low is not None and one.auc_high is not None
    return RocCurve(
        fpr_V=points[:, 0],
        tpr_V=points[:, 1],
        thresholds_V=np.full(len(points), math.nan),
        auc=one.auc,
        auc_low=one.auc_low,
        auc_high=one.auc_high,
        confidence_level=report.settings.get("confidence_level", 0.95),
        members=report.members.records,
        controls=report.held_out.records,
    )


def _with_interval(value: float | None, low: float | None, high: float | None) -> str:
    return "undefined" if value is None or low is None or high is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def _spread(found: Distribution) -> list[str]:
    return [f"{value:.3f}" for value in (found.mean, found.q10, found.median, found.q90, found.maximum)]


def _facts(report: MembershipReport) -> list[tuple[str, object]]:
    model = report.model
    parts = [model.get("name") or model.get("class") or "unnamed", model.get("revision")]
    facts: list[tuple[str, object]] = [
        ("model", " @ ".join(str(part) for part in parts if part)),
        ("base model", report.base or "none"),
    ]
    for name, group in (("members", report.members), ("held-out", report.held_out)):
        facts.append((name, f"{group.records:,} records, {group.tokens:,} scored tokens"))
    if report.step is not None:
        epoch = f", epoch {report.epoch:g}" if report.epoch is not None else ""
        facts.append(("moment", f"step {report.step}{epoch}"))
    return facts


def _settings(report: MembershipReport) -> list[tuple[str, object]]:
    seconds = [("seconds", f"{report.seconds:.1f}")] if math.isfinite(report.seconds) else []
    described = [(name, value) for name, value in report.model.items() if value not in (None, "")]
    return [*report.settings.items(), *described, *seconds, *report.versions.items()]
