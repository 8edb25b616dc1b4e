"""Texts for a terminal: extracted secrets, and the table of a report, which pages, notebooks and pandas use too.

The table contains no secret. The list of extracted secrets contains them, since that is its purpose.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hf_exposure.canaries import CanarySet
from hf_exposure.estimators import TruePositiveRate
from hf_exposure.fields import plain
from hf_exposure.records import Discoverability, ExposureReport, Extraction, RepetitionGroup
from hf_exposure.records.groups import FALSE_POSITIVE_RATES, in_table_order, table_order
from hf_exposure.report.privacy import privacy_sentences, refuted_text
from hf_exposure.report.verdict import (
    dose_lines,
    group_cells,
    group_heads,
    headline,
    judgment,
    times_inserted,
    trained_text,
)


def describe_extraction(extraction: Extraction, canaries: CanarySet | None = None) -> str:
    """Lists the most likely secrets in order; with a canary set, marks those that were inserted or held out."""
    if not extraction.candidates and extraction.rest_is_impossible:
        return "No secret can be extracted: the model gives every text of the template probability 0."
    if not extraction.candidates:
        return f"No secret was found within {extraction.expansions} expansions ({extraction.seconds:.1f} s of search)."
    inserted = {canary.text: canary for canary in canaries.inserted} if canaries else {}
    controls = {canary.text for canary in canaries.controls} if canaries else set()
    guarantee = (
        "certified: no other secret of the template is likelier"
        if extraction.certified
        else f"not certified: {extraction.note}"
    )
    if extraction.certified and extraction.note:
        guarantee += f"; {extraction.note}"
    lines = [
        f"The {len(extraction.candidates)} likeliest secrets ({guarantee}; {extraction.expansions} expansions, "
        f"{extraction.model_rows} model rows, {extraction.seconds:.1f} s):"
    ]
    for rank, candidate in enumerate(extraction.candidates, start=1):
        canary = inserted.get(candidate.text)
        mark = f"<- inserted {times_inserted(canary.repetitions)}" if canary else ""
        mark = "<- a control, never inserted" if candidate.text in controls else mark
        lines.append(f"{rank:4d}  {candidate.log_perplexity_bits:8.2f} bits  {candidate.text}  {mark}".rstrip())
    return "\n".join(lines)


def describe_discoverability(found: Sequence[Discoverability], canaries: CanarySet, probability: float) -> str:
    """Whether an attacker who knows the prefix can extract the canaries, by repetition count. No secret is shown.

    Args:
        found: one for each canary, inserted ones first, then controls.
        probability: a canary counts as extracted if one of the samples contains it with at least this probability.
    """
    asked, edits = found[0].samples, found[0].near_edits
    heads = ["", "canaries", "bits", "greedily", "to type", f"in {asked:,} samples", "nearly"]
    heads.append(f"samples for {probability:.0%}")
    rows = [heads]
    counts = [canary.repetitions for canary in canaries]
    for repetitions in sorted(set(counts), key=table_order):
        group = [one for one, count in zip(found, counts, strict=True) if count == repetitions]
        tallies = [
            sum(one.is_greedy for one in group),
            sum(one.probability_within(asked) >= probability for one in group),
            sum(one.near_samples > 0 for one in group),
        ]
        needed = statistics.median(one.samples_needed(probability) for one in group)
        typed = [one.argmax_known_tokens for one in group if one.argmax_known_tokens is not None]
        rows.append(
            [
                f"inserted {times_inserted(repetitions)}" if repetitions else times_inserted(0),
                str(len(group)),
                f"{statistics.median(one.bits for one in group):.1f}",
                f"{tallies[0]} of {len(group)}",
                f"{statistics.median(typed):g}" if typed else "",
                *(f"{tally} of {len(group)}" for tally in tallies[1:]),
                f"{needed:,.0f}" if needed < 1e6 else f"{needed:.0e}",
            ]
        )
    head = f"Asked with {canaries.template.prefix.rstrip()!r} (bits, tokens to type and samples are medians):"
    foot = (
        "To type: the number of the secret's first tokens that must be typed before the likeliest continuation is "
        "the rest.\n"
        f"In {asked:,} samples: canaries found with a probability of at least {probability:.0%}. "
        f"Nearly: canaries that a sample matched within {edits} wrong character{'' if edits == 1 else 's'}."
    )
    return "\n".join([head, "", aligned(rows), "", foot])


def discoverability_values(
    found: Sequence[Discoverability], canaries: CanarySet, probability: float
) -> list[dict[str, Any]]:
    """The same as plain values, by canary id and without texts; None for an infinite figure."""
    rows: list[dict[str, Any]] = plain(
        [
            {
                "canary_id": canary.id,
                "repetitions": canary.repetitions,
                "bits": one.bits,
                "is_greedy": one.is_greedy,
                "greedy_edits": one.greedy_edits,
                "argmax_known_tokens": one.argmax_known_tokens,
                "probability_within_samples": one.probability_within(one.samples),
                "near_samples": one.near_samples,
                "samples_needed": one.samples_needed(probability),
            }
            for canary, one in zip(canaries, found, strict=True)
        ]
    )
    return rows


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of plain values, with the kind of each column.

    Attributes:
        caption: what the table shows, for readers who cannot see it.
        heads: names of the columns.
        rows: the cells.
        kinds: the kind of each column: "text", "note" or "" for figures.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[object]]
    kinds: Sequence[str]

    def __str__(self) -> str:
        """The table for a terminal: the first column is aligned to the left and the others to the right."""
        return aligned([self.heads, *([str(cell) for cell in row] for row in self.rows)])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Aligns the cells of each column to the right, and those of the first column to the left.

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
    """One row for each repetition count, in the order given, with the times trained on if they are known."""
    listed = list(groups)
    doses = [trained_text(group) for group in listed]
    trained = [[dose] if any(doses) else [] for dose in doses]
    heads = ["times trained on"] if any(doses) else []
    rows = [
        [times_inserted(group.repetitions), group.canaries, *dose, *group_cells(group)]
        for group, dose in zip(listed, trained, strict=True)
    ]
    return Table(
        caption="Exposure by repetitions",
        heads=("inserted", "canaries", *heads, *group_heads(confidence_level)),
        rows=rows,
        kinds=("text", "", *("" for _ in heads), "", "", "", ""),
    )


def rates_table(report: ExposureReport) -> Table | None:
    """Inserted canaries against the controls, and the epsilons that ranks refute: one row for each repetition count.

    None without controls or with an undefined log-perplexity, unless ranks give a bound on epsilon.
    """
    groups = [group for group in in_table_order(report.groups) if group.repetitions]
    if not any(group.tpr or group.rank_epsilon for group in groups):
        return None
    level = f"{100 * report.settings['confidence_level']:g} % interval"
    rates = [f"TPR at {100 * fpr:g} % FPR" for fpr in FALSE_POSITIVE_RATES]
    return Table(
        caption="Inserted canaries against controls",
        heads=("inserted", f"AUC ({level})", *rates, "epsilon refuted"),
        rows=[
            [
                times_inserted(group.repetitions),
                auc_text(group),
                *(rate_text(group.tpr.get(fpr)) for fpr in FALSE_POSITIVE_RATES),
                refuted_text(group.rank_epsilon),
            ]
            for group in groups
        ],
        kinds=("text", "", "", "", ""),
    )


def auc_text(group: RepetitionGroup) -> str:
    """`0.97 (0.89 to 1.00)`; "" without controls."""
    curve = group.roc
    return "" if curve is None else f"{curve.auc:.2f} ({curve.auc_low:.2f} to {curve.auc_high:.2f})"


def rate_text(rate: TruePositiveRate | None) -> str:
    """`75 % (0 % to 99 %)`, or the number of controls that the rate needs; "" if nothing is compared.

    Example:
        >>> from hf_exposure.estimators import tpr_at_fpr
        >>> rate_text(tpr_at_fpr([1.0], [0.0], 0.01))
        'undefined: needs 100 controls'
    """
    if rate is None:
        return ""
    if rate.rate is None:
        return f"undefined: needs {rate.needed} controls"
    return f"{rate.rate:.0%} ({rate.low:.0%} to {rate.high:.0%})".replace("%", " %")


def report_table(report: ExposureReport) -> Table:
    """The table of a report: one row for each repetition count, controls last."""
    return group_table(in_table_order(report.groups), report.settings["confidence_level"])


def report_text(report: ExposureReport) -> str:
    """The text that `print(report)` shows: the verdict, the table and the notes."""
    notes = [f"note: {note}" for note in (*dose_lines(report), *report.notes)]
    return "\n".join([headline(report), judgment(report), "", tables_text(report), *notes])


def tables_text(report: ExposureReport) -> str:
    """The tables of a report for a terminal, and its statements about differential privacy."""
    against = rates_table(report)
    compared = [] if against is None else ["", str(against)]
    refuted = privacy_sentences(report) if report.rank_epsilons or report.epsilon else []
    return "\n".join([str(report_table(report)), *compared, *(["", *refuted] if refuted else [])])


def report_frame(report: ExposureReport) -> Any:
    """The table as a pandas DataFrame."""
    import pandas  # importing pandas takes half a second, and nothing else here needs it

    table = report_table(report)
    return pandas.DataFrame(list(table.rows), columns=list(table.heads))
