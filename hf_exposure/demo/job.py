"""The demo's steps, in the order of a real run, and the output that it prints."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset, disable_progress_bars
from tqdm.auto import tqdm
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from hf_exposure.callback import ExposureCallback
from hf_exposure.canaries import CanarySet, draw_canaries, presets
from hf_exposure.data import insert_canaries
from hf_exposure.demo.inputs import SMALL_MODELS, load_model, load_rows, load_tokenizer
from hf_exposure.errors import InputError
from hf_exposure.extraction import extract
from hf_exposure.records import ExposureReport, Extraction, RepetitionGroup
from hf_exposure.records.groups import in_table_order
from hf_exposure.report.privacy import privacy_sentences
from hf_exposure.report.table import describe_extraction
from hf_exposure.report.verdict import exposure_text, judgment, mean_text, rank1_text, spread_text, times_inserted


class DemoProgress(TrainerCallback):
    """One progress bar over all steps, and after each epoch one line per repetition count.

    There is no bar if the output is not a terminal.
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
    """The verdict in one or two sentences, limited to what the figures support."""
    said = judgment(report)
    return f"{said} {_what_came_out(extraction, canaries)}" if report.controls else said


def _what_came_out(extraction: Extraction | None, canaries: CanarySet) -> str:
    if extraction is None:
        return "Nothing was searched for."
    out = {candidate.text for candidate in extraction.candidates}
    found = sum(canary.text in out for canary in canaries.inserted)
    if not found:
        return f"No inserted canary is among the {len(out)} texts that the search found."
    return f"An attacker with the model can extract {found} of the {len(canaries.inserted)} inserted canaries."


def _epoch_lines(report: ExposureReport, epochs: float) -> str:
    lines = [f"epoch {report.epoch:.0f} of {epochs:.0f}, exposure in bits (log2|R| = {report.log2_space_size:.1f})"]
    return "\n".join(lines + [_group_line(group) for group in in_table_order(report.groups)])


def _group_line(group: RepetitionGroup) -> str:
    name = "held-out controls" if group.repetitions == 0 else f"inserted {times_inserted(group.repetitions)}"
    interval = math.isfinite(group.low_bits)
    spread = f"[{group.low_bits:.1f}, {group.high_bits:.1f}]" if interval else f"each: {spread_text(group)}"
    line = f"  {name:<19} {mean_text(group):>7}  {spread}"
    return line + (f"  ranks first: {rank1_text(group)}" if group.rank1 else "")


_ROW_CHARACTERS = 100
_CONTEXT_TOKENS = 256
_MOST_EXPANSIONS = 20_000


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Settings of `hf-exposure demo`; the defaults take 40 seconds on two CPU cores."""

    out: Path = Path("exposure-demo")
    text_file: Path | None = None
    dataset: str | None = None
    text_bytes: int = 30_000
    model: str = SMALL_MODELS[0]
    tokenizer: str | None = None
    epochs: int = 4
    repetitions: Mapping[int, int] = field(default_factory=lambda: {1: 4, 8: 4, 64: 4})
    controls: int = 16
    digits: int = 9
    top_k: int = 20
    learning_rate: float = 2e-3
    batch_size: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("text_bytes", "epochs", "controls", "top_k", "batch_size"):
            if getattr(self, name) < 1:
                option = f"--{name.replace('_', '-')}"
                raise InputError(option, "must be at least 1", getattr(self, name), f"Leave {option} out.")
        if not 0 <= self.seed < 2**32:
            raise InputError("--seed", "must be from 0 to 2^32 - 1", self.seed, "Leave --seed out for 0.")
        if not 0 < self.learning_rate < math.inf:
            raise InputError("--learning-rate", "must be above 0", self.learning_rate, "Leave --learning-rate out.")

    @property
    def tokenizer_name(self) -> str:
        """The model's own tokenizer if it is loaded; bytes for a small model."""
        return self.tokenizer or ("bytes" if self.model in SMALL_MODELS else self.model)


def run_demo(settings: DemoSettings) -> ExposureReport:
    """Inserts canaries, trains with `ExposureCallback`, extracts, reports; prints as it goes.

    Writes `canaries.json` (owner-readable), `_exposure.jsonl`, `model/`, `report.json`, `report.html` and the plots
    into `settings.out`.

    Raises:
        InputError: a text, model or number cannot be used.
    """
    disable_progress_bars()
    transformers.logging.set_verbosity_error()
    set_seed(settings.seed)
    rows = load_rows(settings.text_file, settings.dataset, settings.text_bytes, _ROW_CHARACTERS)
    canaries = draw_canaries(
        presets.random_number(settings.digits), settings.repetitions, controls=settings.controls, seed=settings.seed
    )
    train = insert_canaries(rows, canaries, seed=settings.seed)
    tokenizer = load_tokenizer(settings.tokenizer_name, rows["text"])
    model = load_model(settings.model, tokenizer, _CONTEXT_TOKENS)
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        rule = f"must be a folder that can be made ({error.strerror})"
        raise InputError("--out", rule, str(settings.out), "Name another folder.") from None
    canaries.save(settings.out / "canaries.json")
    print(
        f"{len(rows)} rows of text, {canaries.total_insertions} canary rows inserted: "
        f"{canaries.template.text!r}, {len(canaries.inserted)} secrets, {len(canaries.controls)} held out\n"
        f"{type(model).__name__} with {model.num_parameters():,} parameters, {settings.tokenizer_name} tokenizer"
    )
    started = time.perf_counter()
    callback = _train(settings, model, tokenizer, train, canaries)
    for part in (model, tokenizer):
        part.save_pretrained(settings.out / "model")
    measured = sum(report.seconds for report in callback.reports)
    print(f"trained in {time.perf_counter() - started:.0f} s, of which {measured:.0f} s measuring exposure\n")
    report = callback.reports[-1]
    extraction = _extract(settings, model, tokenizer, canaries)
    if extraction is not None:
        print(describe_extraction(extraction, canaries))
        _print_missing(extraction, report, canaries)
    print("\n".join(["", verdict(report, extraction, canaries), *privacy_sentences(report)]))
    report.save(settings.out, history=callback.reports)
    print(f"\nWritten to {settings.out}{os.sep}: {', '.join(sorted(p.name for p in settings.out.iterdir()))}")
    return report


def _train(
    settings: DemoSettings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    canaries: CanarySet,
) -> ExposureCallback:
    callback = ExposureCallback(canaries, strategy="epoch")
    encoded = train.map(
        lambda batch: tokenizer(batch["text"], truncation=True, max_length=_CONTEXT_TOKENS),
        batched=True,
        remove_columns=train.column_names,
    )
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(settings.out),
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            warmup_steps=20,
            seed=settings.seed,
            # Canaries are shorter than rows of text, so a mixed batch would be half padding.
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,  # the demo has its own bar and lines
            dataloader_pin_memory=torch.cuda.is_available(),
        ),
        train_dataset=encoded,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        processing_class=tokenizer,
        callbacks=[callback, DemoProgress(callback)],
    )
    # The demo's own bar shows the same in one line.
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return callback


def _extract(
    settings: DemoSettings, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, canaries: CanarySet
) -> Extraction | None:
    try:
        return extract(model, tokenizer, canaries.template, settings.top_k, max_expansions=_MOST_EXPANSIONS)
    except InputError as error:
        print(f"No search: {error}")
        return None


def _print_missing(extraction: Extraction, report: ExposureReport, canaries: CanarySet) -> None:
    """Prints the exposure of the inserted canaries that were not extracted."""
    out = {candidate.text for candidate in extraction.candidates}
    by_id = {estimate.canary_id: estimate for estimate in report.estimates}
    missing = [canary for canary in canaries.inserted if canary.text not in out]
    if missing:
        print(f"Not among them: {len(missing)} of {len(canaries.inserted)} inserted canaries")
    for canary in missing:
        estimate = by_id[canary.id]
        print(f"      inserted {times_inserted(canary.repetitions)}: exposure {exposure_text(estimate)} bits")
