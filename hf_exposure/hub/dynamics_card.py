"""The part of a model card about training dynamics: the last means, and the validation accuracy before noise was
fit.
"""

from __future__ import annotations

from typing import Any

from hf_exposure.hub.card import CardPart, index_results
from hf_exposure.records.dynamics import DynamicsRecord
from hf_exposure.report.dynamics import Dynamics, dynamics_of, headline, measurements_table, summary
from hf_exposure.report.page import render

_FIGURES = {
    "last_accuracy": "Accuracy on the evaluated rows",
    "last_clean_accuracy": "Accuracy on rows with clean labels",
    "last_noisy_accuracy": "Share of the noisy labels that is fit (memorized)",
    "best_validation_accuracy": "Best validation accuracy",
    "last_validation_accuracy": "Last validation accuracy",
    "forgetting_events_mean": "Forgetting events of one row, mean",
    "forgetting_events_clean": "Forgetting events of one clean row, mean",
    "forgetting_events_noisy": "Forgetting events of one noisy row, mean",
    "unforgettable_fraction": "Share never forgotten once learned",
    "never_learned_fraction": "Share never learned",
    "noise_found_by_margin": "Noise found by area under the margin (precision and recall)",
}
"""The published figures of `summary`: means over many rows. Figures about single rows, such as the lowest margins,
are not published.
"""


def dynamics_part(record: DynamicsRecord, pipeline_tag: str | None = None) -> CardPart:
    """The part of a card: a headline, the measurements in a table, and means for the `model-index`.

    It contains neither figures of single examples nor the seed of the noise.

    Args:
        record: the record of a training.
        pipeline_tag: the model's task; "other" if unknown.
    """
    found = dynamics_of(record)
    table = measurements_table(found)
    text = render(
        "dynamics_card.md.j2", headline=headline(found), heads=table.heads, rows=table.rows, unit=record.unit,
        figures=[(title, f"{value:.4g}") for _, title, value, _ in _results(found)],
    )  # fmt: skip
    part = CardPart(record.name, text, [])
    rows = f"{summary(found)['examples']:,} rows given to the measure"
    results = index_results(pipeline_tag or "other", part.dataset_type, rows, _results(found))
    return CardPart(record.name, text, results)


def _results(found: Dynamics) -> list[tuple[str, str, float, dict[str, Any]]]:
    values = summary(found)
    details = {"unit": values["unit"], "columns": values["columns"], "measurements": values["measurements"]}
    if values["last_step"] is not None:
        details["training_step"] = int(values["last_step"])
    if "noisy" in values:
        details["noisy"] = values["noisy"]
    return [
        (f"dynamics_{key}", title, round(values[key], 4), details)
        for key, title in _FIGURES.items()
        if values.get(key) is not None
    ]
