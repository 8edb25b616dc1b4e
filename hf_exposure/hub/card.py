"""The model card: figures in its `model-index`, and a section that a second push replaces.

Strings in, strings out; nothing here knows of a network.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from hf_exposure.errors import InputError
from hf_exposure.records import ExposureReport, RepetitionGroup, Validity
from hf_exposure.records.groups import FEWEST_FOR_AN_INTERVAL
from hf_exposure.report.verdict import mean_text, rank1_text, spread_text, validity_line

BEGIN, END = "<!-- hf_exposure: begin -->", "<!-- hf_exposure: end -->"
# Of the files in the repository.
FOLDER = "exposure"
_DATASET_TYPE = "hf_exposure-canaries"
_NULL_MEAN_BITS = 1.44
_HEADING = "## Memorisation: exposure of canaries"
_NO_FIGURES = "Canaries that were not trained on cannot show whether the model memorizes, so no figures are given."
# A begin without an end, left by an editor's hand, must not swallow what follows it.
_SECTION = re.compile(rf"{re.escape(BEGIN)}(?:(?!{re.escape(BEGIN)}).)*?{re.escape(END)}", re.DOTALL)
_MARKUP = re.compile(r"[&<>\"'`*_|~#\[\]\\$!]")
_TASKS = {"ForMaskedLM": "fill-mask", "ForConditionalGeneration": "text2text-generation"}


def updated_card(content: str | None, report: ExposureReport, *, name: str, files: Sequence[str] = ()) -> str:
    """A model card with the report in it.

    Args:
        content: the card as it is, None where there is none.
        report: what `published` returns.
        name: of the model, where the card's `model-index` gives none.
        files: names of the files beside the card, in `FOLDER`: pictures are shown, the page is linked.

    Returns:
        the card: its metadata with this report's results in place of an earlier report's, all others kept; its text
        with the section in place of an earlier one, or at the end.

    Raises:
        InputError: the card's metadata are no YAML mapping, or their `model-index` is no list of models.
    """
    import yaml
    from huggingface_hub import RepoCard

    if content is None:
        content = f"---\n{{}}\n---\n# {name}\n"
    elif not content.lstrip().startswith("---"):
        content = f"---\n{{}}\n---\n{content}"
    try:
        # RepoCard, not ModelCard: that one rewrites foreign results, and drops what it does not know.
        card = RepoCard(content)
    except (ValueError, yaml.YAMLError) as error:
        remedy = "Mend the block between the two lines of --- in README.md."
        raise InputError("README.md", "must have YAML metadata", str(error), remedy) from error
    card.data["model-index"] = _merged(
        card.data.get("model-index"), _results(report, card.data.get("pipeline_tag")), name
    )
    line_end = "\r\n" if "\r\n" in content else "\n"
    section = f"{BEGIN}\n{exposure_section(report, files)}{END}".replace("\n", line_end)
    if _SECTION.search(card.text):
        card.text = _SECTION.sub(lambda _: section, card.text, count=1)
    else:
        card.text = line_end.join([card.text.rstrip(), "", section, ""])
    return str(card)


def exposure_section(report: ExposureReport, files: Sequence[str] = ()) -> str:
    """The readable part: what was found, in a table, and what it means. Markdown; data are escaped.

    Of an invalid run it says why it is invalid, and no figure: a figure may be quoted without the word.

    Args:
        report: what `published` returns.
        files: as for `updated_card`.
    """
    if report.validity is Validity.INVALID:
        return "\n\n".join([_HEADING, f"**{validity_line(report)}** {_NO_FIGURES}", _links(files)]) + "\n"
    rows = [
        "| times inserted | canaries | mean exposure (bits) | interval, or each value | ranks first |",
        "|---|---|---|---|---|",
        *(_row(group) for group in _controls_last(report)),
    ]
    spaces = ", ".join(f"{name}: {space}" for name, space in report.spaces.items())
    level = 100 * report.settings["confidence_level"]
    parts = [
        _HEADING,
        f"{_verdict(report)} Random secrets of the form {_code(report.template)} ({_code(spaces)}) were inserted into "
        "the training data; controls were held out.",
        "\n".join(rows),
        f"Exposure is log2 of the number of possible secrets ({report.log2_space_size:.1f} bits) less log2 of the "
        "secret's rank among them under this model: each bit halves a stranger's guesses. A secret that the model "
        f"never saw has {_NULL_MEAN_BITS} bits on average. Intervals are of the mean, {level:g} %; of fewer than "
        f"{FEWEST_FOR_AN_INTERVAL} canaries each value is shown. The share that ranks first is a one-sided limit at "
        f"{level:g} %, and p is corrected for the number of repetition counts. Figures are rounded to 0.1 bit. Low "
        "exposure does not prove that nothing was memorised.",
        *(f"![{_alt(file)}]({FOLDER}/{file})" for file in files if file.endswith(".png")),
        _links(files),
    ]
    return "\n\n".join(parts) + "\n"


def _verdict(report: ExposureReport) -> str:
    """One sentence of counts, and one of the test against the controls, where there were some."""
    sentences = [
        f"**{group.rank1} of {group.canaries} canaries inserted {_times(group.repetitions)} "
        f"{'is' if group.rank1 == 1 else 'are'} the likeliest secret of their template.**"
        for group in report.groups[-1:]
        if group.repetitions
    ]
    p_value = report.memorisation_p_value
    if math.isfinite(p_value):
        sentences.append(f"Against held-out controls: p = {p_value:.2g}.")
    if report.delivery is not None and report.delivery.flaws:
        sentences.append(f"Note that {'; '.join(report.delivery.flaws)}.")
    return " ".join(sentences)


def _row(group: RepetitionGroup) -> str:
    name = str(group.repetitions) if group.repetitions else "controls"
    mean = mean_text(group).replace("≥", "at least")
    return f"| {name} | {group.canaries} | {mean} | {spread_text(group)} | {rank1_text(group)} |"


def _links(files: Sequence[str]) -> str:
    pages = [file for file in files if not file.endswith(".png")]
    links = ", ".join(f"[{page}]({FOLDER}/{page})" for page in pages)
    measured = "Measured with hf_exposure, after [The Secret Sharer](https://arxiv.org/abs/1802.08232)."
    return f"{measured} Figures: {links}." if links else measured


def _results(report: ExposureReport, pipeline_tag: Any) -> list[dict[str, Any]]:
    """The figures as `model-index` results. Plain values; a figure that is not finite is left out.

    An invalid run has none: each result is read by itself.
    """
    if report.validity is Validity.INVALID:
        return []
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    kind = str(report.model.get("class", ""))
    task = next((task for ending, task in _TASKS.items() if kind.endswith(ending)), "text-generation")
    task = pipeline_tag if isinstance(pipeline_tag, str) else task
    about = {
        "template": report.template,
        "space": {name: str(space) for name, space in report.spaces.items()},
        "log2_space_size": round(report.log2_space_size, 1),
    }
    figures: list[tuple[str, str, float, dict[str, Any]]] = [
        ("exposure", _title(group), round(float(group.mean_bits), 1), {**about, **_details(group)})
        for group in _controls_last(report)
        if math.isfinite(group.mean_bits)
    ]
    p_value = report.memorisation_p_value
    if math.isfinite(p_value):
        figures.append(("exposure_p_value", "Memorisation, p-value", float(f"{p_value:.2g}"), about))
    results = [
        EvalResult(
            task_type=task,
            task_name=task.replace("-", " ").capitalize(),
            dataset_type=_DATASET_TYPE,
            dataset_name="Canaries",
            metric_type=kind_of_metric,
            metric_name=title,
            metric_value=value,
            metric_args=arguments,
        )
        for kind_of_metric, title, value, arguments in figures
    ]
    return eval_results_to_model_index("", results)[0]["results"] if results else []


def _controls_last(report: ExposureReport) -> list[RepetitionGroup]:
    return sorted(report.groups, key=lambda group: (group.repetitions == 0, group.repetitions))


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
    who = f"canaries inserted {_times(group.repetitions)}" if group.repetitions else "held-out controls"
    return f"Mean exposure of {who} (bits)"


def _times(repetitions: int) -> str:
    return "once" if repetitions == 1 else f"{repetitions} times"


def _merged(index: Any, results: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The `model-index` with these results instead of earlier ones of ours; the rest as it was."""
    models = index or [{"name": name, "results": []}]
    if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
        rule = "must have a list of models as model-index"
        raise InputError("README.md", rule, index, "Mend or remove model-index in its metadata.")
    kept = [
        {**model, "results": [result for result in model.get("results") or [] if not _is_ours(result)]}
        for model in models
    ]
    kept[0]["results"] += results
    return kept


def _is_ours(result: Any) -> bool:
    dataset = result.get("dataset") if isinstance(result, dict) else None
    return isinstance(dataset, dict) and dataset.get("type") == _DATASET_TYPE


def _code(text: str) -> str:
    """Text from outside, as code: no mark-up in it means anything, and it cannot look like a marker."""
    escaped = _MARKUP.sub(lambda match: f"&#{ord(match[0])};", " ".join(text.split()))
    return f"<code>{escaped}</code>"


def _alt(file: str) -> str:
    return file.removesuffix(".png").replace("_", " ").capitalize()
