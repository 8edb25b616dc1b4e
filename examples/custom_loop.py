"""A custom training loop with Accelerate, with the measurements that `ExposureCallback` makes under a Trainer.

python examples/custom_loop.py
ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 examples/custom_loop.py
accelerate launch --num_processes 8 examples/custom_loop.py --steps 400           # with GPUs
accelerate launch --use_fsdp --fsdp_version 2 --num_processes 8 examples/custom_loop.py

The first of them prints

step 20: exposure 7.0 bits inserted 16 times, 2.6 once, 0.8 held out (log2|R| = 19.9; 1 processes)
step 40: exposure 15.4 bits inserted 16 times, 2.7 once, 0.7 held out (log2|R| = 19.9; 1 processes)
step 60: exposure 19.1 bits inserted 16 times, 3.3 once, 0.9 held out (log2|R| = 19.9; 1 processes)
"""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

from hf_exposure import CanaryTemplate, Digits, draw_canaries
from hf_exposure.measures import ExposureMeter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--measure-every", type=int, default=20)
    options = parser.parse_args()
    accelerator = Accelerator()
    set_seed(0)

    template = CanaryTemplate("The door code is {code}.", code=Digits(6))
    # The seed makes every process draw the same secrets. For real canaries, load one file in every process instead.
    canaries = draw_canaries(template, repetitions={1: 2, 16: 2}, controls=4, seed=0)
    tokenizer = ByT5Tokenizer()
    texts = [f"Row {number} says nothing in particular." for number in range(64)]
    texts += [canary.text for canary in canaries.inserted for _ in range(canary.repetitions)]
    loader = DataLoader(texts, batch_size=16, shuffle=True, collate_fn=lambda batch: collate(tokenizer, batch))

    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=384, n_layer=2, n_head=4, n_embd=64, n_positions=64, bos_token_id=1, eos_token_id=1)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    # It is prepared once and can measure at any step. Every process must call measure, and all get the same report.
    meter = ExposureMeter(canaries, tokenizer, references=512, across_processes=True)
    step = 0
    while step < options.steps:
        for batch in loader:
            accelerator.backward(model(**batch).loss)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step % options.measure_every == 0:
                report = meter.measure(model)
                figures = report.metrics()
                accelerator.print(
                    f"step {step}: exposure {figures['eval_exposure_x16_mean']:.1f} bits inserted 16 times, "
                    f"{figures['eval_exposure_x1_mean']:.1f} once, "
                    f"{figures['eval_exposure_controls_mean']:.1f} held out "
                    f"(log2|R| = {template.log2_space_size:.1f}; {accelerator.num_processes} processes)"
                )
            if step >= options.steps:
                break
    accelerator.end_training()


def collate(tokenizer: ByT5Tokenizer, batch: list[str]) -> dict[str, torch.Tensor]:
    encoded = tokenizer(batch, padding=True, return_tensors="pt")
    labels = encoded["input_ids"].masked_fill(encoded["attention_mask"] == 0, -100)
    return {**encoded, "labels": labels}


if __name__ == "__main__":
    main()
