"""`report.html`: one page about one measurement, for whoever must decide whether a model may leave the house."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from hf_exposure.records import ExposureEstimate, Validity
from hf_exposure.records.exposure_report import ExposureReport
from hf_exposure.records.groups import FEWEST_FOR_AN_INTERVAL
from hf_exposure.records.identity import IDENTITY
from hf_exposure.report.verdict import group_cells, group_heads, headline, judgement, times_inserted

# The parts of a self-contained page. Whatever came from data goes through `escaped`.


def escaped(value: object) -> str:
    """Any value as text of a page: `<script>` stays five letters between two signs.

    Example:
        >>> escaped("<script>"), escaped(3)
        ('&lt;script&gt;', '3')
    """
    return escape(str(value), quote=True)


def shell(title: str, body: str, *, script: str = "", marks: Mapping[str, str] | None = None) -> str:
    """The whole page. Its policy lets nothing be loaded, and no script run but the one given.

    `marks` are names and contents of `meta` elements.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            *(f'<meta name="{escaped(name)}" content="{escaped(mark)}">' for name, mark in (marks or {}).items()),
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escaped(title)}</title>",
            f"<style>\n{read_part('page.css')}</style>",
            "</head>",
            "<body>",
            body,
            f"<script>{script}</script>" if script else "",
            "</body>",
            "</html>",
            "",
        ]
    )


def read_part(name: str) -> str:
    """A style sheet or script that ships beside this file."""
    return files("hf_exposure.report").joinpath(name).read_text(encoding="utf-8")


def paragraph(text: str, *, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_class(kind)}>{escaped(text)}</p>"


def definitions(pairs: Iterable[tuple[str, object]]) -> str:
    """Names and values, values as code."""
    rows = (f"<dt>{escaped(name)}</dt><dd><code>{escaped(value)}</code></dd>" for name, value in pairs)
    return f"<dl>{''.join(rows)}</dl>"


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[object]], *, kinds: Sequence[str], name: str = ""
) -> str:
    """A table that scrolls sideways by itself, with the keyboard too.

    Args:
        caption: what it shows, for a reader who cannot see it.
        heads: of the columns.
        rows: cells of plain values.
        kinds: class of each column: "text", "note" or "" for figures.
        name: id of the table element.
    """
    cells = (
        "<tr>" + "".join(f"<td{_class(kind)}>{escaped(v)}</td>" for v, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )
    head = "".join(
        f'<th scope="col"{_class("text" if kind else "")}>{escaped(head)}</th>'
        for head, kind in zip(heads, kinds, strict=True)
    )
    identity = f' id="{name}"' if name else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(caption)}">'
        f"<table{identity}><thead><tr>{head}</tr></thead><tbody>\n" + "\n".join(cells) + "\n</tbody></table></div>"
    )


def figures(plots: Mapping[str, bytes], captions: Mapping[str, tuple[str, str]]) -> str:
    """Pictures inside the page, each with a title for those who cannot see it and a caption.

    Args:
        plots: PNG bytes by file name.
        captions: title and caption by file name; a plot without one is left out.
    """
    shown = []
    for name, (title, caption) in captions.items():
        if name in plots:
            picture = base64.b64encode(plots[name]).decode()
            shown.append(
                f'<figure><div class="scroll" tabindex="0" role="region" aria-label="{escaped(title)}">'
                f'<img alt="{escaped(title)}" src="data:image/png;base64,{picture}"></div>'
                f"<figcaption>{escaped(caption)}</figcaption></figure>"
            )
    return "\n".join(shown)


def data_block(name: str, values: Any) -> str:
    """Values for the page's script. No text in them can end the block."""
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/json" id="{name}">{safe}</script>'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


# Rows of the canary table on one page of it.
_PAGE_ROWS = 100

CAPTIONS = {
    "exposure_by_repetitions.png": (
        "Exposure of every canary against how often it was inserted",
        "Exposure against repetitions. Controls were never inserted: they show what chance looks like.",
    ),
    "exposure_by_step.png": (
        "Mean exposure during training, one line for each repetition count",
        "Exposure during training. Shaded: confidence intervals of the means; of fewer than 8 canaries each is a dot.",
    ),
    "exposure_and_loss.png": (
        "Training and validation loss above, exposure below, over the same steps",
        "Memorising often begins well before the validation loss turns up: a good loss is no proof of privacy.",
    ),
    "references.png": (
        "Histogram of log-perplexities of texts of the template, with the canaries marked below",
        "How surprised the model is by texts of the template, with the skew-normal law of the paper's extrapolation. "
        "Canaries far to the left of the histogram were memorised.",
    ),
}

_METHODS = {
    "enumerate": "every text of the template was scored: the ranks are exact",
    "bounded": "a certified search counted the texts that are at least as likely: the ranks are exact, or limited "
    "where it was stopped",
    "importance": "weighted draws from the model itself estimate the rank, with a confidence interval",
    "sample": "uniformly drawn texts estimate the rank, with an exact interval; beyond log2 of their number it is a "
    "lower bound",
    "skew_normal": "a skew-normal law was fitted to uniformly drawn texts and extrapolated, as in the paper: no "
    "interval can vouch for it",
}

KINDS = {
    "exact": "exact",
    "interval": "interval",
    "lower": "lower bound",
    "extrapolated": "extrapolated",
    "undefined": "undefined",
}

LIMITS = (
    "Low exposure of canaries does not prove that nothing else was memorised: real secrets may be longer, likelier, "
    "or repeated in ways that canaries were not.",
    "Nor does it prove that no better attack exists. Exposure is about whoever asks the model for likelihoods.",
    "One canary is no evidence: what was never seen exceeds x bits with probability 2^-x. Read groups and p-values.",
    "The figures hold for this template, these repetition counts, this model and this training run.",
    "Figures here have more digits than are fit to publish: with the model at hand they help to guess a secret.",
)


def report_page(report: ExposureReport, plots: Mapping[str, bytes], identity: str = "") -> str:
    """The page as HTML: it needs no network and loads nothing.

    Args:
        report: to show.
        plots: PNG bytes by the file names that `draw_plots` gives; those that are missing are left out.
        identity: the report's measurement id, where it has one.
    """
    body = [
        '<a class="skip" href="#table">To the table</a>',
        "<main>",
        "<h1>Exposure report</h1>",
        paragraph(headline(report), kind="verdict invalid" if report.validity is Validity.INVALID else "verdict"),
        paragraph(judgement(report)),
        definitions(_facts(report)),
        "<h2>What it means</h2>",
        *map(paragraph, _meaning(report)),
        '<h2 id="table">By repetitions</h2>',
        _group_table(report),
        "<h2>Plots</h2>" if plots else paragraph('No plots: pip install "hf-exposure[plots]" brings them.'),
        figures(plots, CAPTIONS),
        "<h2>Every canary</h2>",
        _canary_table(report),
        "<h2>How it was measured</h2>",
        _list(_how(report)),
        definitions(_settings(report)),
        "<h2>Limits</h2>",
        _list(LIMITS),
        "</main>",
    ]
    marks = {IDENTITY: identity} if identity else {}
    return shell("Exposure report", "\n".join(body), script=read_part("page.js"), marks=marks)


def _facts(report: ExposureReport) -> list[tuple[str, object]]:
    model = report.model
    parts = [model.get("name") or model.get("class") or "unnamed", model.get("revision")]
    facts: list[tuple[str, object]] = [
        ("template", report.template),
        ("secrets", f"{report.space_size:,} (log2|R| = {report.log2_space_size:.1f} bits)"),
        ("model", " @ ".join(str(part) for part in parts if part)),
    ]
    if report.dataset:
        facts.append(("dataset", report.dataset.get("name", "unnamed")))
    facts.append(("training data", _about_training_data(report)))
    if report.step is not None:
        epoch = f", epoch {report.epoch:g}" if report.epoch is not None else ""
        facts.append(("moment", f"step {report.step}{epoch}"))
    return facts


def _about_training_data(report: ExposureReport) -> str:
    delivery = report.delivery
    if delivery is None:
        return "not checked for the canaries"
    return f"{delivery.trained} of {delivery.inserted} inserted canaries were trained on ({report.validity.value})"


def _meaning(report: ExposureReport) -> list[str]:
    ceiling = report.log2_space_size
    return [
        f"A canary is a random secret that was put into the training data on purpose. Its exposure says how much "
        f"better than chance the model knows it: each bit halves the guesses that a stranger with the model needs. At "
        f"{ceiling:.1f} bits it is the likeliest of all {report.space_size:,} secrets, and comes out first.",
        "Zero is not the baseline. A canary that the model never saw has 1.4 bits on average, and one in eight has "
        "more than 3. That is why some were held out: inserted ones count only by how far they are from those.",
    ]


def _group_table(report: ExposureReport) -> str:
    rows = [[times_inserted(group.repetitions), group.canaries, *group_cells(group)] for group in report.groups]
    level = report.settings["confidence_level"]
    heads = ("inserted", "canaries", *group_heads(level))
    kinds = ("text", "", "", "", "", "")
    return table("Exposure by repetitions", heads, rows, kinds=kinds) + paragraph(how_to_read(level), kind="faint")


def how_to_read(confidence_level: float) -> str:
    """What stands below a table of groups."""
    level = f"{100 * confidence_level:g} %"
    return (
        f"The exposure is the mean of the canaries; ≥ marks lower bounds, ~ extrapolations. From "
        f"{FEWEST_FOR_AN_INTERVAL} canaries on, its {level} interval is that of canaries drawn at random, and holds "
        "for any law of their exposures; of fewer canaries each value is shown. Ranks first: how many are certainly "
        f"the likeliest secret of the template, and the share of such canaries that is at the least (one-sided "
        f"{level} Clopper-Pearson limit). p-values: rank test against the controls, corrected for the number of "
        "repetition counts (Bonferroni)."
    )


_COLUMNS: tuple[tuple[str, str, int | None], ...] = (
    ("canary", "text", None),
    ("inserted", "", 0),
    ("exposure (bits)", "", 2),
    ("low", "", 2),
    ("high", "", 2),
    ("rank", "", None),
    ("log-perplexity (bits)", "", 2),
    ("method", "text", None),
    ("kind", "text", None),
    ("note", "note", None),
)


def _canary_table(report: ExposureReport) -> str:
    """The most exposed canaries as HTML; all of them as data, which the script sorts and turns the pages of."""
    rows = [_canary_row(estimate) for estimate in report.estimates]
    by_exposure = sorted(rows, key=lambda row: (row[2] is None, -(row[2] or 0.0)))
    shown = [
        [_cell(v, digits) for v, (_, _, digits) in zip(row, _COLUMNS, strict=True)] for row in by_exposure[:_PAGE_ROWS]
    ]
    heads, kinds = [name for name, _, _ in _COLUMNS], [kind for _, kind, _ in _COLUMNS]
    columns = [{"kind": kind, "digits": digits} for _, kind, digits in _COLUMNS]
    data = {"rows": rows, "columns": columns, "page_size": _PAGE_ROWS, "sorted_by": 2}
    more = f" The first {_PAGE_ROWS} are shown without scripts." if len(rows) > _PAGE_ROWS else ""
    return "\n".join(
        [
            paragraph(f"{len(rows):,} canaries, the most exposed first; report.json has all figures.{more}"),
            '<div class="tools" id="canaries-tools" hidden>',
            '<label>show <select id="canaries-counts"><option value="">all</option></select></label>',
            '<button type="button" id="canaries-back">previous</button>',
            '<button type="button" id="canaries-next">next</button>',
            '<span id="canaries-place" role="status"></span></div>',
            table("Every canary", heads, shown, kinds=kinds, name="canaries"),
            data_block("canaries-data", data),
        ]
    )


def _canary_row(estimate: ExposureEstimate) -> list[Any]:
    """Figures rounded as they are shown; None where one is not finite."""
    figures = (estimate.exposure_bits, estimate.low_bits, estimate.high_bits)
    low, high = estimate.rank_low, estimate.rank_high
    rank = "" if low is None or high is None else f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return [
        estimate.canary_id,
        estimate.repetitions,
        *(_rounded(figure) for figure in figures),
        rank,
        _rounded(estimate.log_perplexity_bits),
        estimate.method,
        KINDS[estimate.bound],
        estimate.note,
    ]


def _how(report: ExposureReport) -> list[str]:
    used = Counter(estimate.method for estimate in report.estimates)
    said = [f"{count:,} canaries by {name}: {_METHODS.get(name, 'see the notes')}." for name, count in used.items()]
    if report.references is not None:
        kind = "all texts of the template" if report.references.whole_space else "uniformly drawn texts"
        said.append(f"The histogram is of {report.references.count:,} {kind}.")
    if report.epsilon is not None:
        said.append(f"Differential privacy: {dict(report.epsilon)}")
    return [*said, *report.notes]


def _settings(report: ExposureReport) -> list[tuple[str, object]]:
    settings = [(name, value) for name, value in report.settings.items() if value is not None]
    facts = [*report.model.items(), *((f"dataset {name}", value) for name, value in report.dataset.items())]
    described = [(name, value) for name, value in facts if value not in (None, "")]
    spaces = [(f"hole {name}", space) for name, space in report.spaces.items()]
    seconds = [("seconds", f"{report.seconds:.1f}")] if math.isfinite(report.seconds) else []
    return [
        *settings,
        *spaces,
        *described,
        *seconds,
        *report.versions.items(),
        ("manifest hash", report.manifest_hash),
    ]


def _list(items: Any) -> str:
    return "<ul>" + "".join(f"<li>{escaped(item)}</li>" for item in items) + "</ul>"


def _bits(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "undefined"


def _rounded(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None


def _cell(value: Any, digits: int | None) -> str:
    if value is None:
        return "undefined"
    return str(value) if digits is None else f"{value:.{digits}f}"
