"""Tests membership statistics on fine-tuned models: full and LoRA, one and four epochs, three seeds.

`OMP_NUM_THREADS=1 python -m benchmarks.membership` needs nothing but the `peft` extra: the text is Python's own help
(`pydoc_data.topics`). It takes about three minutes on one core.

The rules were written before the first run:

1. *Records.* The help texts are cut into windows of 120 characters, which a seed deals out: 400 to pre-train a small
   GPT-2 (2 layers, 96 units, a byte-level BPE of 1,000 entries trained on the same windows) for 6 epochs at 2e-3, 200
   members, and 600 held out. Members and held-out records are drawn alike.
2. *Fine-tunes.* From the pre-trained model, on the members alone, batches of 8, AdamW: all weights at 1e-3, or LoRA
   (rank 8 on the attention's input projection) at 1e-2; one and four epochs. Zero epochs, the base itself, is the
   control: nothing may be detected there.
3. *What is claimed.* For each fine-tune, the AUC and the true-positive rate at 1 % false positives of every statistic,
   as medians over three seeds (of the deal, the pre-training and the fine-tune), and whether the verdict was
   "detected". The expectations are: by loss, four epochs show more than one; nothing at zero epochs in any seed.
   Whatever comes out is written down.
"""

from __future__ import annotations

import argparse
import copy
import pydoc_data.topics
import time
from statistics import median
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from benchmarks.record import write_result
from hf_exposure import MembershipReport, measure_membership

WINDOW, PRE_TRAINING, MEMBERS, HELD_OUT, SEEDS = 120, 400, 200, 600, (0, 1, 2)
SETTINGS = {"full": 1e-3, "lora": 1e-2}


def windows() -> list[str]:
    """All help texts joined and cut into pieces of equal length."""
    text = "\n\n".join(pydoc_data.topics.topics.values())
    return [text[at : at + WINDOW] for at in range(0, len(text) - WINDOW, WINDOW)]


def tokenizer_of(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 1,000 entries."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=1000, initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def train(model: Any, tokenizer: Any, texts: list[str], epochs: int, rate: float, seed: int) -> None:
    """Trains with AdamW on shuffled batches of 8, padded on the right."""
    rng = np.random.default_rng(seed)
    rows = tokenizer(texts)["input_ids"]
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], rate)
    model.train()
    for _ in range(epochs):
        order = rng.permutation(len(rows))
        for first in range(0, len(rows), 8):
            batch = [torch.tensor(rows[number]) for number in order[first : first + 8]]
            labels = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=-100)
            model(input_ids=labels.clamp(min=0), labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.eval()


def figures(report: MembershipReport) -> dict[str, Any]:
    """Returns the values of one report for the table."""
    statistics = {
        name: {
            "auc": one.auc,
            "auc_low": one.auc_low,
            "auc_high": one.auc_high,
            "tpr_at_1_percent": one.tpr[0.01].rate,
        }
        for name, one in report.statistics.items()
    }
    groups = {
        name: {
            "exact_memorization": group.exact_memorization.mean,
            "extraction_strength": group.extraction_strength.mean,
        }
        for name, group in (("members", report.members), ("held_out", report.held_out))
    }
    return {
        "verdict": report.verdict.value, "p_value": report.p_value, "seconds": report.seconds, **groups,
        "statistics": statistics, "records": report.members.records + report.held_out.records,
    }  # fmt: skip


def run(seed: int) -> dict[str, Any]:
    """Runs one split of the data, one pre-training, and all fine-tuning runs from it."""
    torch.manual_seed(seed)
    texts = windows()
    dealt = [texts[number] for number in np.random.default_rng(seed).permutation(len(texts))]
    before, members, held_out = (
        dealt[first:stop]
        for first, stop in (
            (0, PRE_TRAINING),
            (PRE_TRAINING, PRE_TRAINING + MEMBERS),
            (PRE_TRAINING + MEMBERS, PRE_TRAINING + MEMBERS + HELD_OUT),
        )
    )
    tokenizer = tokenizer_of(before)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_layer=2, n_head=4, n_embd=96, n_positions=WINDOW, bos_token_id=0, eos_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    base = GPT2LMHeadModel(config)
    train(base, tokenizer, before, 6, 2e-3, seed)
    found = {"base": figures(measure_membership(base, tokenizer, members, held_out, base))}
    for name, rate in SETTINGS.items():
        model = copy.deepcopy(base)
        if name == "lora":
            model = get_peft_model(model, LoraConfig(r=8, target_modules=["c_attn"], fan_in_fan_out=True))
        done = 0
        for epochs in (1, 4):
            train(model, tokenizer, members, epochs - done, rate, seed + epochs)
            done = epochs
            found[f"{name}_{epochs}"] = figures(measure_membership(model, tokenizer, members, held_out, base))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="number of seeds to run")
    seeds = SEEDS[: parser.parse_args().seeds]
    started = time.perf_counter()
    runs = []
    for seed in seeds:
        runs.append(run(seed))
        for name, one in runs[-1].items():
            aucs = {key: round(value["auc"], 3) for key, value in one["statistics"].items()}
            print(f"seed {seed}, {name}: {one['verdict']}, {aucs}", flush=True)
    medians = {
        name: {
            "detected": sum(one[name]["verdict"] == "detected" for one in runs),
            **{
                statistic: {
                    figure: median(one[name]["statistics"][statistic][figure] for one in runs)
                    for figure in ("auc", "tpr_at_1_percent")
                }
                for statistic in runs[0][name]["statistics"]
            },
        }
        for name in runs[0]
    }
    seconds = time.perf_counter() - started
    write_result("membership", {"seeds": list(seeds), "medians": medians, "runs": runs, "seconds": seconds})


if __name__ == "__main__":
    main()
