"""`report.html`: one page about one measurement, for whoever must decide whether a model may leave the house."""

from __future__ import annotations

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from hf_exposure.estimators.estimate import CHANCE_BITS
from hf_exposure.records import ExposureEstimate, Validity
from hf_exposure.records.exposure_report import ExposureReport
from hf_exposure.records.groups import FEWEST_FOR_AN_INTERVAL
from hf_exposure.report.table import Table, group_table, report_table
from hf_exposure.report.verdict import dose_lines, headline, judgement


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hf_exposure.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    environment.filters["sha256"] = lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def render(template: str, **values: Any) -> str:
    """A page from one of the templates next to this file; what comes from data is escaped."""
    return _environment().get_template(template).render(values)


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
    level = report.settings["confidence_level"]
    canaries, data = _canary_table(report)
    return render(
        "report.html.j2",
        script=_script(),
        identity=identity,
        report=report,
        headline=headline(report),
        judgement=judgement(report),
        invalid=report.validity is Validity.INVALID,
        facts=_facts(report),
        chance_bits=CHANCE_BITS,
        groups=group_table(report.groups, level),
        how_to_read=how_to_read(level),
        plots=plots,
        captions=CAPTIONS,
        page_rows=_PAGE_ROWS,
        canaries=canaries,
        canaries_data=data,
        how=_how(report),
        settings=_settings(report),
        limits=LIMITS,
    )


def report_html(report: ExposureReport) -> str:
    """What a notebook shows of a report: the verdict, the table and the notes of `print(report)`, as HTML."""
    return render(
        "notebook.html.j2",
        headline=headline(report),
        judgement=judgement(report),
        table=report_table(report),
        notes=[*dose_lines(report), *report.notes],
    )


def _script() -> str:
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, "page.js")[0]


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


_TRAINED, _EXPOSURE = "times trained on", "exposure (bits)"
_COLUMNS: tuple[tuple[str, str, int | None], ...] = (
    ("canary", "text", None),
    ("inserted", "", 0),
    (_TRAINED, "", 1),
    (_EXPOSURE, "", 2),
    ("low", "", 2),
    ("high", "", 2),
    ("rank", "", None),
    ("log-perplexity (bits)", "", 2),
    ("method", "text", None),
    ("kind", "text", None),
    ("note", "note", None),
)


def _canary_table(report: ExposureReport) -> tuple[Table, dict[str, Any]]:
    """The most exposed canaries as a table; all of them as data, which the script sorts and turns the pages of."""
    knows_doses = any(math.isfinite(estimate.effective_dose) for estimate in report.estimates)
    shown = [place for place, (name, _, _) in enumerate(_COLUMNS) if knows_doses or name != _TRAINED]
    of_column = [_COLUMNS[place] for place in shown]
    by = [name for name, _, _ in of_column].index(_EXPOSURE)
    rows = [[_canary_row(estimate)[place] for place in shown] for estimate in report.estimates]
    by_exposure = sorted(rows, key=lambda row: (row[by] is None, -(row[by] or 0.0)))
    table = Table(
        caption="Every canary",
        heads=[name for name, _, _ in of_column],
        rows=[
            [_cell(value, digits) for value, (_, _, digits) in zip(row, of_column, strict=True)]
            for row in by_exposure[:_PAGE_ROWS]
        ],
        kinds=[kind for _, kind, _ in of_column],
    )
    columns = [{"kind": kind, "digits": digits} for _, kind, digits in of_column]
    return table, {"rows": rows, "columns": columns, "page_size": _PAGE_ROWS, "sorted_by": by}


def _canary_row(estimate: ExposureEstimate) -> list[Any]:
    """Figures rounded as they are shown; None where one is not finite."""
    figures = (estimate.exposure_bits, estimate.low_bits, estimate.high_bits)
    low, high = estimate.rank_low, estimate.rank_high
    rank = "" if low is None or high is None else f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return [
        estimate.canary_id,
        estimate.repetitions,
        _rounded(estimate.effective_dose),
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
    return [*said, *dose_lines(report), *report.notes]


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


def _rounded(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None


def _cell(value: Any, digits: int | None) -> str:
    if value is None:
        return "undefined"
    return str(value) if digits is None else f"{value:.{digits}f}"
