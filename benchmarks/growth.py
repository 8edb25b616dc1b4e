"""Measures how enumeration scales with the space: seconds per node from 10^2 to 10^6 candidates, and the bare model.

`python -m benchmarks.growth` scores every text of templates with 3 to 6 digits under the same model. It compares this
with batches of whole texts (2,000 texts, extrapolated), and with the model alone on the batches of the scorer.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers
from torch import nn
from transformers import ByT5Tokenizer

from benchmarks.record import write_result
from hf_exposure import CanaryTemplate, Digits
from hf_exposure.demo.inputs import load_model
from hf_exposure.extraction import build_automaton, enumerate_texts
from hf_exposure.scoring import CausalScorer, EncodedTexts

TOKENIZER = ByT5Tokenizer()
PLAIN_TEXTS, PLAIN_BATCH = 2_000, 64
ROUNDS = 5


class Recorder(nn.Module):
    """Records the arguments of a model's calls, to repeat the calls alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.config, self.calls = model, model.config, []

    def forward(self, **inputs: Any) -> Any:
        self.calls.append(inputs)
        return self.model(**inputs)


def plain_seconds(model: nn.Module, texts: list[str]) -> float:
    """The baseline: batches of whole texts and log-softmax of all logits."""
    started = time.perf_counter()
    with torch.no_grad():
        for first in range(0, len(texts), PLAIN_BATCH):
            ids = torch.tensor(TOKENIZER(texts[first : first + PLAIN_BATCH], add_special_tokens=False)["input_ids"])
            log_p = torch.log_softmax(model(input_ids=ids).logits, dim=-1)
            log_p[:, :-1].gather(2, ids[:, 1:, None]).sum(dim=1)
    return time.perf_counter() - started


def enumerate_once(model: nn.Module, digits: int) -> tuple[float, EncodedTexts]:
    """Seconds from building the template's automaton to the bits of all its texts."""
    template = CanaryTemplate("The random number is {number}", number=Digits(digits))
    scorer = CausalScorer(model, TOKENIZER)
    automaton = build_automaton(template, scorer.encoder)
    started = time.perf_counter()
    space = enumerate_texts(automaton, scorer.encoder.first_scored)
    scorer.sequence_bits(space)
    return time.perf_counter() - started, space


def bare_seconds(model: nn.Module, space: EncodedTexts) -> float:
    """Calls the model alone on the batches of the scorer."""
    recorder = Recorder(model)
    CausalScorer(recorder, TOKENIZER, mode="packed").sequence_bits(space)
    started = time.perf_counter()
    with torch.no_grad():
        for inputs in recorder.calls:
            cache = inputs.get("past_key_values")
            if cache is not None:  # a call appends to its cache, which is cut back to the prefix
                cache.crop(-(cache.get_seq_length() - len(space.tree.tree.prefix_P)))
            model(**inputs)
    return time.perf_counter() - started


def enumerate_space(model: nn.Module, digits: int) -> dict[str, Any]:
    """Returns the fastest of several rounds, alternating between bare forward passes and complete scoring."""
    rounds = ROUNDS if digits <= 5 else 2  # without the bare forward: the recorded inputs would not fit
    whole, bare = [], []
    for _ in range(rounds):
        seconds, space = enumerate_once(model, digits)
        whole.append(seconds)
        if digits <= 5:
            bare.append(bare_seconds(model, space))
    row = {"digits": digits, "texts": len(space), "inner_nodes": space.tree.tree.size, "seconds": min(whole)}
    if bare:
        row |= {"bare_forward_seconds": min(bare), "ratio_to_bare": min(whole) / min(bare), "rounds": rounds}
    return row


def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.set_seed(0)
    model = load_model("small-gpt2", TOKENIZER, 256).eval()
    enumerate_space(model, 3)  # warm
    rows = [enumerate_space(model, digits) for digits in (3, 4, 5, 6)]
    template = CanaryTemplate("The random number is {number}", number=Digits(6))
    per_text = plain_seconds(model, [template.text_at(499 * i) for i in range(PLAIN_TEXTS)]) / PLAIN_TEXTS
    for row in rows:
        row["microseconds_per_node"] = 1e6 * row["seconds"] / row["inner_nodes"]
        row["ratio_to_plain"] = per_text * row["texts"] / row["seconds"]
        print(row)
    figures = {"plain_seconds_per_text": per_text, "plain_texts": PLAIN_TEXTS, "threads": torch.get_num_threads()}
    print(write_result("growth", {**figures, "rows": rows}))


if __name__ == "__main__":
    main()
