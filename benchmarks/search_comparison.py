"""Compares this package's search with the paper's, its batched rule and beam search on the same models (Figure 11).

`python -m benchmarks.search_comparison` trains the demo's model on text with one seven-digit number and stops every
few steps, while the number's exposure grows from 0 to log2|R|. At each stop, four searches look for it:

- ours: batched, exact;
- Dijkstra's, one node per call, until the number comes out (the paper's algorithm);
- the paper's batched rule: a fixed batch of the cheapest nodes per call, run twice as long as until the first find;
- beam search of `transformers` under the same constraint, as wide as our search's model rows allow.

The search is for the rank of the number itself: all texts of the same or lower cost are found before it.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
import transformers
from transformers import ByT5Tokenizer, GPT2LMHeadModel

from benchmarks.record import write_result
from hf_exposure import CanarySet, draw_canaries, insert_canaries, presets
from hf_exposure.demo.inputs import load_model, load_rows
from hf_exposure.extraction import TokenAutomaton, build_automaton, prefix_cost, search_likeliest, search_ranks
from hf_exposure.extraction.expansion import SearchCost, expand, next_nodes
from hf_exposure.extraction.frontier import Frontier
from hf_exposure.scoring import CausalScorer

DIGITS = 7
TOKENIZER = ByT5Tokenizer()
FIRST, STEPS, EVERY = 140, 250, 6
# Beyond this many bits after the prefix all searches take minutes.
MOST_BITS, MOST_EXPANSIONS = 24.0, 5_000
PAPER_BATCH = 512


def dijkstra(scorer: CausalScorer, automaton: TokenAutomaton, text: str) -> dict[str, Any]:
    """The paper's shortest-path search (Section 8.1): the cheapest node, until that is the number itself."""
    started, spent, frontier, found = time.perf_counter(), SearchCost(), Frontier(automaton), math.inf
    while frontier.cheapest_bits < found and spent.expansions < MOST_EXPANSIONS:
        for expansion in expand(scorer, automaton, next_nodes(frontier, automaton, 1, math.inf, math.inf), spent):
            found = min([found, *(leaf.cost_bits for leaf in expansion.leaves if leaf.text == text)])
            frontier.push_children(expansion.node, expansion.children_C, expansion.costs_C, math.inf)
    return _cost(spent, started, found < math.inf)


def paper_batched(scorer: CausalScorer, automaton: TokenAutomaton, text: str) -> dict[str, Any]:
    """The paper's rule: a fixed batch per call, and twice as many calls as until the first find."""
    started, spent, frontier = time.perf_counter(), SearchCost(), Frontier(automaton)
    calls_at_find = math.inf
    while spent.forward_passes < 2 * calls_at_find and spent.expansions < MOST_EXPANSIONS:
        nodes = next_nodes(frontier, automaton, PAPER_BATCH, math.inf, math.inf)
        if not nodes:
            break
        for expansion in expand(scorer, automaton, nodes, spent):
            if any(leaf.text == text for leaf in expansion.leaves):
                calls_at_find = spent.forward_passes
            frontier.push_children(expansion.node, expansion.children_C, expansion.costs_C, math.inf)
    return _cost(spent, started, calls_at_find < math.inf)


def ours(scorer: CausalScorer, automaton: TokenAutomaton, text: str) -> dict[str, Any]:
    """The certified rank of the number."""
    (bounds,) = search_ranks(scorer, automaton, [text], max_expansions=MOST_EXPANSIONS)
    row = {"expansions": bounds.expansions, "calls": bounds.forward_passes, "model_rows": bounds.model_rows}
    return {**row, "seconds": bounds.seconds, "found": bounds.certified, "rank": [bounds.low, bounds.high]}


def _cost(spent: SearchCost, started: float, found: bool) -> dict[str, Any]:
    row = {"expansions": spent.expansions, "calls": spent.forward_passes, "model_rows": spent.model_rows}
    return {**row, "seconds": time.perf_counter() - started, "found": found}


def beam_finds_best(model: GPT2LMHeadModel, canaries: CanarySet, best: str, rows: int) -> bool:
    """Whether beam search finds the true best, with as many model rows as our search needed for it."""
    prompt = TOKENIZER(canaries.template.prefix, add_special_tokens=False, return_tensors="pt")
    digits = [TOKENIZER(digit, add_special_tokens=False)["input_ids"][0] for digit in "0123456789"]
    # Each step feeds one row per beam.
    beams = max(1, rows // DIGITS)
    output = model.generate(
        **prompt, num_beams=beams, do_sample=False, max_new_tokens=DIGITS, min_new_tokens=DIGITS,
        prefix_allowed_tokens_fn=lambda _, __: digits, pad_token_id=0, length_penalty=0.0,
    )  # fmt: skip
    return TOKENIZER.decode(output[0]) == best


def look(model: GPT2LMHeadModel, canaries: CanarySet, step: int) -> dict[str, Any]:
    """One stop: the exposure, the three searches for the number, and beam search for the likeliest text."""
    scorer = CausalScorer(model, TOKENIZER)
    automaton, text = build_automaton(canaries.template, scorer.encoder), canaries.inserted[0].text
    scorer.path_bits(automaton.prefix, [])  # no search benefits from an earlier one
    bits = float(scorer.sequence_bits(scorer.encode([text]))[0]) - prefix_cost(scorer, automaton)
    if bits > MOST_BITS:
        return {"step": step, "bits_after_prefix": bits}
    exact = ours(scorer, automaton, text)
    exposure = canaries.template.log2_space_size - math.log2(exact["rank"][1])
    row = {"step": step, "bits_after_prefix": bits, "exposure_bits": exposure, "ours": exact}
    if exact["found"]:
        row["dijkstra"] = dijkstra(scorer, automaton, text)
        row["paper_batched"] = paper_batched(scorer, automaton, text)
    best = search_likeliest(scorer, automaton, top_k=1, max_expansions=MOST_EXPANSIONS)
    if best.certified:
        row["best_model_rows"] = best.model_rows
        row["beam_finds_best"] = beam_finds_best(model, canaries, best.candidates[0].text, best.model_rows)
    return row


def train(seed: int) -> list[dict[str, Any]]:
    """Trains one model and compares the searches every few steps."""
    transformers.set_seed(seed)
    canaries = draw_canaries(presets.random_number(DIGITS), {48: 1}, controls=0, seed=seed)
    texts = insert_canaries(load_rows(None, None, 100_000, 200), canaries, seed=seed)["text"]
    model = load_model("small-gpt2", TOKENIZER, 256)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    order, step = torch.Generator().manual_seed(seed), 0
    rows: list[dict[str, Any]] = []
    while step < STEPS:
        for batch in torch.randperm(len(texts), generator=order).split(16):
            encoded = TOKENIZER([texts[i] for i in batch.tolist()], padding=True, return_tensors="pt")
            labels = encoded.input_ids.masked_fill(encoded.attention_mask == 0, -100)
            model.train()(**encoded, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step >= FIRST and step % EVERY == 0:
                rows.append({"seed": seed, **look(model.eval(), canaries, step)})
                print(_in_short(rows[-1]), flush=True)
    return rows


def _in_short(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: f"{value['expansions']} in {value['seconds']:.2f} s" if isinstance(value, dict) else value
        for name, value in row.items()
    }


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Ratios of time at moderate exposure, and how often beam search fails."""
    both = [(row["ours"]["seconds"], row["dijkstra"]["seconds"]) for row in rows if _is_moderate(row)]
    ratios = [theirs / own for own, theirs in both]
    beams = [row["beam_finds_best"] for row in rows if "beam_finds_best" in row]
    return {
        "moderate_searches": len(both),
        "dijkstra_over_ours_median": float(np.median(ratios)) if ratios else None,
        "dijkstra_over_ours_least": min(ratios, default=None),
        "dijkstra_over_ours_in_total": sum(t for _, t in both) / sum(o for o, _ in both) if both else None,
        "beam_searches": len(beams),
        "beam_misses": beams.count(False),
    }


def _is_moderate(row: dict[str, Any]) -> bool:
    return 10 <= row.get("exposure_bits", 0.0) <= 20 and row.get("dijkstra", {}).get("found", False)


def plot(rows: list[dict[str, Any]], path: str) -> None:
    """Plots expansions and calls of the model against exposure."""
    from matplotlib.figure import Figure

    styles = {"ours": ("o", "#0072B2"), "dijkstra": ("^", "#D55E00"), "paper_batched": ("s", "#009E73")}
    labels = {"ours": "ours", "dijkstra": "Dijkstra", "paper_batched": f"the paper's batched rule ({PAPER_BATCH})"}
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, what in zip(figure.subplots(1, 2), ("expansions", "calls"), strict=True):
        for name, (marker, color) in styles.items():
            shown = [row for row in rows if name in row and row[name]["found"]]
            axes.plot(
                [row["exposure_bits"] for row in shown], [row[name][what] for row in shown], marker, color=color,
                markerfacecolor="none", label=labels[name],
            )  # fmt: skip
        axes.set_yscale("log")
        axes.set_xlabel("exposure of the number (bits)")
        axes.set_ylabel("prefixes expanded" if what == "expansions" else "calls of the model")
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.suptitle("Cost of finding a seven-digit number, from hardly to fully memorized")
    figure.savefig(path, dpi=120)


def main() -> None:
    transformers.logging.set_verbosity_error()
    rows = [row for seed in (0, 1) for row in train(seed)]
    summary = summarize(rows)
    print(summary)
    path = write_result("search_comparison", {"threads": torch.get_num_threads(), **summary, "rows": rows})
    plot(rows, str(path.parents[2] / "docs" / "images" / "search_comparison.png"))
    print(path)


if __name__ == "__main__":
    main()
