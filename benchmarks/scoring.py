"""Compares scoring the candidates of one template with plain batches of whole texts.

Run as `python -m benchmarks.scoring`. Both alternate in one process, three times each. The baseline pads texts on the
right in batches of 64, then takes one forward pass, log-softmax of all logits, gather and sum. Both use the same
model, a GPT-2 with 0.8 million parameters, and a byte tokenizer.

The byte tokenizer is written in Python and takes about 0.1 ms per text in both; results are given with and without it.
Enumerating a space needs no tokenizer, since its token ids come from the template's automaton.
"""

from __future__ import annotations

import dataclasses
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

import hf_exposure.scoring.causal as causal
from benchmarks.record import write_result
from hf_exposure import CanaryTemplate, Digits, log_perplexity
from hf_exposure.extraction import build_automaton, enumerate_texts
from hf_exposure.scoring import CausalScorer, EncodedTexts

REPEATS, SAMPLED, SPACE, SUBSAMPLE = 3, 4096, 10**5, 2000
LEAST = {"candidates": 2.0, "whole_space": 10.0}
WIDTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)
WITHIN_OF_BEST = 1.15
LOG2_E = 1.0 / np.log(2.0)


def plain_bits(model: GPT2LMHeadModel, ids: list[list[int]]) -> np.ndarray:
    """(N,) bits of each text, computed as in a short script."""
    totals = []
    for start in range(0, len(ids), 64):
        rows = [torch.tensor(row) for row in ids[start : start + 64]]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
        with torch.no_grad():
            logits = model(input_ids=padded.clamp(min=0), attention_mask=(padded >= 0).long()).logits
        scores = torch.log_softmax(logits[:, :-1].float(), dim=-1)
        chosen = scores.gather(2, padded[:, 1:].clamp(min=0)[..., None])[..., 0]
        totals.append((chosen * (padded[:, 1:] >= 0)).double().sum(dim=1))
    return -LOG2_E * torch.cat(totals).numpy()


def alternate(ways: dict[str, Callable[[], Any]], repeats: int = REPEATS) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds of each method, run in turn, and the last result of each."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, Any] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            answers[name] = way()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}, answers


def scored(model: GPT2LMHeadModel, tokenizer: Any, encoded: EncodedTexts) -> np.ndarray:
    """Scores from token ids alone; the tree is built and the model is tested again each time."""
    return CausalScorer(model, tokenizer).sequence_bits(dataclasses.replace(encoded))


def candidates(model: GPT2LMHeadModel, tokenizer: Any) -> dict[str, Any]:
    """(a) 4,096 random candidates of nine digits."""
    template = CanaryTemplate("The random number is {number}", number=Digits(9))
    draw = random.Random(0)
    texts = [template.text_at(draw.randrange(template.space_size)) for _ in range(SAMPLED)]
    encoded = CausalScorer(model, tokenizer).encode(texts)
    ids = [list(row) for row in encoded.ids]
    seconds, answers = alternate(
        {
            "plain": lambda: plain_bits(model, tokenizer(texts, add_special_tokens=False)["input_ids"]),
            "ours": lambda: log_perplexity(model, tokenizer, texts),
            "plain_tokenized": lambda: plain_bits(model, ids),
            "ours_tokenized": lambda: scored(model, tokenizer, encoded),
        }
    )
    return {
        "texts": SAMPLED,
        "seconds": {name: round(taken, 3) for name, taken in seconds.items()},
        "ratio": round(seconds["plain"] / seconds["ours"], 2),
        "ratio_without_tokenization": round(seconds["plain_tokenized"] / seconds["ours_tokenized"], 2),
        "largest_difference_bits": float(np.abs(answers["plain"] - answers["ours"]).max()),
        "row_widths": sweep(model, tokenizer, encoded),
    }


def whole_space(model: GPT2LMHeadModel, tokenizer: Any) -> dict[str, Any]:
    """(b) All 10^5 candidates of five digits; the plain method on every 50th of them, times 50."""
    template = CanaryTemplate("The random number is {number}", number=Digits(5))
    step = SPACE // SUBSAMPLE
    texts = [template.text_at(index) for index in range(SPACE)]
    some = texts[::step]
    encoded = CausalScorer(model, tokenizer).encode(texts)
    ids = [list(row) for row in encoded.ids[::step]]

    def from_template() -> np.ndarray:
        scorer = CausalScorer(model, tokenizer)
        return scorer.sequence_bits(enumerate_texts(build_automaton(template, scorer.encoder), 1))

    seconds, answers = alternate(
        {
            "plain": lambda: plain_bits(model, tokenizer(some, add_special_tokens=False)["input_ids"]),
            "plain_tokenized": lambda: plain_bits(model, ids),
            "ours_tokenized": lambda: scored(model, tokenizer, encoded),
            "ours_from_template": from_template,
            "ours_from_texts": lambda: log_perplexity(model, tokenizer, texts),
        }
    )
    seconds["plain"] *= step
    seconds["plain_tokenized"] *= step
    differences = [np.abs(answers["plain"] - answers[name][::step]).max() for name in answers if "ours" in name]
    return {
        "texts": SPACE,
        "plain_is_scaled_from": SUBSAMPLE,
        "seconds": {name: round(taken, 3) for name, taken in seconds.items()},
        "ratio": round(seconds["plain"] / seconds["ours_from_template"], 1),
        "ratio_from_texts": round(seconds["plain"] / seconds["ours_from_texts"], 1),
        "ratio_without_tokenization": round(seconds["plain_tokenized"] / seconds["ours_tokenized"], 1),
        "largest_difference_bits": float(max(differences)),
        "row_widths": sweep(model, tokenizer, encoded),
    }


def sweep(model: GPT2LMHeadModel, tokenizer: Any, encoded: EncodedTexts) -> dict[str, Any]:
    """Seconds of the packed method at each row width, and the width that the cost model chooses."""
    choose, tree = causal.choose_row_width, encoded.tree.tree
    chosen = choose(tree, CausalScorer(model, tokenizer)._shape)

    def at(width: int) -> Callable[[], np.ndarray]:
        def work() -> np.ndarray:
            causal.choose_row_width = lambda tree, shape: max(width, int(tree.depth_M.max()))
            return CausalScorer(model, tokenizer, mode="packed").sequence_bits(encoded)

        return work

    try:
        seconds, _ = alternate({str(width): at(width) for width in sorted({*WIDTHS, chosen})})
    finally:
        causal.choose_row_width = choose
    best = min(seconds, key=lambda width: seconds[width])
    return {
        "seconds": {width: round(taken, 3) for width, taken in seconds.items()},
        "best": int(best),
        "chosen": chosen,
        "chosen_over_best": round(seconds[str(chosen)] / seconds[best], 3),
    }


def main() -> None:
    logging.set_verbosity_error()
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_positions=64, n_embd=128, n_layer=4, n_head=4)).eval()
    tokenizer = ByT5Tokenizer()
    plain_bits(model, [[3, 4, 5]] * 64)
    figures = {"candidates": candidates(model, tokenizer), "whole_space": whole_space(model, tokenizer)}
    described = {"parameters": sum(p.numel() for p in model.parameters()), "threads": torch.get_num_threads()}
    path = write_result("scoring", {**figures, "least_ratio": LEAST, **described})
    failed = False
    for name, least in LEAST.items():
        found = figures[name]
        wide = found["row_widths"]
        print(
            f"{name}: {found['ratio']:g} times plain batches, {found['ratio_without_tokenization']:g} without "
            f"tokenization (at least {least:g}); rows of {wide['chosen']} take {wide['chosen_over_best']:g} of the "
            f"best width, {wide['best']}; answers within {found['largest_difference_bits']:.1g} bits"
        )
        failed |= found["ratio"] < least or found["largest_difference_bits"] > 1e-3
        failed |= wide["chosen_over_best"] > WITHIN_OF_BEST
    print(f"written to {path}")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
