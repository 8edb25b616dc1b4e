"""What the demo prints."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_exposure.callback import ExposureCallback
from hf_exposure.canaries import CanarySet
from hf_exposure.records import Extraction
from hf_exposure.report import ExposureReport, RepetitionGroup
from hf_exposure.report.group_text import mean_text, rank1_text, spread_text
from hf_exposure.report.verdict import judgement

__all__ = ["DemoProgress", "verdict"]


class DemoProgress(TrainerCallback):
    """One progress bar over all steps, and after each epoch one line per repetition count.

    The bar goes away when the output is no terminal.
    """

    def __init__(self, exposure: ExposureCallback) -> None:
        self._exposure = exposure
        self._shown = 0
        self._bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._bar = tqdm(total=state.max_steps, unit="step", desc="training", disable=None, file=sys.stderr)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._bar.update(state.global_step - self._bar.n)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for report in self._exposure.reports[self._shown :]:
            tqdm.write(_epoch_lines(report, args.num_train_epochs), file=sys.stdout)
        self._shown = len(self._exposure.reports)
        sys.stdout.flush()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._bar.close()


def verdict(report: ExposureReport, extraction: Extraction | None, canaries: CanarySet) -> str:
    """One or two sentences that say what the figures allow to say, and no more."""
    said = judgement(report)
    return f"{said} {_what_came_out(extraction, canaries)}" if report.controls else said


def _what_came_out(extraction: Extraction | None, canaries: CanarySet) -> str:
    if extraction is None:
        return "Nothing was searched for."
    out = {candidate.text for candidate in extraction.candidates}
    found = sum(canary.text in out for canary in canaries.inserted)
    if not found:
        return f"No inserted canary is among the {len(out)} texts that search brought out."
    return f"A stranger with the model gets {found} of {len(canaries.inserted)} inserted canaries out."


def _epoch_lines(report: ExposureReport, epochs: float) -> str:
    lines = [f"epoch {report.epoch:.0f} of {epochs:.0f}, exposure in bits (log2|R| = {report.log2_space_size:.1f})"]
    return "\n".join(lines + [_group_line(group) for group in _inserted_first(report.groups)])


def _inserted_first(groups: Sequence[RepetitionGroup]) -> list[RepetitionGroup]:
    return sorted(groups, key=lambda group: (group.repetitions == 0, group.repetitions))


def _group_line(group: RepetitionGroup) -> str:
    name = "held-out controls" if group.repetitions == 0 else f"inserted {group.repetitions} times"
    interval = math.isfinite(group.low_bits)
    spread = f"[{group.low_bits:.1f}, {group.high_bits:.1f}]" if interval else f"each: {spread_text(group)}"
    line = f"  {name:<19} {mean_text(group):>7}  {spread}"
    return line + (f"  ranks first: {rank1_text(group)}" if group.rank1 else "")
