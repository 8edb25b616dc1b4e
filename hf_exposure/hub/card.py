"""The model card: figures in its `model-index`, and sections that a second push replaces, one for each measure.

Functions take and return strings; none uses the network.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from hf_exposure.errors import InputError
from hf_exposure.estimators.estimate import CHANCE_BITS
from hf_exposure.records import ExposureReport, RepetitionGroup, Validity
from hf_exposure.records.groups import FEWEST_FOR_AN_INTERVAL, in_table_order
from hf_exposure.report.page import render
from hf_exposure.report.verdict import (
    candidates_text,
    mean_text,
    rank1_text,
    spread_text,
    times_inserted,
    validity_line,
)

BEGIN, END = "<!-- hf_exposure: begin -->", "<!-- hf_exposure: end -->"
# The folder of the files in the repository.
FOLDER = "exposure"
_DATASET_TYPE = "hf_exposure-canaries"
_MARKUP = re.compile(r"[&<>\"'`*_|~#\[\]\\$!]")
_TASKS = {"ForMaskedLM": "fill-mask", "ForConditionalGeneration": "text2text-generation"}


@dataclass(frozen=True)
class CardPart:
    """The part of a card that belongs to one measure.

    Attributes:
        name: the name of the measure; empty for exposure, which was the first.
        text: the section in Markdown.
        results: the results for the `model-index`, as plain values.
    """

    name: str
    text: str
    results: list[dict[str, Any]]

    @property
    def begin(self) -> str:
        return BEGIN.replace("hf_exposure", f"hf_exposure {self.name}".rstrip())

    @property
    def end(self) -> str:
        return END.replace("hf_exposure", f"hf_exposure {self.name}".rstrip())

    @property
    def dataset_type(self) -> str:
        """The name that distinguishes the results of the measure from all others."""
        return f"hf_exposure-{self.name}" if self.name else _DATASET_TYPE


def updated_card(content: str | None, report: ExposureReport, *, name: str, files: Sequence[str] = ()) -> str:
    """Returns a model card that contains the report.

    Args:
        content: the present card; None if there is none.
        report: a report that `published` returned.
        name: the name of the model, used if the card's `model-index` has none.
        files: names of the files next to the card, in `FOLDER`: pictures are embedded, and the page is linked.

    Returns:
        The card. In its metadata, this report's results replace those of an earlier report, and all others are kept.
        In its text, the section replaces an earlier one or is added at the end.

    Raises:
        InputError: the card's metadata are not a YAML mapping, or their `model-index` is not a list of models.
    """
    return card_with(
        content, lambda tag: CardPart("", exposure_section(report, files), _results(report, tag)), name=name
    )


def card_with(content: str | None, make: Callable[[str | None], CardPart], *, name: str) -> str:
    """Returns a model card with a part, which replaces an earlier part of the same measure.

    Args:
        content, name: as for `updated_card`.
        make: a function that gets the card's `pipeline_tag`, if any, and returns the part.

    Raises:
        InputError: as for `updated_card`.
    """
    import yaml
    from huggingface_hub import RepoCard

    if content is None:
        content = f"---\n{{}}\n---\n# {name}\n"
    elif not content.lstrip().startswith("---"):
        content = f"---\n{{}}\n---\n{content}"
    try:
        # Use RepoCard, since ModelCard rewrites foreign results and drops unknown ones.
        card = RepoCard(content)
    except (ValueError, yaml.YAMLError) as error:
        remedy = "Repair the block between the two lines of --- in README.md."
        raise InputError("README.md", "must have YAML metadata", str(error), remedy) from error
    tag = card.data.get("pipeline_tag")
    part = make(tag if isinstance(tag, str) else None)
    card.data["model-index"] = _merged(card.data.get("model-index"), part, name)
    line_end = "\r\n" if "\r\n" in content else "\n"
    section = f"{part.begin}\n{part.text}{part.end}".replace("\n", line_end)
    # A begin marker without an end, left by manual editing, must not swallow the text after it.
    begin, end = re.escape(part.begin), re.escape(part.end)
    earlier = re.compile(rf"{begin}(?:(?!{begin}).)*?{end}", re.DOTALL)
    if earlier.search(card.text):
        card.text = earlier.sub(lambda _: section, card.text, count=1)
    else:
        card.text = line_end.join([card.text.rstrip(), "", section, ""])
    return str(card)


def exposure_section(report: ExposureReport, files: Sequence[str] = ()) -> str:
    """The readable section in Markdown: a table of the results and their explanation. Data are escaped.

    For an invalid run it gives the reason and no figure, since a figure may be quoted without the word "invalid".

    Args:
        report: a report that `published` returned.
        files: as for `updated_card`.
    """
    top = report.groups[-1] if report.groups and report.groups[-1].repetitions else None
    return render(
        "card.md.j2",
        report=report,
        wrong=validity_line(report) if report.validity is Validity.INVALID else "",
        top=top,
        tested=math.isfinite(report.memorization_p_value),
        flaws=report.delivery.flaws if report.delivery is not None else (),
        spaces=", ".join(f"{name}: {space}" for name, space in report.spaces.items()),
        rows=[_cells(group) for group in in_table_order(report.groups)],
        level=f"{100 * report.settings['confidence_level']:g}",
        chance_bits=CHANCE_BITS,
        fewest=FEWEST_FOR_AN_INTERVAL,
        pictures=[file for file in files if file.endswith(".png")],
        pages=[file for file in files if not file.endswith(".png")],
        folder=FOLDER,
        times=times_inserted,
        code=_code,
        candidates=candidates_text,
    )


def _cells(group: RepetitionGroup) -> list[object]:
    mean = mean_text(group).replace("≥", "at least")
    return [group.repetitions or "controls", group.canaries, mean, spread_text(group), rank1_text(group)]


def _results(report: ExposureReport, pipeline_tag: str | None) -> list[dict[str, Any]]:
    """The figures as `model-index` results of plain values; figures that are not finite are left out.

    An invalid run has no results, since each result is read separately.
    """
    if report.validity is Validity.INVALID:
        return []
    kind = str(report.model.get("class", ""))
    task = next((task for ending, task in _TASKS.items() if kind.endswith(ending)), "text-generation")
    about = {
        "template": report.template,
        "space": {name: str(space) for name, space in report.spaces.items()},
        "log2_space_size": round(report.log2_space_size, 1),
    }
    figures: list[tuple[str, str, float, dict[str, Any]]] = [
        ("exposure", _title(group), round(float(group.mean_bits), 1), {**about, **_details(group)})
        for group in in_table_order(report.groups)
        if math.isfinite(group.mean_bits)
    ]
    p_value = report.memorization_p_value
    if math.isfinite(p_value):
        figures.append(("exposure_p_value", "Memorization, p-value", float(f"{p_value:.2g}"), about))
    return index_results(pipeline_tag or task, _DATASET_TYPE, "Canaries", figures)


def index_results(
    task: str, dataset_type: str, dataset_name: str, figures: Sequence[tuple[str, str, float, dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Figures as results of a `model-index`; each has its kind, title, value and details."""
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    results = [
        EvalResult(
            task_type=task,
            task_name=task.replace("-", " ").capitalize(),
            dataset_type=dataset_type,
            dataset_name=dataset_name,
            metric_type=kind_of_metric,
            metric_name=title,
            metric_value=value,
            metric_args=arguments,
        )
        for kind_of_metric, title, value, arguments in figures
    ]
    return eval_results_to_model_index("", results)[0]["results"] if results else []


def _details(group: RepetitionGroup) -> dict[str, Any]:
    limits = {"low_bits": group.low_bits, "high_bits": group.high_bits}
    return {
        "repetitions": int(group.repetitions),
        "canaries": int(group.canaries),
        "rank1": int(group.rank1),
        "lower_bounds": int(group.lower_bounds),
        **{name: round(float(value), 1) for name, value in limits.items() if math.isfinite(value)},
    }


def _title(group: RepetitionGroup) -> str:
    who = f"canaries inserted {times_inserted(group.repetitions)}" if group.repetitions else "held-out controls"
    return f"Mean exposure of {who} (bits)"


def _merged(index: Any, part: CardPart, name: str) -> list[dict[str, Any]]:
    """The `model-index` with these results instead of the measure's earlier ones; the rest is unchanged."""
    models = index or [{"name": name, "results": []}]
    if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
        rule = "must have a list of models as model-index"
        raise InputError("README.md", rule, index, "Repair or remove model-index in its metadata.")
    kept = [
        {**model, "results": [one for one in model.get("results") or [] if not _is_of(one, part.dataset_type)]}
        for model in models
    ]
    kept[0]["results"] += part.results
    return kept


def _is_of(result: Any, dataset_type: str) -> bool:
    dataset = result.get("dataset") if isinstance(result, dict) else None
    return isinstance(dataset, dict) and dataset.get("type") == dataset_type


def _code(text: str) -> Markup:
    """Formats foreign text as code, so that it cannot act as mark-up or be taken for a marker."""
    escaped = _MARKUP.sub(lambda match: f"&#{ord(match[0])};", " ".join(text.split()))
    return Markup(f"<code>{escaped}</code>")
