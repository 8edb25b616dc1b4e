"""The part of a model card about critical samples: the last ratio, with its interval and settings."""

from __future__ import annotations

import math
from typing import Any

from hf_exposure.hub.card import CardPart, index_results
from hf_exposure.records.critical import CriticalRun
from hf_exposure.records.run_log import PlainRecord
from hf_exposure.report.critical import LIMITS, critical_table, headline
from hf_exposure.report.page import render

_SETTINGS = ("rows", "radius", "step", "noise", "max_steps", "confidence_level", "embedding_scale")


def critical_part(found: CriticalRun, pipeline_tag: str | None = None) -> CardPart:
    """The part of a card: a headline, the measurements in a table, and the last ratio for the `model-index`.

    The numbers of the critical rows and the seed are not published. If the last measurement failed, there is no
    result.

    Args:
        found: the measurements of a training.
        pipeline_tag: the model's task; "other" if unknown.
    """
    table = critical_table(found)
    text = render(
        "critical_card.md.j2", headline=headline(found), heads=table.heads, rows=table.rows, limits=LIMITS,
        settings=_settings(found.records[-1]),
    )  # fmt: skip
    part = CardPart(found.name, text, [])
    results = index_results(pipeline_tag or "other", part.dataset_type, "Rows given to the measure", _figures(found))
    return CardPart(found.name, text, results)


def _figures(found: CriticalRun) -> list[tuple[str, str, float, dict[str, Any]]]:
    last = found.records[-1]
    ratio, low, high = (found.figure(last, which) for which in ("ratio", "low", "high"))
    if math.isnan(ratio):
        return []
    details = {"low": round(low, 4), "high": round(high, 4), **_settings(last)}
    return [("critical_sample_ratio", "Critical sample ratio", round(ratio, 4), details)]


def _settings(record: PlainRecord) -> dict[str, Any]:
    known = {name: record.details.get(name) for name in _SETTINGS}
    settings = {name: value for name, value in known.items() if isinstance(value, (int, float))}
    return settings if record.step is None else {**settings, "training_step": record.step}
