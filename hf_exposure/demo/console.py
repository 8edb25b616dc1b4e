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

__all__ = ["DemoProgress", "describe_extraction", "verdict"]

_SIGNIFICANT = 0.01


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
    if not report.controls:
        return "Without held-out controls there is nothing to compare with: no verdict."
    p_value = report.memorisation_p_value
    chance = f"each repetition count against {len(report.controls)} held-out canaries, rank test: p = {p_value:.2g}"
    # Never seen, a canary is the likeliest of its space with probability 1/|R|: one such among a few is evidence.
    first_of_all = sum(estimate.rank_high == 1 for estimate in report.inserted)
    surprising = first_of_all > 0 and len(report.inserted) / report.space_size < _SIGNIFICANT
    if p_value < _SIGNIFICANT:
        said = f"The model memorised ({chance})."
    elif surprising:
        said = f"The model memorised: {first_of_all} of {len(report.inserted)} inserted canaries are certified rank 1."
    else:
        top = max(report.groups, key=lambda group: group.repetitions)
        said = (
            f"No memorisation was shown ({chance}). Mean exposure of those inserted {top.repetitions} times: "
            f"{top.mean_bits:.1f} bits; a canary never seen has 1.4 on average."
        )
        least = _least_p_value(report)
        if least >= _SIGNIFICANT:
            said += f" With so few canaries and controls the test could not have shown less than p = {least:.2g}."
    return f"{said} {_what_came_out(extraction, canaries)}"


def _least_p_value(report: ExposureReport) -> float:
    """What the rank tests would give if every inserted canary were likelier than every control."""
    groups = [group.canaries for group in report.groups if group.repetitions]
    return min(1.0, len(groups) * min(1 / math.comb(n + len(report.controls), n) for n in groups))


def _what_came_out(extraction: Extraction | None, canaries: CanarySet) -> str:
    if extraction is None:
        return "Nothing was searched for."
    out = {candidate.text for candidate in extraction.candidates}
    found = sum(canary.text in out for canary in canaries.inserted)
    if not found:
        return f"No inserted canary is among the {len(out)} texts that search brought out."
    return f"A stranger with the model gets {found} of {len(canaries.inserted)} inserted canaries out."


def describe_extraction(extraction: Extraction, canaries: CanarySet) -> str:
    """The likeliest secrets in order, each with whether it was inserted."""
    if not extraction.candidates:
        return f"No secret came out within {extraction.expansions} expansions ({extraction.seconds:.1f} s of search)."
    inserted = {canary.text: canary for canary in canaries.inserted}
    controls = {canary.text for canary in canaries.controls}
    guarantee = (
        "certified: no other secret of the template is likelier"
        if extraction.certified
        else f"not certified: {extraction.note}"
    )
    lines = [
        f"The {len(extraction.candidates)} likeliest secrets ({guarantee}; {extraction.expansions} expansions, "
        f"{extraction.model_rows} model rows, {extraction.seconds:.1f} s):"
    ]
    for rank, candidate in enumerate(extraction.candidates, start=1):
        canary = inserted.get(candidate.text)
        mark = f"<- inserted {canary.repetitions} times" if canary else ""
        mark = "<- a control, never inserted" if candidate.text in controls else mark
        lines.append(f"{rank:4d}  {candidate.log_perplexity_bits:8.2f} bits  {candidate.text}  {mark}".rstrip())
    return "\n".join(lines)


def _epoch_lines(report: ExposureReport, epochs: float) -> str:
    lines = [f"epoch {report.epoch:.0f} of {epochs:.0f}, exposure in bits (log2|R| = {report.log2_space_size:.1f})"]
    return "\n".join(lines + [_group_line(group) for group in _inserted_first(report.groups)])


def _inserted_first(groups: Sequence[RepetitionGroup]) -> list[RepetitionGroup]:
    return sorted(groups, key=lambda group: (group.repetitions == 0, group.repetitions))


def _group_line(group: RepetitionGroup) -> str:
    name = "held-out controls" if group.repetitions == 0 else f"inserted {group.repetitions} times"
    # Part of the mean may be "at least": then so is the mean.
    sign = ">=" if group.lower_bounds else "  "
    line = f"  {name:<19} {sign}{group.mean_bits:5.1f}  [{group.low_bits:.1f}, {group.high_bits:.1f}]"
    return line + (f"  {group.rank1} of {group.canaries} have rank 1" if group.rank1 else "")
