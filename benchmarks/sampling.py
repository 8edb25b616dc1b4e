"""Extraction by sampling on a small model that has learned a text with planted secrets by heart.

`OMP_NUM_THREADS=1 python -m benchmarks.sampling` needs no download: the text is Python's own help, as in
`benchmarks.membership`, whose tokenizer and training it uses.

The rules were written before the first run:

1. *Training.* 300 windows of 120 characters, and 12 secrets of nine digits behind fixed words, inserted 1, 4 or 16
   times (4 each); a GPT-2 of 2 layers and 128 units, 12 epochs from scratch at 2e-3.
2. *Sampling.* 400 texts of 64 tokens at temperature 1 and top-k 40, from the end token; matches of at least 50
   characters, ranked by zlib ratio, loss and Min-K%.
3. *Looked up* in the training data: found, by how many rows hold the match (k), the secrets that were written, and the
   share of matches among the first 10 and 100 by each statistic. And in 300 windows that were held out: what matches
   there is a false match, which says nothing of memorization.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.membership import WINDOW, tokenizer_of, train, windows
from benchmarks.record import write_result
from hf_exposure import CanaryTemplate, Digits, draw_canaries, extract_by_sampling

ROWS, DIGITS = 300, 9


def main() -> None:
    torch.manual_seed(0)
    texts = windows()
    dealt = [texts[number] for number in np.random.default_rng(0).permutation(len(texts))]
    members, held_out = dealt[:ROWS], dealt[ROWS : 2 * ROWS]
    template = CanaryTemplate("The access number is {number}.", number=Digits(DIGITS))
    canaries = draw_canaries(template, {1: 4, 4: 4, 16: 4}, controls=4, seed=1)
    data = [*members, *(one.text for one in canaries.inserted for _ in range(one.repetitions))]
    tokenizer = tokenizer_of(data)
    tokenizer.add_special_tokens({"eos_token": "<|end|>"})
    config = GPT2Config(
        vocab_size=len(tokenizer), n_layer=2, n_head=4, n_embd=128, n_positions=WINDOW + 2, bos_token_id=0,
        eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    train(model, tokenizer, [f"<|end|>{text}<|end|>" for text in data], 12, 2e-3, 0)
    figures: dict[str, Any] = {}
    for rank_by in ("zlib", "loss", "min_k"):
        found = extract_by_sampling(
            model, tokenizer, data, samples=400, length=64, rank_by=rank_by, secrets=canaries, seed=7
        )
        figures[rank_by] = {f"precision_at_{top}": found.precision_at(top) for top in (10, 100)}
    written = set(found.secrets_found)
    false = extract_by_sampling(model, tokenizer, held_out, samples=400, length=64, seed=7)
    figures |= {
        "samples": found.samples,
        "distinct": len(found.texts),
        "matched": len(found.matched),
        "matches_by_examples": {str(k): count for k, count in found.by_examples.items()},
        "secrets_written": {
            str(times): [sum(one.id in written for one in canaries.inserted if one.repetitions == times), 4]
            for times in canaries.repetition_counts
        },
        "false_matches": len(false.matched),
        "seconds": found.seconds,
    }
    print(figures)
    write_result("sampling", figures)


if __name__ == "__main__":
    main()
