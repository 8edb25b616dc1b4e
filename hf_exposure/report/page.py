"""`report.html`: one page about one measurement, for people who must decide whether to release a model."""

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
from hf_exposure.estimators.forecast import ExposureForecast
from hf_exposure.records import ExposureEstimate, Validity
from hf_exposure.records.exposure_report import ExposureReport
from hf_exposure.records.groups import FEWEST_FOR_AN_INTERVAL
from hf_exposure.report.forecast import HOW_A_FORECAST_IS_READ, forecast_table
from hf_exposure.report.outcome import OUTCOME_COLORS, outcome_text
from hf_exposure.report.privacy import privacy_sentences
from hf_exposure.report.table import Table, group_table, rates_table, report_table
from hf_exposure.report.verdict import dose_lines, headline, judgment


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
    """Renders one of the templates next to this file; values from data are escaped."""
    return _environment().get_template(template).render(values)


# Number of rows on one page of the canary table.
_PAGE_ROWS = 100

CAPTIONS = {
    "exposure_by_repetitions.png": (
        "Exposure of every canary against how often it was inserted",
        "Exposure against repetitions, one mark for each canary with its interval. The shaded bands contain 50, 90 "
        "and 99 % of canaries that the model never saw (exposure exceeds x bits with probability 2^-x).",
    ),
    "roc.png": (
        "True-positive rate against false-positive rate, one curve for each repetition count",
        "The share of canaries recognized at each false-positive rate on held-out controls. A curve above the dotted "
        "line shows memorization; its left end counts most.",
    ),
    "exposure_by_step.png": (
        "Mean exposure during training, one line for each repetition count",
        "Exposure during training. Shaded: confidence intervals of the means; for fewer than 8 canaries, each canary "
        "is a dot.",
    ),
    "exposure_and_loss.png": (
        "Training and validation loss above, exposure below, over the same steps",
        "Memorization often begins well before the validation loss starts to rise: a good loss does not prove "
        "privacy.",
    ),
    "references.png": (
        "Histogram of log-perplexities of texts of the template, with the canaries marked below",
        "How surprised the model is by texts of the template. Canaries far to the left of the histogram were "
        "memorized. The curve of a fitted law is drawn only if figures rest on it.",
    ),
}

_METHODS = {
    "enumerate": "every text of the template was scored: the ranks are exact",
    "bounded": "a certified search counted the texts that are at least as likely: the ranks are exact, or bounded if "
    "the search was stopped",
    "importance": "weighted draws from the model itself estimate the rank, with a confidence interval",
    "sample": "uniformly drawn texts estimate the rank, with an exact interval; beyond log2 of their number it is a "
    "lower bound",
    "skew_normal": "a skew-normal law was fitted to uniformly drawn texts and extrapolated, as in the paper, "
    "without a valid interval",
}

KINDS = {
    "exact": "exact",
    "interval": "interval",
    "lower": "lower bound",
    "extrapolated": "extrapolated",
    "undefined": "undefined",
}

LIMITS = (
    "Low exposure of canaries does not prove that nothing else was memorized: real secrets may be longer, more "
    "likely, or repeated in ways that canaries were not.",
    "Nor does it prove that no better attack exists. Exposure concerns attackers who query the model for likelihoods.",
    "One canary proves nothing: a canary the model never saw exceeds x bits with probability 2^-x. Read groups and "
    "p-values.",
    "The figures hold for this template, these repetition counts, this model and this training run.",
    "The figures here are too precise to publish: someone with the model can use them to guess a secret.",
)


def report_page(
    report: ExposureReport,
    plots: Mapping[str, bytes],
    identity: str = "",
    forecasts: Mapping[int, ExposureForecast] | None = None,
) -> str:
    """The page as HTML. It loads nothing from the network.

    Args:
        report: the report to show.
        plots: PNG bytes by file name, as named by `draw_plots`; missing plots are left out.
        identity: the report's measurement id, if it has one.
        forecasts: forecasts for an unfinished training, by repetitions (`forecast_exposures`).
    """
    level = report.settings["confidence_level"]
    canaries, data = _canary_table(report)
    return render(
        "report.html.j2",
        script=_script(),
        identity=identity,
        report=report,
        headline=headline(report),
        judgment=judgment(report),
        invalid=report.validity is Validity.INVALID,
        outcome=report.outcome,
        outcome_color=OUTCOME_COLORS[report.outcome],
        outcome_text=outcome_text(report),
        facts=facts_of(report, identity),
        chance_bits=CHANCE_BITS,
        groups=group_table(report.groups, level),
        how_to_read=how_to_read(level),
        forecast=forecast_table(forecasts or {}, report),
        how_forecast=HOW_A_FORECAST_IS_READ,
        rates=rates_table(report),
        how_rates_are_read=how_rates_are_read(level),
        privacy=privacy_sentences(report),
        plots=plots,
        captions=CAPTIONS,
        page_rows=_PAGE_ROWS,
        canaries=canaries,
        canaries_data=data,
        how=how_measured(report),
        settings=settings_groups(report),
        limits=LIMITS,
    )


def report_html(report: ExposureReport) -> str:
    """The HTML that a notebook shows for a report: the verdict, the table and the notes of `print(report)`."""
    return render(
        "notebook.html.j2",
        headline=headline(report),
        judgment=judgment(report),
        table=report_table(report),
        rates=rates_table(report),
        privacy=privacy_sentences(report),
        notes=[*dose_lines(report), *report.notes],
    )


def _script() -> str:
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, "page.js")[0]


def facts_of(report: ExposureReport, identity: str = "") -> list[tuple[str, object]]:
    """The facts at the top of the page that distinguish one report from another."""
    model, run = report.model, report.run
    parts = [model.get("name") or model.get("class") or "unnamed", model.get("revision")]
    facts: list[tuple[str, object]] = []
    if run is not None:
        facts += [("run", run.name), ("measured (UTC)", run.measured_at)]
    facts += [
        ("model", " @ ".join(str(part) for part in parts if part)),
        ("weights", "" if run is None or not run.weights_sha256 else f"SHA-256 {run.weights_sha256}"),
    ]
    if report.step is not None:
        epoch = f", epoch {report.epoch:g}" if report.epoch is not None else ""
        facts.append(("checkpoint", f"step {report.step}{epoch}"))
    facts.append(("training data", "; ".join(_about_training_data(report))))
    facts += [
        ("template", report.template),
        ("candidate secrets", f"{report.space_size:,} (log2|R| = {report.log2_space_size:.1f} bits)"),
        ("canary set", report.manifest_hash),
        ("measurement id", identity),
    ]
    return [(name, value) for name, value in facts if value]


def _about_training_data(report: ExposureReport) -> list[str]:
    delivery, data = report.delivery, report.dataset
    rows = data.get("rows")
    counts = rows if isinstance(rows, Mapping) else {"": rows}
    said = [str(data["name"])] if data.get("name") else []
    said += [
        f"{f'{part}: ' if part else ''}{count:,} rows" for part, count in counts.items() if isinstance(count, int)
    ]
    said += [f"fingerprint {data['fingerprint']}"] if data.get("fingerprint") else []
    if delivery is None:
        return [*said, "not checked for the canaries"]
    return [*said, f"{delivery.trained} of {delivery.inserted} inserted canaries trained on ({report.validity.value})"]


def how_to_read(confidence_level: float) -> str:
    """The explanation below a table of groups."""
    level = f"{100 * confidence_level:g} %"
    return (
        "The exposure is the mean of the canaries; ≥ marks lower bounds, ~ extrapolations. With "
        f"{FEWEST_FOR_AN_INTERVAL} or more canaries, it has a {level} interval, which is valid for canaries drawn at "
        "random, whatever the distribution of their exposures; for fewer canaries each value is shown. Ranks first: "
        "the "
        "number of canaries that certainly rank first among all candidate secrets, and a lower limit of the share of "
        f"such canaries that do (one-sided {level} Clopper-Pearson limit). p-values: rank test against the controls, "
        "corrected for the number of repetition counts (Bonferroni)."
    )


def how_rates_are_read(confidence_level: float) -> str:
    """The explanation below the table of canaries against controls."""
    level = f"{100 * confidence_level:g} %"
    return (
        "TPR at 10 % FPR: the share of canaries that the model finds more likely than 90 % of the controls. Its "
        "{level} interval takes the number of canaries and of controls into account; with fewer controls than a rate "
        "needs, it is undefined. AUC: how often an inserted canary is more likely than a control. "
        "Epsilon refuted (by the canaries' ranks): training is not epsilon-private for any smaller epsilon, if the "
        f"record is a canary with all its repetitions (substitution; one-sided at {level}, for all repetition counts "
        "together)."
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
    ("guesses (log2)", "", 2),
    ("lead (bits)", "", 2),
    ("log-perplexity (bits)", "", 2),
    ("method", "text", None),
    ("kind", "text", None),
    ("note", "note", None),
)
_WHERE_KNOWN = (_TRAINED, "rank", "guesses (log2)", "lead (bits)", "note")


def _canary_table(report: ExposureReport) -> tuple[Table, dict[str, Any]]:
    """The most exposed canaries as a table, and all of them as data, which the script sorts and pages through."""
    whole = [_canary_row(estimate) for estimate in report.estimates]
    # Some runs have no doses, leads or notes.
    shown = [
        place
        for place, (name, _, _) in enumerate(_COLUMNS)
        if name not in _WHERE_KNOWN or any(row[place] not in (None, "") for row in whole)
    ]
    of_column = [_COLUMNS[place] for place in shown]
    by = [name for name, _, _ in of_column].index(_EXPOSURE)
    rows = [[row[place] for place in shown] for row in whole]
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
    """Figures rounded as shown; None for figures that are not finite."""
    figures = (estimate.exposure_bits, estimate.low_bits, estimate.high_bits)
    low, high = estimate.rank_low, estimate.rank_high
    rank = "" if low is None or high is None else f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return [
        estimate.canary_id,
        estimate.repetitions,
        _rounded(estimate.effective_dose),
        *(_rounded(figure) for figure in figures),
        rank,
        _rounded(estimate.guessing_entropy_bits),
        _rounded(estimate.lead_bits),
        _rounded(estimate.log_perplexity_bits),
        estimate.method,
        KINDS[estimate.bound],
        estimate.note,
    ]


def how_measured(report: ExposureReport) -> list[str]:
    """The methods by which the canaries were measured, the contents of the histogram, and the notes."""
    used = Counter(estimate.method for estimate in report.estimates)
    said = [f"{count:,} canaries by {name}: {_METHODS.get(name, 'see the notes')}." for name, count in used.items()]
    if report.references is not None:
        kind = "all texts of the template" if report.references.whole_space else "uniformly drawn texts"
        said.append(f"The histogram shows {report.references.count:,} {kind}.")
    return [*said, *dose_lines(report), *report.notes]


# Readable names of arguments and recorded facts; others are shown by their own name.
_PLAIN_NAMES = {
    "references": "maximum number of references",
    "max_expansions": "budget of one search (expansions)",
    "precision_bits": "drawing stops at an interval of (bits)",
    "confidence_level": "confidence level of intervals",
    "seed": "seed of the draws",
    "delta": "delta of differential privacy",
    "end_token": "end of each text scored",
    "accept_bad_fit": "figures of a bad fit accepted",
    "max_batch_tokens": "maximum number of tokens in a batch",
    "source": "input of the encoder",
    "context": "text before each canary",
    "lead": "lead over other secrets computed",
    "class": "kind",
    "dtype": "number format",
    "strategy": "measured",
    "steps": "interval of measurements (steps)",
    "baseline": "measured before the first step",
    "on_error": "if a measurement fails",
    "max_exposure": "exposure limit (bits)",
    "require_delivery": "canaries must be in the data",
    "count_doses": "times trained on counted",
    "base_model": "base model",
    "output_dir": "output folder",
    "num_train_epochs": "maximum number of epochs",
    "max_steps": "maximum number of steps (-1: by epochs)",
    "per_device_train_batch_size": "batch size per device",
    "gradient_accumulation_steps": "batches per step",
    "learning_rate": "learning rate",
    "text_column": "text column",
    "rows_before": "rows without canaries",
    "manifest_hash": "canary set (salted hash)",
    "measures": "measures",
}


def settings_groups(report: ExposureReport) -> list[tuple[str, list[tuple[str, object]]]]:
    """Everything known about how the figures were obtained, under readable names; unknown values are left out."""
    run = report.run
    limit = None
    if run is not None and run.threshold_bits is not None:
        limit = f"{run.threshold_bits:g} bits, mean of {run.threshold_of}"
    seconds = f"{report.seconds:.1f}" if math.isfinite(report.seconds) else None
    data = {name: value for name, value in report.dataset.items() if name != "manifest_hash"}
    groups: list[tuple[str, Mapping[str, object]]] = [
        (
            "Run",
            {
                "name": run and run.name,
                "date and time (UTC)": run and run.measured_at,
                "command": run and run.command,
                "threshold": limit,
                "seconds": seconds,
            },
        ),
        ("Callback and training", {} if run is None else {**run.arguments, "measures": None}),
        ("Model", {**report.model, "weights (SHA-256)": run and run.weights_sha256, "read as": report.scoring_mode}),
        ("Training data", data),
        (
            "Canaries",
            {
                "template": report.template,
                **{f"{{{name}}} is filled from": space for name, space in report.spaces.items()},
                "candidate secrets": f"{report.space_size:,}",
                "canary set (salted hash)": report.manifest_hash,
            },
        ),
        ("Measurement", report.settings),
        ("Software", report.versions),
    ]
    shown = [
        (title, [(_PLAIN_NAMES.get(name, name), _plain(value)) for name, value in pairs.items() if _is_known(value)])
        for title, pairs in groups
    ]
    return [(title, pairs) for title, pairs in shown if pairs]


def _is_known(value: object) -> bool:
    return value is not None and value != "" and value != {}


def _plain(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else value


def _rounded(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None


def _cell(value: Any, digits: int | None) -> str:
    if value is None:
        return "undefined"
    return str(value) if digits is None else f"{value:.{digits}f}"
