"""Dynamics from training's own passes, against a spy that keeps the logits of every training batch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from callback_runs import TOKENIZER, make_trainer, small_model
from test_dynamics import by_hand
from torch import nn
from toy_measures import Classifier, KillAt, Killed, classify, pictures, start_of
from transformers import BertConfig, BertForMaskedLM

from hf_exposure import BatchDynamicsMeasure, DynamicsRecord, MeasureCallback
from hf_exposure.errors import InputError
from hf_exposure.measures import SeenBatch
from hf_exposure.testing import check_measure

FIGURES = ("loss_bits_TN", "probability_TN", "correct_TN", "margin_TN")


class Spy:
    """Inputs and logits of each training pass."""

    def __init__(self, model: nn.Module) -> None:
        self.seen: list[tuple[dict[str, Any], torch.Tensor]] = []
        model.register_forward_hook(self._keep, with_kwargs=True)

    def _keep(self, module: nn.Module, _: Any, inputs: dict[str, Any], output: Any) -> None:
        if module.training:
            self.seen.append(({name: value.clone() for name, value in inputs.items()}, output["logits"].detach()))


def recorded(folder: Path, callbacks: Any = (), resume: bool = False, model: Any = None) -> MeasureCallback:
    measure = BatchDynamicsMeasure(pictures(9), noisy=[n % 2 == 0 for n in range(9)])
    callback = MeasureCallback(measure, strategy="steps", steps=2)
    trainer = classify(
        folder, [callback, *callbacks], max_steps=12, save_strategy="steps", save_steps=3, model=model
    )  # fmt: skip
    callback.attach(trainer)
    trainer.train(resume_from_checkpoint=resume)
    assert not trainer.model._forward_hooks or model is not None, "the tap is closed"
    return callback


def test_each_example_has_its_last_look_before_each_measurement(tmp_path: Path) -> None:
    model = Classifier()
    spy = Spy(model)
    callback = recorded(tmp_path, model=model)
    record = DynamicsRecord.load(tmp_path)
    assert record.correct_TN.shape == (6, 9) and len(spy.seen) == 12
    rows = [row["pixels"] for row in pictures(9)]
    for time in range(6):
        for number, pixels in enumerate(rows):
            looks = [
                by_hand(logits[at], int(inputs["labels"][at]))
                for inputs, logits in spy.seen[2 * time : 2 * time + 2]
                for at in range(len(logits))
                if torch.equal(inputs["pixels"][at], pixels)
            ]
            own = [getattr(record, name)[time, number] for name in FIGURES]
            np.testing.assert_allclose(own, looks[-1] if looks else [math.nan] * 4, rtol=1e-5, atol=1e-6)
    assert 0 < np.isnan(record.correct_TN).sum() < record.correct_TN.size, "two of three steps of an epoch"
    for time, logged in enumerate(callback.records["dynamics"]):
        accuracy = np.nanmean(record.correct_TN[time])
        assert logged.metrics()["eval_dynamics_accuracy"] == pytest.approx(accuracy)


def test_packed_documents_of_a_language_model(tmp_path: Path) -> None:
    texts = ["pin 12.", "a pin", "pins 345 and 6"]
    ids = [TOKENIZER(text, add_special_tokens=False).input_ids for text in texts]
    order = [2, 0, 1]
    packed = {
        "input_ids": torch.tensor([sum((ids[n] for n in order), [])]),
        "position_ids": torch.tensor([sum((list(range(len(ids[n]))) for n in order), [])]),
    }
    packed["labels"] = packed["input_ids"].clone()
    model = small_model(dropout=0.3)
    probe = [{"input_ids": one, "attention_mask": [1] * len(one), "labels": one} for one in ids]
    measure = BatchDynamicsMeasure(probe)
    measure.prepare(start_of(model, output_dir=tmp_path))
    output = model.train()(**packed)
    measure.on_output(SeenBatch(inputs=packed, step=0), output)
    measure.measure(model)
    record = DynamicsRecord.load(tmp_path)
    starts = np.cumsum([0, *(len(ids[n]) for n in order)])
    for column in range(record.loss_bits_TN.shape[1]):
        number, position = int(record.example_N[column]), int(record.position_N[column])
        at = starts[order.index(number)] + position
        expected = by_hand(output.logits[0, at - 1].detach(), ids[number][position])
        np.testing.assert_allclose([getattr(record, name)[0, column] for name in FIGURES], expected, rtol=1e-4)
    assert not np.isnan(record.loss_bits_TN).any()


def test_padded_rows_of_a_language_model_in_a_trainer(tmp_path: Path) -> None:
    texts = [{"input_ids": TOKENIZER("pin 12.").input_ids}, {"input_ids": TOKENIZER("never trained on").input_ids}]
    canary = make_trainer(tmp_path).train_dataset[0]
    callback = MeasureCallback(BatchDynamicsMeasure([canary, *texts]), strategy="epoch")
    make_trainer(tmp_path, [callback], max_steps=3).train()
    record = DynamicsRecord.load(tmp_path)
    seen_N = ~np.isnan(record.correct_TN[0])
    assert seen_N[record.example_N == 0].all() and not seen_N[record.example_N == 2].any()


def test_the_laws_of_measures(tmp_path: Path) -> None:
    model = Classifier()
    inputs = {name: torch.stack([row[name] for row in pictures(4)]) for name in ("pixels", "labels")}

    class Shown(BatchDynamicsMeasure):
        """Observes outputs where the laws show batches."""

        def on_batch(self, batch: SeenBatch) -> None:
            self.on_output(batch, {"logits": torch.arange(8.0).reshape(4, 2) * (1 + batch.step)})

    batches = [SeenBatch(inputs=inputs, step=step) for step in range(2)]
    check_measure(lambda: Shown(pictures()), model, start_of(model, output_dir=tmp_path), batches)


@pytest.mark.parametrize(("event", "step"), [("on_step_end", 8), ("on_save", 9)])
def test_a_run_that_is_killed_and_resumed_has_the_record_of_a_whole_one(event: str, step: int, tmp_path: Path) -> None:
    recorded(tmp_path / "whole")
    with pytest.raises(Killed):
        recorded(tmp_path / "cut", [KillAt(event, step)])
    recorded(tmp_path / "cut", resume=True)
    whole, cut = (DynamicsRecord.load(tmp_path / name) for name in ("whole", "cut"))
    for name in ("steps_T", *FIGURES):
        assert np.array_equal(getattr(cut, name), getattr(whole, name), equal_nan=True), name


def test_recording_changes_no_weight(tmp_path: Path) -> None:
    plain = classify(tmp_path / "plain", [], max_steps=6)
    plain.train()
    measured = classify(
        tmp_path / "measured", [MeasureCallback(BatchDynamicsMeasure(pictures()), strategy="steps", steps=1)],
        max_steps=6,
    )  # fmt: skip
    measured.train()
    for one, other in zip(plain.model.parameters(), measured.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_the_tap_cannot_see_is_refused(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=384, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    masked = BertForMaskedLM(config)
    with pytest.raises(InputError, match="Use DynamicsMeasure"):
        rows = [{"input_ids": [5, 6], "labels": [-100, 6]}]
        BatchDynamicsMeasure(rows).prepare(start_of(masked, output_dir=tmp_path))
    # The inputs are those of a Trainer that computes a smoothed loss itself.
    measure = BatchDynamicsMeasure(pictures())
    measure.prepare(start_of(Classifier(), output_dir=tmp_path))
    with pytest.raises(InputError, match="label_smoothing_factor"):
        measure.on_output(SeenBatch(inputs={"pixels": torch.zeros(2, 4)}, step=0), {"logits": torch.zeros(2, 2)})
