"""The exposure of natural secrets as text for a terminal, by kind and by the number of records that contain them.
No secret is shown.
"""

from __future__ import annotations

import math
from statistics import mean

from hf_exposure.records.secrets import SecretExposure, SecretsReport
from hf_exposure.report.table import Table

_MOST_SHOWN = 20
_MARKS = {"lower": "≥ ", "extrapolated": "~ "}


def secrets_text(report: SecretsReport) -> str:
    """The text that `print(report)` shows."""
    measured = [one for one in report.secrets if math.isfinite(one.exposure_bits)]
    head = (
        f"{len(report.first)} of {len(report.secrets)} natural secrets rank first of all texts of their format"
        if report.secrets
        else "There are no natural secrets"
    )
    lines = [f"{head}.", "", str(_by_kind(report)), "", str(_most_exposed(measured))]
    if not report.base:
        lines.append("note: without a base model, a likely secret cannot be told from a memorized one.")
    undefined = len(report.secrets) - len(measured)
    if undefined:
        lines.append(f"note: {undefined} secrets could not be measured; the report says why.")
    return "\n".join(lines)


def _by_kind(report: SecretsReport) -> Table:
    rows = []
    for kind, once in sorted({(one.secret_kind, one.examples == 1) for one in report.secrets}):
        group = [one for one in report.secrets if one.secret_kind == kind and (one.examples == 1) == once]
        bits = [one.exposure_bits for one in group if math.isfinite(one.exposure_bits)]
        base = [one.base_exposure_bits for one in group if math.isfinite(one.base_exposure_bits)]
        rows.append(
            [
                kind,
                "one" if once else "several",
                len(group),
                f"{mean(one.log2_space_size for one in group):.1f}",
                f"{mean(bits):.1f}" if bits else "undefined",
                f"{mean(base):.1f}" if base else "",
                sum(one.rank_high == 1 for one in group),
            ]
        )
    heads = ("kind", "records that hold it", "secrets", "log2|R|", "exposure (bits)", "base model", "rank first")
    return Table(caption="Natural secrets", heads=heads, rows=rows, kinds=("text", "text", *[""] * 5))


def _most_exposed(measured: list[SecretExposure]) -> Table:
    top = sorted(measured, key=lambda one: -one.exposure_bits)[:_MOST_SHOWN]
    rows = [
        [
            one.secret_id,
            one.secret_kind,
            one.occurrences,
            one.examples,
            f"{_MARKS.get(one.bound, '')}{one.exposure_bits:.1f}",
            f"{one.log2_space_size:.1f}",
            f"{one.base_exposure_bits:.1f}" if math.isfinite(one.base_exposure_bits) else "",
        ]
        for one in top
    ]
    heads = ("secret", "kind", "occurrences", "records", "exposure (bits)", "of", "base model")
    return Table(caption="Most exposed", heads=heads, rows=rows, kinds=("text", "text", *[""] * 5))
