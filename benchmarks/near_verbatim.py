"""Tests near-verbatim extraction on the tutorial's model: how tight the bounds are, and whether samples agree with
them.

`python -m benchmarks.near_verbatim FOLDER` trains in FOLDER, continues there after an interruption, and writes
`results/near_verbatim.json`. The rules are in `docs/design/0032-near-verbatim.md`. With `--small` it trains a model of
a quarter of the size for longer, and writes `results/near_verbatim_small.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from scipy import stats
from transformers import AutoTokenizer, GPT2LMHeadModel

from benchmarks.record import write_result
from hf_exposure import CanarySet, near_extraction
from hf_exposure.scoring.decoding import Sampling

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.md"
SCHEMES: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperature 0.7": {"temperature": 0.7},
    "top-k 40": {"top_k": 40},
    "top-p 0.9": {"top_p": 0.9},
    "greedy": {"greedy": True},
}
EDITS, PASSES, SAMPLES = 1, 20, 100_000
WIDEST = 0.1


def tutorial_blocks() -> list[str]:
    """Returns the page's Python code unchanged."""
    return re.findall(r"^```python\n(.*?)^```$", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def fine_tune(folder: Path, *, small: bool) -> None:
    """Steps 1 to 4 of the tutorial in `folder`, without measuring."""
    os.chdir(folder)
    base, canaries, insert, *_ = tutorial_blocks()
    if small:
        base = base.replace("n_layer=3, n_embd=128", "n_layer=2, n_embd=64")
    names: dict[str, Any] = {}
    if Path("base/model.safetensors").exists():  # everything except the training of the base model
        base = re.sub(r"^train\(base, .*$", "", base, flags=re.MULTILINE)
    for code in (base, canaries, insert):
        exec(code, names)
    model = GPT2LMHeadModel.from_pretrained("base")
    # With 4 epochs at 0.002, a model of this size memorizes nothing.
    rate, epochs = (5e-3, 8) if small else (2e-3, 4)
    names["train"](model, names["with_canaries"], "run", rate, epochs, eval_strategy="epoch").save_model()
    names["tokenizer"].save_pretrained("run")


def edits_of(secret: str, said: str) -> tuple[int, int]:
    """From the plain table: the smallest distance of any prefix, and a lower bound on that of any continuation."""
    row = list(range(len(secret) + 1))
    least = row[-1]
    for place, character in enumerate(said, 1):
        above, row = row, [place]
        for column, own in enumerate(secret, 1):
            row.append(min(above[column - 1] + (character != own), above[column] + 1, row[-1] + 1))
        least = min(least, row[-1])
    return least, min(row)


def near_samples(
    model: Any, tokenizer: Any, secrets: list[str], prompt: list[int], scheme: dict[str, Any]
) -> list[int]:
    """The number of samples whose beginning is within the distance of each secret.

    Samples with equal beginnings are continued together, with one multinomial draw of their next tokens. Samples that
    can no longer be near any secret are dropped.
    """
    draw, before = np.random.default_rng(1), tokenizer.decode(prompt)
    near = [0] * len(secrets)
    under_way = {(): (SAMPLES, frozenset(range(len(secrets))))}
    while under_way:
        beginnings, after = list(under_way), {}
        for first in range(0, len(beginnings), 256):
            some = beginnings[first : first + 256]  # all of equal length
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*prompt, *one] for one in some])).logits[:, -1]
            chances = Sampling(**scheme).log_probabilities(logits).double().exp().numpy()
            for beginning, chance in zip(some, chances / chances.sum(axis=1, keepdims=True), strict=True):
                count, candidates = under_way[beginning]
                drawn = draw.multinomial(count, chance)
                for token in np.flatnonzero(drawn).tolist():
                    if token == tokenizer.eos_token_id:
                        continue  # finished, but not close
                    said = tokenizer.decode([*prompt, *beginning, token])[len(before) :]
                    left = []
                    for number in candidates:
                        least, bound = edits_of(secrets[number], said)
                        if least <= EDITS:
                            near[number] += int(drawn[token])
                        elif bound <= EDITS:
                            left.append(number)
                    if left:
                        after[(*beginning, token)] = (int(drawn[token]), frozenset(left))
        under_way = after
    return near


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true", help="a model of a quarter of the size")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if not (folder / "run/model.safetensors").exists():
        fine_tune(folder, small=arguments.small)
    model = GPT2LMHeadModel.from_pretrained(folder / "run").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "run")
    canaries = CanarySet.load(folder / "canaries.json")
    chosen = [one for one in canaries.inserted if one.repetitions == 64]
    chosen += [one for one in canaries.inserted if one.repetitions == 8][:2]
    prompt = tokenizer(canaries.template.prefix.rstrip())["input_ids"]
    kept = folder / "rows.jsonl"
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {(row["canary"], row["scheme"]) for row in rows}
    secrets = [one.text[len(canaries.template.prefix.rstrip()) :] for one in chosen]
    for name, scheme in SCHEMES.items():
        if all((number, name) in done for number in range(len(chosen))):
            continue
        near = None if name == "greedy" else near_samples(model, tokenizer, secrets, prompt, scheme)
        for number, canary in enumerate(chosen):
            if (number, name) in done:
                continue
            found = near_extraction(
                model, tokenizer, canaries.template, canary.text, edits=EDITS, passes=PASSES, width=0.0, **scheme
            )
            row = {
                "canary": number, "repetitions": canary.repetitions, "scheme": name, "low": found.low,
                "high": found.high, "width": found.width, "tokens": found.tokens, "calls": found.forward_passes,
                "expansions": found.expansions, "texts_found": len(found.found), "note": found.note,
            }  # fmt: skip
            if near is not None:
                limits = stats.binomtest(near[number], SAMPLES).proportion_ci(0.9999, method="exact")
                agrees = bool(found.low <= limits.high and found.high >= limits.low)
                row |= {"near_samples": near[number], "agrees": agrees}
            rows.append(row)
            with kept.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
    widths = [row["width"] for row in rows]
    tokens_of_a_pass = len(tokenizer(chosen[0].text)["input_ids"])
    result = {
        "edits": EDITS, "passes": PASSES, "samples": SAMPLES, "tokens_of_a_pass": tokens_of_a_pass,
        "median_width": float(np.median(widths)), "largest_width": max(widths),
        "rules": {
            "median width at most 0.1": float(np.median(widths)) <= WIDEST,
            "samples agree in every case": all(row.get("agrees", True) for row in rows),
        },
        "rows": rows,
    }  # fmt: skip
    print(write_result("near_verbatim_small" if arguments.small else "near_verbatim", result))


if __name__ == "__main__":
    main()
