"""TRL's SFTTrainer: canaries reach the loss in every kind of dataset, and are scored where they were trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_tokenizers import CHATML, chat_tokenizer
from datasets import Dataset, disable_progress_bars
from transformers import GPT2Config, GPT2LMHeadModel

from hf_exposure import (
    CanaryContext,
    CanaryTemplate,
    Digits,
    ExposureCallback,
    check_delivery,
    draw_canaries,
    insert_canaries,
)
from hf_exposure.errors import InputError

trl = pytest.importorskip("trl")
disable_progress_bars()
CANARIES = draw_canaries(CanaryTemplate("It is {pin}.", pin=Digits(3)), {2: 2, 5: 1}, controls=3, seed=0)
CHAT = CanaryContext(prompt=[{"role": "user", "content": "My PIN?"}])
ASKED = CanaryContext(prompt="My PIN? ")
USER = {"role": "user", "content": "How are you?"}
SAYS = {"role": "assistant", "content": "Very well."}
ROWS = {
    "text": {"text": "How are you? Very well."},
    "prompted text": {"text": "How are you? Very well."},
    "pairs": {"prompt": "How are you? ", "completion": "Very well."},
    "chat": {"messages": [USER, SAYS]},
    "chat pairs": {"prompt": [USER], "completion": [SAYS]},
}
CONTEXTS = {"text": None, "prompted text": ASKED, "pairs": ASKED, "chat": CHAT, "chat pairs": CHAT}


def trainer_for(
    folder: Path, kind: str, callbacks: Any = (), context: Any = "own", stream: bool = False, **settings: Any
) -> Any:
    inside = CONTEXTS[kind] if context == "own" else context
    plain = Dataset.from_list([ROWS[kind]] * 20)
    if stream:
        data = insert_canaries(plain.to_iterable_dataset(num_shards=4), CANARIES, context=inside, num_rows=20)
    else:
        data = insert_canaries(plain, CANARIES, context=inside)
    tokenizer = chat_tokenizer(CHATML, adds_bos=True)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_layer=1, n_head=2, n_embd=16, n_positions=128))
    arguments = {
        "output_dir": str(folder), "report_to": [], "use_cpu": True, "max_steps": 1, "per_device_train_batch_size": 4,
        "max_length": 100, "save_strategy": "no", "gradient_checkpointing": False, "disable_tqdm": True, "bf16": False,
    }  # fmt: skip
    return trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(**{**arguments, **settings}),
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )


def delivery_in(trainer: Any, kind: str) -> Any:
    loader = trainer.get_train_dataloader()
    return check_delivery(
        loader.dataset, CANARIES, trainer.processing_class, collator=loader.collate_fn, context=CONTEXTS[kind]
    )


WAYS = [
    ("text", {}),
    ("text", {"packing": True, "packing_strategy": "bfd"}),
    ("text", {"packing": True, "packing_strategy": "bfd_split"}),
    ("prompted text", {}),
    ("pairs", {}),
    ("pairs", {"completion_only_loss": False}),
    ("pairs", {"packing": True, "packing_strategy": "bfd"}),
    ("chat", {}),
    ("chat", {"assistant_only_loss": True}),
    ("chat", {"assistant_only_loss": True, "packing": True, "packing_strategy": "bfd_split"}),
    ("chat pairs", {}),
    ("chat pairs", {"completion_only_loss": True, "assistant_only_loss": True}),
]


@pytest.mark.parametrize(("kind", "settings"), WAYS, ids=range(len(WAYS)))
def test_every_kind_of_dataset_delivers_whole_canaries(tmp_path: Path, kind: str, settings: dict[str, Any]) -> None:
    report = delivery_in(trainer_for(tmp_path, kind, **settings), kind)
    assert [(one.whole, one.cut) for one in report.canaries] == [(2, 0), (2, 0), (5, 0), (0, 0), (0, 0), (0, 0)]
    assert [one.trained_share for one in report.canaries[:3]] == [1.0] * 3 and report.problems == ()


@pytest.mark.parametrize("kind", ["text", "chat"])
def test_a_stream_delivers_the_same(tmp_path: Path, kind: str) -> None:
    trainer = trainer_for(tmp_path, kind, stream=True, dataloader_num_workers=2, max_steps=2)
    trainer.train()
    report = check_delivery(
        trainer.train_dataset,
        CANARIES,
        trainer.processing_class,
        collator=trainer.data_collator,
        context=CONTEXTS[kind],
        max_rows=29,
    )
    assert [(one.whole, one.trained_share) for one in report.canaries[:3]] == [(2, 1.0), (2, 1.0), (5, 1.0)]
    assert len(list(trainer.train_dataset)) == 29


def test_wrapped_packing_cuts_some_and_says_which(tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path, "text", packing=True, packing_strategy="wrapped", max_length=32)
    report = delivery_in(trainer, "text")
    texts = [trainer.processing_class.decode(row) for row in trainer.train_dataset["input_ids"]]
    assert [one.whole for one in report.canaries] == [sum(text.count(c.text) for text in texts) for c in CANARIES]
    assert sum(one.cut for one in report.canaries) > 0 and "are cut by truncation or packing" in report.problems[0]


def test_bfd_split_fragments_are_cut(tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path, "text", packing=True, packing_strategy="bfd_split", max_length=9)
    report = delivery_in(trainer, "text")
    assert [one.whole for one in report.canaries] == [0] * 6
    assert [one.cut > 0 for one in report.canaries[:3]] == [True] * 3


def test_the_side_that_is_not_trained_on_is_an_error(tmp_path: Path) -> None:
    callback = ExposureCallback(CANARIES, require_delivery=True, context=CHAT)
    said = [{"role": "user", "content": canary.text} for canary in CANARIES.inserted]
    trainer = trainer_for(tmp_path, "chat", [callback], assistant_only_loss=True)
    asked = Dataset.from_list([{"messages": [turn, SAYS]} for turn in said] * 5)
    trainer.train_dataset = trainer._prepare_dataset(
        asked, trainer.processing_class, trainer.args, False, None, "train"
    )
    with pytest.raises(InputError) as caught:
        trainer.train()
    assert "3 of 3 inserted canaries: every token is masked out of the loss (label -100)" in str(caught.value)
    assert "assistant_only_loss" in str(caught.value)


@pytest.mark.parametrize("kind", list(ROWS))
def test_a_canary_is_scored_on_the_ids_that_it_was_trained_on(tmp_path: Path, kind: str) -> None:
    callback = ExposureCallback(CANARIES, strategy="end", require_delivery=True, context=CONTEXTS[kind])
    trainer = trainer_for(tmp_path, kind, [callback], learning_rate=1e-2, max_steps=-1, num_train_epochs=2)
    trainer.train()
    tokenizer, model = trainer.processing_class, trainer.model.eval()
    canary = CANARIES.inserted[2]
    row = next(ids for ids in trainer.train_dataset["input_ids"] if canary.text in tokenizer.decode(ids))
    text_ids = tokenizer(canary.text, add_special_tokens=False)["input_ids"]
    start = next(at for at in range(len(row)) if row[at : at + len(text_ids)] == text_ids)
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([row])).logits[0].double().log_softmax(-1)
    by_hand = -sum(logs[start + place - 1, token].item() for place, token in enumerate(text_ids)) / np.log(2)
    estimate = callback.report.estimates[2]
    assert estimate.log_perplexity_bits == pytest.approx(by_hand, abs=1e-3)
    assert estimate.effective_dose == callback.doses[canary.id] == 10
    assert callback.report.estimates[4].effective_dose == 0


def test_inserted_in_one_context_and_looked_for_in_another_is_still_found(tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path, "chat")
    report = delivery_in(trainer, "text")
    assert [one.whole for one in report.canaries[:3]] == [2, 2, 5]


def test_prompts_that_fill_the_rows_leave_no_canary(tmp_path: Path) -> None:
    long = CanaryContext(prompt="Tell me, " * 14)
    trainer = trainer_for(tmp_path, "pairs", context=long)
    report = check_delivery(
        trainer.train_dataset, CANARIES, trainer.processing_class, collator=trainer.data_collator, context=long
    )
    # New versions of trl truncate the rows themselves; old ones leave it to the collator.
    reasons = "it is not in the training data", "not in the collated rows"
    assert len(report.undelivered) == 3 and any(reason in report.problems[0] for reason in reasons)
