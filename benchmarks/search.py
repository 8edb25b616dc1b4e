"""Measures the cost of an exact rank against the canary's bits: nine digits, and card numbers of 16 with a Luhn digit.

`python -m benchmarks.search` trains the demo's model on text with both kinds of secret, and every 20 steps ranks each
canary of at most 13 bits by bounded search. A canary of b bits after its template's prefix needs at most digits x 2^b
expansions.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
import transformers
from transformers import ByT5Tokenizer, GPT2LMHeadModel

from benchmarks.record import write_result
from hf_exposure import CanarySet, draw_canaries, extract, insert_canaries, presets
from hf_exposure.demo.inputs import load_model, load_rows
from hf_exposure.extraction import build_automaton, prefix_cost, search_ranks
from hf_exposure.scoring import CausalScorer

MOST_BITS = 13.0
STEPS = 300
TOKENIZER = ByT5Tokenizer()
SETS = {
    "nine digits": (draw_canaries(presets.random_number(9), {64: 3, 16: 3}, controls=0, seed=0), 9),
    "card number": (draw_canaries(presets.credit_card(), {96: 3}, controls=0, seed=1), 16),
}


def rank_all(model: GPT2LMHeadModel, step: int) -> list[dict[str, Any]]:
    """One row for each canary with few enough bits for a fast search."""
    rows = []
    for name, (canaries, digits) in SETS.items():
        scorer = CausalScorer(model, TOKENIZER)
        automaton = AUTOMATA[name]
        for canary in canaries.inserted:
            bits = float(scorer.sequence_bits(scorer.encode([canary.text]))[0])
            hole = bits - prefix_cost(scorer, automaton)
            if hole > MOST_BITS:
                continue
            started = time.perf_counter()
            (found,) = search_ranks(scorer, automaton, [canary.text], max_expansions=10**6)
            rows.append(
                {
                    "secret": name,
                    "step": step,
                    "bits_after_prefix": hole,
                    "rank": [found.low, found.high],
                    "exposure_bits": canaries.log2_space_size - math.log2(found.high),
                    "certified": found.certified,
                    "expansions": found.expansions,
                    "most_expansions": digits * 2**hole,
                    "seconds": time.perf_counter() - started,
                }
            )
    return rows


def train(canary_sets: list[CanarySet]) -> list[dict[str, Any]]:
    """Trains the model and ranks canaries during training."""
    transformers.set_seed(0)
    data = load_rows(None, None, 100_000, 200)
    for number, canaries in enumerate(canary_sets):
        data = insert_canaries(data, canaries, seed=number)
    texts = data["text"]
    model = load_model("small-gpt2", TOKENIZER, 256)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    order = torch.Generator().manual_seed(0)
    rows: list[dict[str, Any]] = []
    step = 0
    while step < STEPS:
        for batch in torch.randperm(len(texts), generator=order).split(16):
            encoded = TOKENIZER([texts[i] for i in batch.tolist()], padding=True, return_tensors="pt")
            labels = encoded.input_ids.masked_fill(encoded.attention_mask == 0, -100)
            model(**encoded, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step % 20 == 0:
                rows += rank_all(model, step)
    for name, (canaries, _) in SETS.items():
        found = extract(model, TOKENIZER, canaries.template, top_k=3)
        inserted = {canary.text for canary in canaries.inserted}
        out = sum(candidate.text in inserted for candidate in found.candidates)
        print(
            f"{name}: {out} of the 3 likeliest were inserted, certified={found.certified}, "
            f"{found.expansions} expansions"
        )
    return rows


AUTOMATA = {name: build_automaton(s.template, CausalScorer(load_model("small-gpt2", TOKENIZER, 64), TOKENIZER).encoder)
            for name, (s, _) in SETS.items()}  # fmt: skip


def main() -> None:
    transformers.logging.set_verbosity_error()
    rows = train([canaries for canaries, _ in SETS.values()])
    small = [row for row in rows if row["bits_after_prefix"] <= 9]
    summary = {
        "searches": len(rows),
        "all_certified": all(row["certified"] for row in rows),
        "largest_share_of_the_bound": max(row["expansions"] / row["most_expansions"] for row in rows),
        "at_most_9_bits": {
            name: {
                "searches": len(chosen),
                "most_expansions": max(row["expansions"] for row in chosen),
                "most_seconds": max(row["seconds"] for row in chosen),
            }
            for name in SETS
            if (chosen := [row for row in small if row["secret"] == name])
        },
    }
    print(summary)
    print(write_result("search", {"threads": torch.get_num_threads(), **summary, "rows": rows}))


if __name__ == "__main__":
    main()
