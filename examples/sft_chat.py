"""Canaries in a chat dataset with TRL's SFTTrainer: inserted and scored as the assistant's answers.

Run as `python examples/sft_chat.py`. The model is a small Llama made from its configuration, and the tokenizer is
trained here: nothing is downloaded. It takes about two minutes on one core; `--steps 8` takes a few seconds. It ends
with

    held-out controls    trained on    0.0 times  exposure   1.5 bits
    inserted 1 times     trained on    5.7 times  exposure   9.4 bits
    inserted 16 times    trained on   90.6 times  exposure  29.4 bits
       4.22 bits  inserted 16 times
       4.23 bits  inserted 0 times
       4.44 bits  inserted 16 times
"""

from __future__ import annotations

import argparse

from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from hf_exposure import (
    CanaryContext,
    CanaryTemplate,
    Digits,
    ExposureCallback,
    draw_canaries,
    extract,
    insert_canaries,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|end|>{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def chats(count: int) -> list[dict[str, list[dict[str, str]]]]:
    """Questions about small sums, with answers."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"How much is {n % 37} and {n % 11}?"},
                {"role": "assistant", "content": f"That makes {n % 37 + n % 11}."},
            ]
        }
        for n in range(count)
    ]


def train_tokenizer(rows: list[dict[str, list[dict[str, str]]]]) -> PreTrainedTokenizerFast:
    """A byte-level BPE with one token per digit, like those of Llama and Gemma, so that search works."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|start|>", "<|end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    backend.train_from_iterator((turn["content"] for row in rows for turn in row["messages"]), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=special[0], eos_token=special[2])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>"]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=800, help="chats without a canary")
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps")
    parser.add_argument("--out", default="exposure-sft", help="folder for the report")
    arguments = parser.parse_args()

    rows = chats(arguments.rows)
    tokenizer = train_tokenizer(rows)
    template = CanaryTemplate("Your card number is {number}.", number=Digits(9))
    canaries = draw_canaries(template, repetitions={1: 4, 16: 2}, controls=16)
    # The same object determines where canaries are inserted and where they are scored.
    context = CanaryContext(prompt=[{"role": "user", "content": "What is my card number?"}])
    dataset = insert_canaries(Dataset.from_list(rows), canaries, context=context)

    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    callback = ExposureCallback(canaries, strategy="end", context=context, references=1024, require_delivery=True)
    trainer = SFTTrainer(
        model=LlamaForCausalLM(config),
        args=SFTConfig(
            output_dir=arguments.out,
            max_steps=arguments.steps,
            per_device_train_batch_size=16,
            learning_rate=3e-3,
            assistant_only_loss=True,
            max_length=96,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            logging_steps=50,
        ),  # fmt: skip
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=[callback],
    )
    callback.attach(trainer)
    trainer.train()

    report = callback.report
    for group in report.groups:
        name = f"inserted {group.repetitions} times" if group.repetitions else "held-out controls"
        print(f"{name:20} trained on {group.effective_dose:6.1f} times  exposure {group.mean_bits:5.1f} bits")
    found = extract(trainer.model, tokenizer, template, top_k=3, context=context, max_expansions=2000)
    known = {canary.text: canary.repetitions for canary in canaries.inserted}
    for candidate in found.candidates:
        print(f"{candidate.log_perplexity_bits:7.2f} bits  inserted {known.get(candidate.text, 0)} times")
    report.save(arguments.out)


if __name__ == "__main__":
    main()
