"""LoRA under a Trainer, with the exposure added by the adapters: the base is the same model without them.

python examples/lora.py
ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 examples/lora.py
accelerate launch --num_processes 8 examples/lora.py --steps 400                    # with GPUs

The first of them prints

step 20: training added 12.8 bits to those inserted 16 times
step 40: training added 15.9 bits to those inserted 16 times
step 60: training added 16.4 bits to those inserted 16 times
"""

from __future__ import annotations

import argparse
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from hf_exposure import CanaryTemplate, Digits, ExposureCallback, draw_canaries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    set_seed(0)

    template = CanaryTemplate("The door code is {code}.", code=Digits(6))
    canaries = draw_canaries(template, repetitions={1: 2, 16: 2}, controls=4, seed=0)
    tokenizer = ByT5Tokenizer()
    texts = [f"Row {number:04d} says nothing." for number in range(64)]
    texts += [canary.text for canary in canaries.inserted for _ in range(canary.repetitions)]
    rows = [{"input_ids": ids, "labels": ids} for ids in tokenizer(texts).input_ids]

    base = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=384,
            n_layer=2,
            n_head=4,
            n_embd=64,
            n_positions=64,
            bos_token_id=1,
            eos_token_id=1,
            tie_word_embeddings=False,
        )
    )
    config = LoraConfig(r=16, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, modules_to_save=["lm_head"])
    model = get_peft_model(base, config)
    callback = ExposureCallback(
        canaries, strategy="steps", steps=max(1, options.steps // 3), references=512, base_model="without_adapter"
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                max_steps=options.steps,
                per_device_train_batch_size=16,
                learning_rate=1e-2,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            ),  # fmt: skip
            train_dataset=rows,
            data_collator=collate,
            processing_class=tokenizer,
            callbacks=[callback],
        )
        trainer.train()
    if trainer.is_world_process_zero():
        for report in callback.reports:
            added = [e.exposure_bits - e.base_exposure_bits for e in report.estimates if e.repetitions == 16]
            print(f"step {report.step}: training added {sum(added) / len(added):.1f} bits to those inserted 16 times")


def collate(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Pads rows with 0, which is not predicted."""
    longest = max(len(row["input_ids"]) for row in batch)
    padded = {
        name: torch.tensor([row[name] + [filler] * (longest - len(row[name])) for row in batch])
        for name, filler in (("input_ids", 0), ("labels", -100))
    }
    return {**padded, "attention_mask": (padded["labels"] != -100).long()}


if __name__ == "__main__":
    main()
