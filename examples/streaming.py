"""Canaries in a stream: one pass has the requested number of canaries, regardless of the number of workers.

Run as `python examples/streaming.py`. Two workers read a stream of eight shards; nothing is downloaded. It takes about
a minute on one core; with `--rows 200`, a few seconds. It prints

    68 of 68 canary rows arrive in one pass of 4068 rows
    held-out controls    exposure   1.5 bits
    inserted 1 times     exposure   0.5 bits
    inserted 32 times    exposure   6.2 bits
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from datasets import Features, IterableDataset, Value
from transformers import (
    ByT5Tokenizer,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
)

from hf_exposure import CanaryTemplate, Digits, ExposureCallback, check_delivery, draw_canaries, insert_canaries

SHARDS = 8


def sentences(shards: list[int], rows: int) -> Iterator[dict[str, str]]:
    """The rows of some shards; a real stream would open a file for each."""
    for shard in shards:
        for row in range(rows // SHARDS):
            yield {"text": f"Shard {shard} has a line {row}, and {row} plus {shard} is {row + shard}."}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4000, help="rows of the stream without canaries")
    parser.add_argument("--out", default="exposure-stream", help="folder for the report")
    arguments = parser.parse_args()

    tokenizer = ByT5Tokenizer()
    template = CanaryTemplate("The random number is {number}.", number=Digits(9))
    canaries = draw_canaries(template, repetitions={1: 4, 32: 2}, controls=16)
    stream = IterableDataset.from_generator(
        sentences,
        gen_kwargs={"shards": list(range(SHARDS)), "rows": arguments.rows},
        features=Features({"text": Value("string")}),
    )
    # The approximate number of rows is used to spread the canaries evenly; it does not affect their number.
    stream = insert_canaries(stream, canaries, num_rows=arguments.rows)
    stream = stream.map(lambda row: {"input_ids": tokenizer(row["text"])["input_ids"]}, remove_columns=["text"])
    # A stream is not read before training unless this is requested. This one is short enough to be read completely.
    total = arguments.rows + canaries.total_insertions
    delivery = check_delivery(stream, canaries, tokenizer, max_rows=total)
    arrived = sum(one.whole for one in delivery.canaries)
    print(f"{arrived} of {canaries.total_insertions} canary rows arrive in one pass of {delivery.rows} rows")

    batch = 16
    callback = ExposureCallback(canaries, strategy="end", references=1024)
    trainer = Trainer(
        model=GPT2LMHeadModel(
            GPT2Config(vocab_size=384, n_layer=2, n_head=4, n_embd=96, n_positions=128, bos_token_id=1, eos_token_id=1)
        ),
        args=TrainingArguments(
            output_dir=arguments.out,
            max_steps=total // batch,
            per_device_train_batch_size=batch,
            learning_rate=3e-3,
            dataloader_num_workers=2,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            logging_steps=50,
        ),  # fmt: skip
        train_dataset=stream.shuffle(seed=0, buffer_size=500),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        processing_class=tokenizer,
        callbacks=[callback],
    )
    callback.attach(trainer)
    trainer.train()
    for group in callback.report.groups:
        name = f"inserted {group.repetitions} times" if group.repetitions else "held-out controls"
        print(f"{name:20} exposure {group.mean_bits:5.1f} bits")
    callback.report.save(arguments.out)


if __name__ == "__main__":
    main()
