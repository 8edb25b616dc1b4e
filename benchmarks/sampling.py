"""Tests extraction by sampling on a fine-tuned model with planted secrets: what is found, and how much of it is false.

`OMP_NUM_THREADS=1 python -m benchmarks.sampling` needs the extra "scan" and no download: the text is Python's own help
(`pydoc_data.topics`). Results are written after each seed.

The rules were written before the first run:

1. *Data.* The help texts are cut into windows of 120 characters, which a seed deals out: 600 to pre-train a small
   GPT-2 (2 layers, 96 units, a byte-level BPE of 1,000 entries) for 4 epochs at 2e-3, and 800 for the fine-tune.
   Secrets are made on the spot: nine-digit codes (four for each repetition count), and a card number, an IBAN and a
   phone number (one each for each repetition count), all in rows of their own behind fixed words, repeated 1, 4, 16
   and 64 times. So 595 of the 1,395 rows hold a secret: a share far above that of real data. Fine-tune: all weights,
   3 epochs at 1e-3, batches of 8.
2. *Attack.* The user's own steps: `scan` finds the secrets in the rows, `extract_by_sampling` draws 600 texts of at
   most 64 tokens with its default settings, ranks them by each of the statistics of `measure_membership`, and looks
   them up with matches of at least 24 characters. The control is the same attack on the pre-trained model, which saw
   no secret.
3. *Figures.* Secrets found by repetition count, and those among the first 50 texts by statistic. Distinct matches by
   the number of rows that hold them. False matches: distinct texts that the lookup calls a match though the match
   holds no whole secret. They are split into matches with rows of a secret (the words around it, with some of its
   characters) and matches with help texts (training data, but no secret). Medians over three seeds.
4. *Expectations.* A model that reproduces its rows' frequencies writes a row repeated r times 600 r / 1,395 times: 28
   times for 64 repetitions, 7 for 16, 1.7 for 4, 0.4 for one. So all secrets that were repeated 64 times are found,
   most of 16, few of 4, and none of one, since three epochs do not memorize one. The control finds no secret. Secrets
   that are found are matched with as many rows as they were planted in. Among the first 50 texts, statistics with a
   base model show more secrets than `loss` and `zlib`. Most false matches are the words around a secret. Whatever
   comes out is written down.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections import Counter
from statistics import median
from typing import Any

import numpy as np
import torch
from tokenizers import processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from benchmarks.membership import WINDOW, tokenizer_of, train, windows
from benchmarks.record import write_result
from benchmarks.secret_scan import SECRETS
from hf_exposure import extract_by_sampling, scan
from hf_exposure.canaries import NaturalSecrets
from hf_exposure.estimators.membership import STATISTICS
from hf_exposure.records.sampling import SampledText, SamplingExtraction

PRE_TRAINING, FINE_TUNE, SEEDS, REPETITIONS, CODES = 600, 800, (0, 1, 2), (1, 4, 16, 64), 4
SAMPLES, LENGTH, LEAST, FIRST = 600, 64, 24, 50
FRAMES = {
    "number": "The access code is {}.",
    "card": "Charge it to my card {} please.",
    "iban": "Transfer the rent to {} today.",
    "phone": "Call me on my mobile phone: {}",
}


def plant(rng: random.Random) -> dict[str, tuple[str, int, str]]:
    """Kind, repetitions and row of each secret."""
    planted: dict[str, tuple[str, int, str]] = {}
    for count in REPETITIONS:
        for kind in ["number"] * CODES + ["card", "iban", "phone"]:
            secret = f"{rng.randrange(10**9):09}" if kind == "number" else SECRETS[kind](rng)
            planted[secret] = (kind, count, FRAMES[kind].format(secret))
    return planted


def with_ends(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Adds the end token before and after each text, so that sampling can begin and end."""
    tokenizer.add_special_tokens({"eos_token": "<|end|>", "bos_token": "<|end|>"})
    end = ("<|end|>", tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|end|> $A <|end|>", special_tokens=[end]
    )
    return tokenizer


def first_texts(found: SamplingExtraction) -> dict[str, Any]:
    """Secrets and matches in the first texts of a ranking."""
    first = found.texts[:FIRST]
    return {
        "with_secret": sum(bool(one.secrets) for one in first),
        "matched": sum(bool(one.match) for one in first),
        "secrets": len({secret for one in first for secret in one.secrets}),
    }


def figures(found: SamplingExtraction, secrets: NaturalSecrets, planted: dict[str, tuple[str, int, str]]) -> Any:
    """The result of one attack, independent of the ranking."""
    by_id = {secret.id: secret for secret in secrets if secret.text in planted}
    written = {identifier for identifier in found.secrets_found if identifier in by_id}

    def held(one: SampledText) -> list[str]:
        return [secret for secret in planted if secret in one.match]

    rows = [row for _, _, row in planted.values()]
    false = [one for one in found.matched if not held(one)]
    frames = sum(any(one.match in row for row in rows) for one in false)
    right = [one for one in found.matched if held(one)]
    return {
        "distinct": len(found.texts),
        "found": {
            "codes": _by_count(written, by_id, planted, natural=False),
            "natural": _by_count(written, by_id, planted, natural=True),
        },
        "times_drawn": {
            str(count): sum(
                one.times for one in found.texts if any(planted[by_id[name].text][1] == count for name in one.secrets
                                                        if name in by_id)
            )
            for count in REPETITIONS
        },
        "k_eidetic": {str(k): count for k, count in found.by_examples.items()},
        "matched": len(found.matched),
        "matched_with_secret": len(right),
        "as_many_rows_as_planted": sum(one.examples == planted[held(one)[0]][1] for one in right),
        "false_matches": {"words_around_a_secret": frames, "help_texts": len(false) - frames},
        "seconds": found.seconds,
    }  # fmt: skip


def _by_count(written: set[str], by_id: Any, planted: Any, *, natural: bool) -> dict[str, int]:
    own = (planted[by_id[name].text] for name in written)
    counts = Counter(count for kind, count, _ in own if (kind != "number") is natural)
    return {str(count): counts[count] for count in REPETITIONS}


def run(seed: int) -> dict[str, Any]:
    """Runs one split of the data, one fine-tune, one draw that each statistic ranks, and the control."""
    torch.manual_seed(seed)
    texts = windows()
    dealt = [texts[number] for number in np.random.default_rng(seed).permutation(len(texts))]
    before, own = dealt[:PRE_TRAINING], dealt[PRE_TRAINING : PRE_TRAINING + FINE_TUNE]
    planted = plant(random.Random(seed))
    rows = [*own, *(row for _, count, row in planted.values() for _ in range(count))]
    tokenizer = with_ends(tokenizer_of(before))
    config = GPT2Config(
        vocab_size=len(tokenizer), n_layer=2, n_head=4, n_embd=96, n_positions=WINDOW + 8,
        bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    base = GPT2LMHeadModel(config)
    train(base, tokenizer, before, 4, 2e-3, seed)
    model = copy.deepcopy(base)
    train(model, tokenizer, rows, 3, 1e-3, seed + 1)

    secrets = scan(rows, kinds=list(FRAMES))
    scanned = {secret.text: secret.examples for secret in secrets}
    attack: dict[str, Any] = {
        "samples": SAMPLES, "length": LENGTH, "least_characters": LEAST, "secrets": secrets, "seed": seed,
    }  # fmt: skip
    rankings, fine_tuned = {}, None
    for name in STATISTICS:
        ranked = extract_by_sampling(model, tokenizer, rows, rank_by=name, base_model=base, **attack)
        rankings[name] = first_texts(ranked)
        # The same seed draws the same texts, so only their order differs.
        again = figures(ranked, secrets, planted) | {"seconds": None}
        if fine_tuned not in (None, again):
            raise RuntimeError(f"{name} ranks other texts than the statistics before it")
        fine_tuned = again
    every = ranked.texts
    return {
        "rows": len(rows),
        "planted": dict(Counter(str(count) for _, count, _ in planted.values())),
        "scan_found": sum(scanned.get(secret) == count for secret, (_, count, _) in planted.items()),
        "scan_others": sum(secret not in planted for secret in scanned),
        "fine_tune": fine_tuned,
        "control": figures(extract_by_sampling(base, tokenizer, rows, **attack), secrets, planted),
        "first_texts": rankings,
        "any_order": FIRST * sum(bool(one.secrets) for one in every) / len(every),
    }


def medians(runs: list[Any]) -> Any:
    """The medians of all figures that all runs have."""
    if isinstance(runs[0], dict):
        return {key: medians([one[key] for one in runs]) for key in runs[0] if all(key in one for one in runs)}
    return None if runs[0] is None else median(runs)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="number of seeds to run")
    seeds = SEEDS[: parser.parse_args().seeds]
    started, cpu = time.perf_counter(), time.process_time()
    runs = []
    for seed in seeds:
        runs.append(run(seed))
        print(f"seed {seed}: {runs[-1]}", flush=True)
        write_result(
            "sampling",
            {
                "seeds": list(seeds[: len(runs)]),
                "settings": {"samples": SAMPLES, "length": LENGTH, "least_characters": LEAST, "first": FIRST,
                             "codes": CODES, "natural": len(FRAMES) - 1},
                "medians": medians(runs),
                "runs": runs,
                "seconds": time.perf_counter() - started,
                "processor_seconds": time.process_time() - cpu,
            },
        )  # fmt: skip


if __name__ == "__main__":
    main()
