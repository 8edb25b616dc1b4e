"""Doses in loops and with models that the random pipelines do not have, counted by hand in the inputs of each loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch
from callback_runs import CANARIES, TOKENIZER, collate, make_callback, make_start, make_trainer, rows, small_model
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForMaskedLM, DataCollatorWithFlattening, LlamaConfig, LlamaForCausalLM

from hf_exposure import ExposureCallback
from hf_exposure.measures import SeenBatch
from hf_exposure.measures.exposure import ExposureMeasure
from hf_exposure.records import Doses, Uncounted, Validity
from hf_exposure.report.verdict import dose_lines
from hf_exposure.runtime.model_state import unwrap_model
from hf_exposure.runtime.tap import tap_batches

# Twelve rows per epoch, four per batch: each of the four inserted canaries occurs three times.
EVERY_EPOCH = [3, 3, 3, 3, 0, 0, 0]


def whole(callback: ExposureCallback) -> list[float]:
    return list(callback.doses.values())


def callback(**arguments: Any) -> ExposureCallback:
    settings = {"strategy": "end", "method": "sample", "references": 16, "require_delivery": False}
    return make_callback(**{**settings, **arguments})


def counted(measure: ExposureMeasure) -> list[int]:
    return [one.whole for one in measure.doses(1.0).counted]


def prepared(**changes: Any) -> ExposureMeasure:
    measure = ExposureMeasure(CANARIES, references=16)
    measure.prepare(make_start(**changes))
    return measure


def by_text(texts: list[str]) -> list[int]:
    return [texts.count(canary.text) for canary in CANARIES]


def recorded(trainer: Any) -> list[str]:
    """The texts that `training_step` receives from now on."""
    step, texts = trainer.training_step, []

    def recording(model: Any, inputs: dict[str, Any], *args: Any, **named: Any) -> Any:
        texts.extend(TOKENIZER.decode(row, skip_special_tokens=True) for row in inputs["input_ids"])
        return step(model, inputs, *args, **named)

    trainer.training_step = recording
    return texts


class TakesAnything(nn.Module):
    """A model whose forward names no argument, as wrappers of vision and language models do."""

    main_input_name = "input_ids"

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_model()
        self.config = self.inner.config

    def forward(self, **named: Any) -> Any:
        return self.inner(**{name: value for name, value in named.items() if name in ("input_ids", "labels")})


def fused_forward(
    self: Any, input_ids: Any = None, labels: Any = None, skip_logits: bool | None = None, **more: Any
) -> Any:
    """Like the models of Liger's kernels: in training it returns the loss without logits."""
    skip_logits = self.training and labels is not None if skip_logits is None else skip_logits
    hidden = self.transformer(input_ids=input_ids).last_hidden_state
    if not skip_logits:
        return SimpleNamespace(logits=self.lm_head(hidden), loss=None)
    loss = nn.functional.cross_entropy(self.lm_head(hidden)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    return {"loss": loss}


def test_a_model_that_takes_any_argument(tmp_path: Path) -> None:
    def with_pictures(batch: list[Any]) -> dict[str, Any]:
        return {**collate(batch), "pixel_values": torch.zeros(len(batch), 3, 2, 2), "names": ["a"] * len(batch)}

    counts = callback()
    trainer = make_trainer(tmp_path, [counts], model=TakesAnything(), max_steps=3, remove_unused_columns=False)
    trainer.data_collator = with_pictures
    trainer.train()
    assert whole(counts) == EVERY_EPOCH


@pytest.mark.parametrize("on", ["instance", "class"])
def test_a_forward_that_was_replaced_as_liger_does(tmp_path: Path, on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, counts = small_model(), callback()
    if on == "instance":
        model.forward = MethodType(fused_forward, model)
    else:
        monkeypatch.setattr(type(model), "forward", fused_forward)
    trainer = make_trainer(tmp_path, [counts], model=model, max_steps=3)
    trainer.train()
    assert whole(counts) == EVERY_EPOCH and not model._forward_pre_hooks


def test_embeddings_in_place_of_tokens(tmp_path: Path) -> None:
    def loss_of_embeddings(self: Any, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Any:
        embedded = self.model.get_input_embeddings()(inputs["input_ids"])
        return model(inputs_embeds=embedded, labels=inputs["labels"]).loss

    counts = callback()
    trainer = make_trainer(tmp_path, [counts], max_steps=3)
    trainer.compute_loss = MethodType(loss_of_embeddings, trainer)
    trainer.train()
    assert whole(counts) == EVERY_EPOCH


@pytest.mark.parametrize("kind", ["lora", "prompt"])
def test_adapters(tmp_path: Path, kind: str) -> None:
    peft = pytest.importorskip("peft")
    config = {
        "lora": lambda: peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"),
        "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    }[kind]()
    counts = callback()
    make_trainer(tmp_path, [counts], model=peft.get_peft_model(small_model(), config), max_steps=3).train()
    assert whole(counts) == EVERY_EPOCH


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"return_position_ids": False, "return_flash_attn_kwargs": True},
        {"return_position_ids": False, "return_seq_idx": True},
        {"return_seq_idx": True, "return_flash_attn_kwargs": True},
    ],
    ids=["position_ids", "cu_seq_lens", "seq_idx", "all"],
)
def test_each_way_to_mark_documents_of_a_flattened_batch(settings: dict[str, bool]) -> None:
    measure = prepared()
    batch = DataCollatorWithFlattening(**settings)(rows(8))
    assert batch["input_ids"].shape[0] == 1
    measure.on_batch(SeenBatch(inputs=batch, step=0))
    assert counted(measure) == [2, 2, 2, 2, 0, 0, 0]


def test_shifted_labels_overrule_labels_as_in_the_models_loss() -> None:
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=384, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    )
    ids = torch.cat([torch.full((4, 1), 9), collate(rows(4))["input_ids"]], dim=1)
    shifted = torch.cat([ids[:, 1:], torch.full((4, 1), -100)], dim=1)
    shifted[0] = -100
    batch = {"input_ids": ids, "labels": ids, "shift_labels": shifted}
    of_three = model(input_ids=ids[1:], labels=ids[1:]).loss
    torch.testing.assert_close(model(**batch).loss, of_three)  # the first row is not trained on
    for inputs in (batch, {name: batch[name] for name in ("input_ids", "shift_labels")}):
        measure = prepared()
        measure.on_batch(SeenBatch(inputs=inputs, step=0))
        assert counted(measure) == [0, 1, 1, 1, 0, 0, 0]


def test_batches_without_rows_or_tokens_hold_nothing() -> None:
    measure = prepared()
    for shape in ((0, 8), (2, 0)):
        nothing = torch.zeros(shape, dtype=torch.int64)
        measure.on_batch(SeenBatch(inputs={"input_ids": nothing, "labels": nothing}, step=0))
    measure.on_batch(SeenBatch(inputs=collate(rows(4)), step=0))
    assert counted(measure) == [1, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("dispatched", [True, False])
def test_a_loop_with_accelerate_and_without_a_trainer(dispatched: bool) -> None:
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration

    loading = DataLoaderConfiguration(dispatch_batches=True, split_batches=True) if dispatched else None
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, dataloader_config=loading)
    model = small_model()
    stream = Dataset.from_list(rows(14)).to_iterable_dataset(num_shards=2).shuffle(seed=0, buffer_size=5)
    loader = DataLoader(stream if dispatched else rows(14), batch_size=4, collate_fn=collate, drop_last=not dispatched)
    model, optimizer, loader = accelerator.prepare(model, torch.optim.AdamW(model.parameters()), loader)
    measure, texts = prepared(model=unwrap_model(model)), []
    tap = tap_batches(unwrap_model(model), lambda inputs: measure.on_batch(SeenBatch(inputs=inputs, step=0)))
    for batch in loader:
        with accelerator.accumulate(model):
            texts += [TOKENIZER.decode(row, skip_special_tokens=True) for row in batch["input_ids"]]
            accelerator.backward(model.train()(**batch).loss)
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            model.eval()(**batch)
    tap.remove()
    assert counted(measure) == by_text(texts) and len(texts) == (14 if dispatched else 12)


def test_a_part_of_a_stream_that_has_no_length(tmp_path: Path) -> None:
    """The part that accelerate gives each process if a stream has fewer shards than processes."""
    from accelerate.data_loader import IterableDatasetShard

    part = IterableDatasetShard(Dataset.from_list(rows()).to_iterable_dataset(), batch_size=2, num_processes=2)
    counts = callback(require_delivery=None)
    trainer = make_trainer(tmp_path, [counts], max_steps=3, per_device_train_batch_size=2)
    trainer.train_dataset = part
    texts = recorded(trainer)
    with pytest.warns(UserWarning, match="INVALID: 2 of 4 inserted canaries were found"):  # this process's part
        trainer.train()
    assert whole(counts) == by_text(texts) and len(texts) == 6


def test_resumed_several_times(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 1}
    for stop, begin in ((2, None), (4, 1), (7, 3)):
        counts = callback()
        trainer = make_trainer(tmp_path, [counts], max_steps=stop, **settings)
        trainer.train(resume_from_checkpoint=begin and str(tmp_path / f"checkpoint-{begin}"))
    assert sum(whole(counts)) == 7 * 4


def test_resumed_without_skipping_what_was_trained_on(tmp_path: Path) -> None:
    """With `ignore_data_skip` rows are repeated and lost, which the dataset alone does not show."""
    settings = {"save_strategy": "steps", "save_steps": 2}
    first = make_trainer(tmp_path, [callback()], max_steps=2, **settings)
    texts = recorded(first)
    first.train()
    counts = callback()
    second = make_trainer(tmp_path, [counts], max_steps=6, ignore_data_skip=True, **settings)
    more = recorded(second)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert whole(counts) == by_text(texts + more)


@pytest.mark.parametrize("known_by", ["class", "measurement"])
def test_a_masked_model_is_not_counted_whoever_masks(tmp_path: Path, known_by: str) -> None:
    counts = callback()
    model = BertForMaskedLM(
        BertConfig(vocab_size=384, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )

    if known_by == "measurement":
        peft = pytest.importorskip("peft")
        model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query"]))

    def masked(batch: list[Any]) -> dict[str, torch.Tensor]:
        labels = collate(batch)["labels"]
        hidden = torch.rand(labels.shape) < 0.5
        return {"input_ids": labels.masked_fill(hidden, 3), "labels": labels.masked_fill(~hidden, -100)}

    trainer = make_trainer(tmp_path, [counts], model=model, max_steps=1)
    trainer.data_collator, trainer.processing_class = masked, None
    counts._processing_class = type(TOKENIZER)(mask_token="<extra_id_0>")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # depends on the masks that the check of the data happened to draw
        trainer.train()
    assert counts.report.doses == Doses(uncounted=Uncounted.RANDOM_MASKS)


def test_a_loop_past_the_hooks_is_not_taken_for_no_training(tmp_path: Path) -> None:
    def loss_past_hooks(self: Any, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Any:
        return model.forward(**inputs).loss

    counts = callback(strategy="steps", steps=1, baseline=True)
    trainer = make_trainer(tmp_path, [counts], max_steps=2)
    trainer.compute_loss = MethodType(loss_past_hooks, trainer)
    trainer.train()
    assert [report.doses.uncounted for report in counts.reports] == [None, *[Uncounted.NO_BATCHES] * 2]
    assert counts.report.validity is not Validity.INVALID
    assert "bypasses the model's hooks" in dose_lines(counts.report)[0]
    assert all(math.isnan(dose) for dose in whole(counts))


@pytest.mark.parametrize("good_steps", [0, 4])
def test_a_training_that_begins_again_with_smaller_batches(tmp_path: Path, good_steps: int) -> None:
    """Weights keep what they learned before memory ran out, but the rows they learned it from are unknown."""
    counts = callback()
    trainer = make_trainer(tmp_path, [counts], max_steps=6, auto_find_batch_size=True)
    texts = recorded(trainer)
    step, calls = trainer.training_step, []

    def short_of_memory(*args: Any, **named: Any) -> Any:
        calls.append(None)
        if len(calls) == good_steps + 1:
            raise RuntimeError("CUDA out of memory.")
        return step(*args, **named)

    trainer.training_step = short_of_memory
    trainer.train()
    assert len(calls) == good_steps + 1 + 6
    if good_steps:
        assert counts.report.doses == Doses(uncounted=Uncounted.BEGUN_AGAIN)
    else:
        assert whole(counts) == by_text(texts) and sum(whole(counts)) > 0


def test_the_best_model_has_the_doses_of_its_checkpoint(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}

    def run(folder: Path, prepare: Callable[[Any], None], **arguments: Any) -> tuple[ExposureCallback, Any]:
        counts = callback(**arguments)
        trainer = make_trainer(
            folder, [counts], max_steps=6, load_best_model_at_end=True, metric_for_best_model="eval_nearness",
            greater_is_better=True, **settings,
        )  # fmt: skip
        trainer.compute_metrics = lambda _: {"nearness": -abs(trainer.state.global_step - 3)}
        prepare(trainer)
        trainer.train()
        return counts, trainer

    counts, trainer = run(tmp_path / "counted", lambda trainer: None)
    assert trainer.state.best_global_step == 3
    assert [one.whole for one in counts.report.doses.counted] == EVERY_EPOCH
    assert [(one.least, one.most) for one in counts.report.doses.counted][:4] == [(1, 1), (1, 1), (4, 4), (4, 4)]
    assert [one.effective_dose for one in counts.report.estimates] == EVERY_EPOCH
    assert whole(counts) == [2 * n for n in EVERY_EPOCH]  # of the whole training

    counts, trainer = run(tmp_path / "evaluated", lambda trainer: None, strategy="eval")
    assert [one.whole for one in counts.report.doses.counted] == [2 * n for n in EVERY_EPOCH]  # of the last step
    trainer.evaluate()
    assert [one.whole for one in counts.report.doses.counted] == EVERY_EPOCH

    def forget(trainer: Any) -> None:
        """For example, the checkpoint is on another machine."""
        load = trainer._load_best_model

        def load_and_forget() -> None:
            load()
            (tmp_path / "forgotten" / "checkpoint-3" / "_exposure_state_0.pt").unlink()

        trainer._load_best_model = load_and_forget

    counts, _ = run(tmp_path / "forgotten", forget)
    assert counts.report.doses == Doses(uncounted=Uncounted.RESUMED_WITHOUT_COUNTS)
