"""Encoder-decoder and masked models under their own trainers and collators: delivered, scored and dosed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from chat_tokenizers import chat_tokenizer
from datasets import Dataset, disable_progress_bars
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from hf_exposure import CanaryTemplate, Digits, ExposureCallback, draw_canaries, insert_canaries
from hf_exposure.records import Uncounted

disable_progress_bars()
CANARIES = draw_canaries(CanaryTemplate("It is {pin}.", pin=Digits(2)), {2: 2, 5: 1}, controls=3, seed=0)
SETTINGS: dict[str, Any] = {
    "report_to": "none", "use_cpu": True, "max_steps": 3, "per_device_train_batch_size": 8, "save_strategy": "no",
    "disable_tqdm": True, "learning_rate": 1e-2,
}  # fmt: skip


@pytest.mark.parametrize("source", ["Mon code ?", "C'est {pin}."], ids=["fixed", "same secret"])
def test_seq2seq_trainer(tmp_path: Path, source: str) -> None:
    tokenizer = chat_tokenizer()
    pairs = Dataset.from_dict({"source": ["Bonjour."] * 23, "target": ["Good day."] * 23})
    data = insert_canaries(pairs, CANARIES, "target", source=source)
    data = data.map(
        lambda row: {**tokenizer(row["source"]), "labels": tokenizer(text_target=row["target"])["input_ids"]},
        remove_columns=["source", "target"],
    )
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
            decoder_start_token_id=0, pad_token_id=0, eos_token_id=2,
        )
    )  # fmt: skip
    callback = ExposureCallback(CANARIES, strategy="end", source=source, require_delivery=True)
    trainer = Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(str(tmp_path), **SETTINGS),
        train_dataset=data,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
        callbacks=[callback],
    )
    trainer.train()
    # 32 rows and 3 steps of 8: the rows that the sampler left for a fourth step are unknown here.
    assert callback.delivery.doses_per_epoch == {
        canary.id: n for canary, n in zip(CANARIES, (2, 2, 5, 0, 0, 0), strict=True)
    }
    assert all(0 <= one.whole <= one.most == one.repetitions for one in callback.report.doses.counted)
    assert sum(callback.doses.values()) > 0 and callback.report.notes == ()


def test_masked_language_modeling(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    texts = insert_canaries(Dataset.from_dict({"text": ["Good day."] * 23}), CANARIES)
    data = texts.map(lambda row: {"input_ids": tokenizer(row["text"])["input_ids"]}, remove_columns="text")
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=32,
        )
    )  # fmt: skip
    callback = ExposureCallback(CANARIES, strategy="end", require_delivery=True)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(str(tmp_path), **SETTINGS),
        train_dataset=data,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.25),
        processing_class=tokenizer,
        callbacks=[callback],
    )
    trainer.train()
    doses = [estimate.effective_dose for estimate in callback.report.estimates]
    assert doses == pytest.approx([trainer.state.epoch * 0.25 * n for n in (2, 2, 5, 0, 0, 0)])
    # No whole text is predicted at once, so these are estimates, and there is no count.
    assert callback.report.doses.uncounted is Uncounted.RANDOM_MASKS
    assert all(math.isnan(dose) for dose in callback.doses.values())
