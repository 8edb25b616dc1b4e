"""Trainer runs of a few steps on a model of a few thousand weights, for the tests of the callback."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from hf_exposure import CanaryTemplate, Digits, ExposureCallback, draw_canaries
from hf_exposure.measures import TrainingStart
from hf_exposure.runtime.processes import SINGLE_PROCESS

TEMPLATE = CanaryTemplate("pin {pin}.", pin=Digits(2))
CANARIES = draw_canaries(TEMPLATE, repetitions={1: 2, 4: 2}, controls=3, seed=987654321)
KEYS = {
    "eval_exposure_mean",
    "eval_exposure_median",
    "eval_exposure_max",
    "eval_exposure_controls_mean",
    "eval_exposure_p_value",
    "eval_exposure_rank1_fraction",
    "eval_exposure_rank_epsilon",
    "eval_exposure_x1_mean",
    "eval_exposure_x4_mean",
    "eval_exposure_seconds",
}
TOKENIZER = ByT5Tokenizer()
# Each Trainer.train collects garbage, which takes 0.4 s for all loaded libraries unless their objects are frozen.
gc.freeze()
# For tests that choose the best model by exposure on purpose.
CHOOSES_BY_EXPOSURE = pytest.mark.filterwarnings("ignore:metric_for_best_model='eval_exposure_mean' keeps:UserWarning")
# Three steps per epoch.
ROWS, BATCH = 12, 4


def small_model(dropout: float = 0.0, seed: int = 0) -> GPT2LMHeadModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=384, n_layer=1, n_head=2, n_embd=16, n_positions=32, resid_pdrop=dropout, embd_pdrop=dropout,
            attn_pdrop=dropout, bos_token_id=1, eos_token_id=1, pad_token_id=0,
        )  # fmt: skip
        return GPT2LMHeadModel(config)


def rows(count: int = ROWS) -> list[dict[str, list[int]]]:
    """The canary texts repeated, all 8 bytes long: twelve rows contain each canary three times."""
    texts = [canary.text for canary in CANARIES.inserted] * count
    encoded = [TOKENIZER(text).input_ids for text in texts[:count]]
    return [{"input_ids": ids, "labels": ids} for ids in encoded]


def collate(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([row[name] for row in batch]) for name in ("input_ids", "labels")}


def make_callback(**arguments: Any) -> ExposureCallback:
    return ExposureCallback(CANARIES, **arguments)


def make_start(**changes: Any) -> TrainingStart:
    """The context that prepares a measure, without a training run."""
    values = {"model": small_model(), "tokenizer": TOKENIZER, "train_dataloader": None, "processes": SINGLE_PROCESS}
    return TrainingStart(**{**values, "output_dir": Path(), **changes})


def make_trainer(
    folder: Path,
    callbacks: list[TrainerCallback] | None = None,
    *,
    model: Any = None,
    dropout: float = 0.0,
    tokenizer: Any = "byte",
    eval_dataset: Any = None,
    **arguments: Any,
) -> Trainer:
    # The canaries that are inserted 4 times cause this; pytest restores the filter after each test.
    warnings.filterwarnings("ignore", "canaries in the training data: 2 of 4 inserted canaries: 3 of 4 rows")
    settings = {
        "output_dir": str(folder), "per_device_train_batch_size": BATCH, "report_to": "none", "use_cpu": True,
        "learning_rate": 1e-2, "save_strategy": "no", "logging_strategy": "steps", "logging_steps": 1000,
        "disable_tqdm": True, "seed": 0, "max_steps": 6, "dataloader_pin_memory": False,
    }  # fmt: skip
    return Trainer(
        model=model if model is not None else small_model(dropout),
        args=TrainingArguments(**{**settings, **arguments}),
        train_dataset=rows(),
        eval_dataset=rows(4) if eval_dataset is None else eval_dataset,
        processing_class=TOKENIZER if tokenizer == "byte" else tokenizer,
        data_collator=collate,
        callbacks=callbacks or [],
    )


def logged(trainer: Trainer) -> list[dict[str, Any]]:
    """The entries of log_history that contain exposure."""
    return [entry for entry in trainer.state.log_history if "eval_exposure_mean" in entry]


def logged_steps(trainer: Trainer) -> list[int]:
    return [entry["step"] for entry in logged(trainer)]
