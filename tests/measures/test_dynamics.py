"""The recorder of training dynamics: against models evaluated row by row, through a Trainer, a kill and a resume."""

from __future__ import annotations

import math
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from callback_runs import TOKENIZER, make_start, make_trainer, small_model
from torch import nn
from toy_measures import Classifier, KillAt, Killed, classify, pictures, start_of
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_exposure import DynamicsMeasure, DynamicsRecord, MeasureCallback, NoiseInjector
from hf_exposure.errors import InputError, NonFiniteScoreError
from hf_exposure.estimators import forgetting_events
from hf_exposure.runtime.processes import SINGLE_PROCESS
from hf_exposure.signals.probe import Probe
from hf_exposure.testing import check_measure

NOISY = [n % 4 == 0 for n in range(12)]


def by_hand(logits: torch.Tensor, label: int) -> list[float]:
    """Loss in bits, probability, correctness and margin of one label."""
    numbers = logits.double().tolist()
    total = sum(math.exp(value) for value in numbers)
    probability = math.exp(numbers[label]) / total
    margin = numbers[label] - max(value for place, value in enumerate(numbers) if place != label)
    return [-math.log2(probability), probability, float(margin > 0), margin]


def tiny_bert(kind: Any, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=384, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, **more
    )
    return kind(config).eval()


def read(rows: list[Any], model: nn.Module, **options: Any) -> tuple[Probe, np.ndarray]:
    probe = Probe.of("probe", rows, model, options.pop("tokenizer", None), **options)
    return probe, probe.read(model, SINGLE_PROCESS)[0]


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_a_classifier_of_pictures_row_by_row(batch_size: int) -> None:
    model, rows = Classifier().train(), pictures()
    probe, found = read(rows, model, batch_size=batch_size)
    assert model.training and probe.example_N.tolist() == list(range(12)) and set(probe.position_N) == {-1}
    model.eval()
    for row, own in zip(rows, found, strict=True):
        logits = model(row["pixels"][None])["logits"][0]
        np.testing.assert_allclose(own, by_hand(logits, int(row["labels"])), rtol=1e-5, atol=1e-6)


def test_a_classifier_of_texts_of_unequal_length() -> None:
    model = tiny_bert(BertForSequenceClassification, num_labels=3)
    rows = [{**TOKENIZER("x" * (n + 1)), "label": n % 3, "idx": f"row {n}"} for n in range(7)]
    _, found = read(rows, model, batch_size=3)
    for n, row in enumerate(rows):
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        np.testing.assert_allclose(found[n], by_hand(logits, n % 3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [2, 64])
def test_a_causal_language_model_token_by_token(batch_size: int) -> None:
    model, texts = small_model(dropout=0.5), ["pin 12.", "a", "longer pin 345."]
    probe, found = read(texts, model, tokenizer=TOKENIZER, batch_size=batch_size)
    assert model.training
    model.eval()
    expected, places = [], []
    for number, text in enumerate(texts):
        ids = TOKENIZER(text).input_ids
        logits = model(input_ids=torch.tensor([ids])).logits[0]
        for position in range(1, len(ids)):
            expected.append(by_hand(logits[position - 1], ids[position]))
            places.append((number, position))
    assert list(zip(probe.example_N.tolist(), probe.position_N.tolist(), strict=True)) == places
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert set(probe.label_N.tolist()) == {-1}, "labels of tokens are text, and not kept"


@pytest.mark.parametrize("kind", ["masked", "tokens", "encoder-decoder"])
def test_models_whose_logits_are_at_the_token(kind: str) -> None:
    torch.manual_seed(1)
    ids, labels = TOKENIZER("pin 12.").input_ids, [-100, 5, -100, 6, 7, -100, -100, 1]
    if kind == "encoder-decoder":
        config = T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0,
                          decoder_start_token_id=0)  # fmt: skip
        model: nn.Module = T5ForConditionalGeneration(config).eval()
        labels = [5, 6, 7, 1]
    elif kind == "masked":
        model = tiny_bert(BertForMaskedLM)
    else:
        model = tiny_bert(BertForTokenClassification, num_labels=9)
    probe, found = read([{"input_ids": ids, "labels": labels}], model)
    output = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels]))
    counted = [place for place, label in enumerate(labels) if label != -100]
    assert probe.position_N.tolist() == counted
    expected = [by_hand(output.logits[0, place], labels[place]) for place in counted]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    # The mean over the labels equals the model's own loss.
    assert found[:, 0].mean() * math.log(2) == pytest.approx(output.loss.item(), rel=1e-4)


def test_a_classifier_that_cannot_do_without_labels() -> None:
    class Demanding(Classifier):
        def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> Any:  # type: ignore[override]
            logits = self.layers(pixels)
            return nn.functional.cross_entropy(logits, labels), logits

    _, expected = read(pictures(), Classifier())
    _, found = read(pictures(), Demanding())
    assert np.array_equal(found, expected)


def test_out_of_memory_halves_the_calls_and_changes_no_figure() -> None:
    class Small(Classifier):
        def forward(self, pixels: torch.Tensor, labels: Any = None) -> Any:
            if len(pixels) > 3:
                raise torch.OutOfMemoryError("no room")
            return super().forward(pixels)

    _, expected = read(pictures(), Classifier(), batch_size=12)
    probe, found = read(pictures(), Small(), batch_size=12)
    assert probe.rows_at_once == 3
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"noisy": NOISY, "validation": pictures(3)}])
def test_the_laws_of_measures(options: dict[str, Any], tmp_path: Path) -> None:
    model = Classifier()
    check_measure(lambda: DynamicsMeasure(pictures(), **options), model, start_of(model, output_dir=tmp_path))
    causal = small_model(dropout=0.3)
    start = make_start(model=causal, output_dir=tmp_path / "causal")
    check_measure(lambda: DynamicsMeasure(["pin 12.", "pin 3."]), causal, start)


def recorded(folder: Path, callbacks: Any = (), resume: bool = False, **options: Any) -> MeasureCallback:
    measure = DynamicsMeasure(pictures(), noisy=NOISY, validation=pictures(4), **options)
    callback = MeasureCallback(measure, strategy="steps", steps=2)
    trainer = classify(folder, [callback, *callbacks], max_steps=12, save_strategy="steps", save_steps=3)
    callback.attach(trainer)
    trainer.train(resume_from_checkpoint=resume)
    callback.trainer = trainer  # type: ignore[attr-defined]
    return callback


def test_a_training_leaves_a_record_that_its_log_agrees_with(tmp_path: Path) -> None:
    callback = recorded(tmp_path / "run")
    record = DynamicsRecord.load(tmp_path / "run")
    assert record.steps_T.tolist() == [2, 4, 6, 8, 10, 12] and record.correct_TN.shape == (6, 12)
    assert record.label_N.tolist() == [n % 2 for n in range(12)] and record.noisy_N.tolist() == NOISY
    assert record.unit == "examples" and record.class_probability_TNC.shape == (6, 12, 2)
    own = np.take_along_axis(record.class_probability_TNC, record.label_N[None, :, None], axis=2)[..., 0]
    np.testing.assert_allclose(own, record.probability_TN, rtol=1e-5)
    noisy_N = np.array(NOISY)
    for row, logged in enumerate(callback.records["dynamics"]):
        figures = logged.metrics()
        events = forgetting_events(record.correct_TN[: row + 1])
        assert figures["eval_dynamics_loss_mean"] == pytest.approx(record.loss_bits_TN[row].mean(), rel=1e-5)
        assert figures["eval_dynamics_accuracy"] == record.correct_TN[row].mean()
        assert figures["eval_dynamics_margin_mean"] == pytest.approx(record.margin_TN[row].mean(), rel=1e-4)
        assert figures["eval_dynamics_forgetting_mean"] == events.counts_N.mean()
        assert figures["eval_dynamics_unforgettable_fraction"] == events.unforgettable_N.mean()
        assert figures["eval_dynamics_never_learned_fraction"] == (events.first_learned_N < 0).mean()
        assert figures["eval_dynamics_clean_accuracy"] == pytest.approx(record.correct_TN[row][~noisy_N].mean())
        assert figures["eval_dynamics_noisy_accuracy"] == pytest.approx(record.correct_TN[row][noisy_N].mean())
        assert record.figures_T["eval_dynamics_accuracy"][row] == figures["eval_dynamics_accuracy"]
    history = [entry for entry in callback.trainer.state.log_history if "eval_dynamics_accuracy" in entry]
    assert [entry["step"] for entry in history] == record.steps_T.tolist()
    for path in (tmp_path / "run" / "_dynamics").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "run" / "_dynamics").stat().st_mode) == 0o700


def test_recording_changes_no_weight(tmp_path: Path) -> None:
    plain = classify(tmp_path / "plain", [], max_steps=6)
    plain.train()
    callback = MeasureCallback(DynamicsMeasure(pictures()), strategy="steps", steps=1)
    measured = classify(tmp_path / "measured", [callback], max_steps=6)
    measured.train()
    for one, other in zip(plain.model.parameters(), measured.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("event", ["on_step_end", "on_save"])
def test_a_run_that_is_killed_and_resumed_has_the_record_of_a_whole_one(event: str, tmp_path: Path) -> None:
    recorded(tmp_path / "whole")
    with pytest.raises(Killed):
        # On save at step 9 its checkpoint exists; at the end of step 8 that of step 6 does; later rows are dropped.
        recorded(tmp_path / "cut", [KillAt(event, 9 if event == "on_save" else 8)])
    assert len(DynamicsRecord.load(tmp_path / "cut").steps_T) == 4
    recorded(tmp_path / "cut", resume=True)
    whole, cut = (DynamicsRecord.load(tmp_path / name) for name in ("whole", "cut"))
    assert cut.steps_T.tolist() == whole.steps_T.tolist()
    for name in ("loss_bits_TN", "probability_TN", "correct_TN", "margin_TN"):
        assert np.array_equal(getattr(cut, name), getattr(whole, name)), name
    for key, values in whole.figures_T.items():
        assert key.endswith("seconds") or np.array_equal(cut.figures_T[key], values), key


def test_a_second_training_begins_a_new_record(tmp_path: Path) -> None:
    recorded(tmp_path)
    callback = MeasureCallback(DynamicsMeasure(pictures(5)), strategy="steps", steps=3)
    classify(tmp_path, [callback], max_steps=3).train()
    record = DynamicsRecord.load(tmp_path)
    assert record.correct_TN.shape == (1, 5) and record.noisy_N is None


def test_a_language_model_in_a_trainer_and_its_best_model_key(tmp_path: Path) -> None:
    measure = DynamicsMeasure(["pin 12.", "pin 345."])
    callback = MeasureCallback(measure, strategy="epoch")
    trainer = make_trainer(
        tmp_path, [callback], max_steps=6, eval_strategy="steps", eval_steps=3, save_strategy="steps", save_steps=3,
        load_best_model_at_end=True, metric_for_best_model="eval_dynamics_accuracy", greater_is_better=True,
    )  # fmt: skip
    callback.attach(trainer)
    trainer.train()
    record = DynamicsRecord.load(tmp_path)
    assert record.unit == "tokens" and record.class_probability_TNC is None
    assert trainer.state.best_metric == record.figures_T["eval_dynamics_accuracy"].max()


def test_noise_is_in_the_record_with_its_seed(tmp_path: Path) -> None:
    noise = NoiseInjector(12, labels=0.5, num_labels=2, seed=4)
    callback = MeasureCallback(DynamicsMeasure(pictures(), noise), strategy="end")
    classify(tmp_path, [callback], max_steps=3).train()
    record = DynamicsRecord.load(tmp_path)
    assert record.noisy_N.tolist() == noise.changed.tolist() and record.about["noise"]["seed"] == 4


class GivesNaN(Classifier):
    def forward(self, pixels: torch.Tensor, labels: Any = None) -> Any:
        return {"logits": super().forward(pixels)["logits"] * math.nan}


class Unlabeled(Classifier):
    def forward(self, pixels: torch.Tensor) -> Any:  # type: ignore[override]
        return self.layers(pixels)


@pytest.mark.parametrize(
    ("rows", "model", "options", "message"),
    [
        ([], Classifier(), {}, "some rows"),
        ("text", Classifier(), {}, "some rows"),
        ([{"pixels": [0.0] * 4}], Classifier(), {}, "must have labels"),
        ([{"pixels": [0.0] * 4, "label": 0.5}], Classifier(), {}, "labels: must be one class"),
        ([{"pixels": [0.0] * 4, "label": [0, 1, 1]}] * 2, Classifier(), {}, "logits for each label"),
        ([{"pixels": [0.0] * 4, "label": 7}], Unlabeled(), {}, "from 0 to 1"),
        ([{"pixels": [0.0] * 4, "label": -100}], Classifier(), {}, "none but -100"),
        (["text"], Classifier(), {}, "tokenizer"),
        (pictures(), Classifier(), {"noisy": [True]}, "noisy"),
        (pictures(), Classifier(), {"batch_size": 0}, "batch_size"),
        ([3], Classifier(), {}, "int at row 0"),
    ],
)
def test_what_cannot_be_recorded_is_refused(
    rows: Any, model: nn.Module, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        measure = DynamicsMeasure(rows, **options)
        measure.prepare(start_of(model, output_dir=tmp_path))
        measure.measure(model)


def test_nan_is_an_error_and_no_figure(tmp_path: Path) -> None:
    model = GivesNaN()
    measure = DynamicsMeasure(pictures())
    measure.prepare(start_of(model, output_dir=tmp_path))
    with pytest.raises(NonFiniteScoreError, match="row 0 of the probe"):
        measure.measure(model)


def test_a_folder_without_a_record(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="DynamicsMeasure"):
        DynamicsRecord.load(tmp_path)
    recorded(tmp_path)
    (tmp_path / "_dynamics" / "00001.arrow").write_bytes(b"damaged")
    with pytest.raises(InputError, match="00001.arrow: must be a record of dynamics"):
        DynamicsRecord.load(tmp_path)
