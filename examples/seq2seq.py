"""Canaries in source-target pairs under a Seq2SeqTrainer: inserted as targets, and scored given their sources.

Run as `python examples/seq2seq.py`. The model is a small T5 that reads bytes, made from its configuration; nothing is
downloaded. It takes about a minute on one core; `--rows 188 --steps 8` takes a few seconds. It ends with

    held-out controls    trained on    0.0 times  exposure   1.9 bits
    inserted 1 times     trained on    8.8 times  exposure   7.4 bits
    inserted 32 times    trained on  282.4 times  exposure  19.9 bits
       1.14 bits  inserted 32 times
       1.89 bits  inserted 32 times
      11.04 bits  inserted 0 times
"""

from __future__ import annotations

import argparse

from datasets import Dataset
from transformers import (
    ByT5Tokenizer,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from hf_exposure import CanaryTemplate, Digits, ExposureCallback, draw_canaries, extract, insert_canaries

# What the model reads before it outputs the secret. In "Mon code : {code}" the secret would be in the source too:
# exposure could still be measured, but no search would be possible.
SOURCE = "What opens the archive?"


def pairs(count: int) -> dict[str, list[str]]:
    """Questions about small sums, with answers."""
    numbers = [(n % 37, n % 11) for n in range(count)]
    return {
        "source": [f"How much is {a} and {b}?" for a, b in numbers],
        "target": [f"That makes {a + b}." for a, b in numbers],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1000, help="pairs without a canary")
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps")
    parser.add_argument("--out", default="exposure-seq2seq", help="folder for the report")
    arguments = parser.parse_args()
    set_seed(0)

    template = CanaryTemplate("The code is {code}.", code=Digits(6))
    canaries = draw_canaries(template, repetitions={1: 4, 32: 2}, controls=16)
    dataset = insert_canaries(Dataset.from_dict(pairs(arguments.rows)), canaries, "target", source=SOURCE)
    tokenizer = ByT5Tokenizer()
    dataset = dataset.map(
        lambda rows: tokenizer(rows["source"], text_target=rows["target"]),
        batched=True,
        remove_columns=dataset.column_names,
    )
    config = T5Config(
        vocab_size=384, d_model=96, d_kv=24, d_ff=192, num_layers=2, num_heads=4, dropout_rate=0.0,
        decoder_start_token_id=tokenizer.pad_token_id, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    # The same source determines where canaries are inserted and after what they are scored.
    callback = ExposureCallback(canaries, strategy="end", source=SOURCE, references=1024, require_delivery=True)
    trainer = Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            output_dir=arguments.out,
            max_steps=arguments.steps,
            per_device_train_batch_size=32,
            learning_rate=3e-3,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            logging_strategy="no",
            disable_tqdm=True,
        ),  # fmt: skip
        train_dataset=dataset,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
        callbacks=[callback],
    )
    trainer.train()

    for group in callback.report.groups:
        name = f"inserted {group.repetitions} times" if group.repetitions else "held-out controls"
        print(f"{name:20} trained on {group.effective_dose:6.1f} times  exposure {group.mean_bits:5.1f} bits")
    found = extract(trainer.model, tokenizer, template, top_k=3, source=SOURCE, max_expansions=2000)
    known = {canary.text: canary.repetitions for canary in canaries.inserted}
    for candidate in found.candidates:
        print(f"{candidate.log_perplexity_bits:7.2f} bits  inserted {known.get(candidate.text, 0)} times")
    callback.report.save(arguments.out)


if __name__ == "__main__":
    main()
