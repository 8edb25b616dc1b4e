"""Compares hf_exposure with TensorFlow Privacy's exposure formulas and memaudit 0.2 on the same trained models.

`python -m benchmarks.peers` needs both peers on the path, without their dependencies:

    pip install --no-deps --target PEERS memaudit==0.2.0 tensorflow-privacy==0.8.12
    PYTHONPATH=.:PEERS OMP_NUM_THREADS=1 python -m benchmarks.peers

(0.8.12 is the last release of tensorflow-privacy whose wheel contains the formulas. They are loaded from their file,
without TensorFlow.)

The rules were written before any tool was run, with one exception, which they name:

1. *One model.* The demo's small model, on bytes, learns one part of a text without canaries (the base model) and is
   then trained on another part with canaries. memaudit audits fine-tunes and wants a base model; the other tools may
   use it or not. There are two trainings, which differ in the secrets alone: nine digits, the usual canary of this
   package, and 32 letters, the length that memaudit's generator draws by default.
2. *The same canaries for all.* The numbers are those of memaudit's "powered" profile: 100 inserted 1, 4 or 16 times,
   and 200 held-out controls of the same draw. After a pilot, in which no canary was memorized, 8 were added that are
   inserted 64 times, as in this package's demo, with text enough to hold them, and the search for the likeliest texts
   took the demo's settings. The text before a secret is memaudit's, since memaudit scores no
   other: its `inject` and our `insert_canaries` must give the same rows, which is asserted. A training this small has
   to be full of canaries for any tool to see them: memaudit recommends at most 0.1 % of the tokens.
3. *Each tool as its documentation says.* hf_exposure: `measure_exposure` with all defaults, without and with the base
   model. TensorFlow Privacy: the mean loss per token, with 65,536 references as in its notebook, scored in plain
   batches; and with 4,096 references, the most that hf_exposure draws by default. memaudit: `run_audit` with the base
   model as `ref`, its default scorer, prefixes and sample of real records, and a held-out population; and with
   `ref="none"`.
4. *A detection at 1 % false positives.* The threshold is the lowest score of a control that at most 1 % of the
   controls exceed, and an inserted canary is detected if its score exceeds the threshold. The score of a tool is its
   headline figure: exposure, or memaudit's headline score. Rates have Clopper-Pearson intervals of 95 %, over
   canaries, for this one model and this one threshold. memaudit also applies a rule of its own (at least the 99 %
   quantile of the controls, rounded up), and what it reports is stored too. hf_exposure allows a second rule, without
   controls: a text that the model never saw has an exposure of at least log2(100) bits with probability at most 1 %.
   The controls check it.
5. *Cost.* Processor seconds of the process on one thread, and tokens fed to the models (padding included), from the
   call to the finished figures. Loading and training are not counted; scoring the canaries and references is.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
import itertools
import math
import pickle
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset, disable_progress_bars
from torch.nn.functional import cross_entropy
from transformers import ByT5Tokenizer, PreTrainedModel, get_linear_schedule_with_warmup

from benchmarks.record import write_result
from hf_exposure import (
    CanarySet,
    CanaryTemplate,
    Digits,
    Letters,
    draw_canaries,
    extract,
    insert_canaries,
    measure_exposure,
)
from hf_exposure.canaries.space import Space
from hf_exposure.demo import DemoSettings
from hf_exposure.demo.inputs import load_model, load_rows
from hf_exposure.estimators import clopper_pearson
from hf_exposure.records import ExposureReport

SECRETS = {"nine digits": Digits(9), "32 letters": Letters(32)}
PREFIX = "MEMAUDIT RECOVERY PHRASE: "
REPETITIONS, CONTROLS = {1: 34, 4: 33, 16: 33, 64: 8}, 200
FALSE_POSITIVES = 0.01
REFERENCES, FEWER_REFERENCES = 65_536, 4_096
PART_ROWS, ROW_CHARACTERS, CONTEXT = 1_210, 120, 256
EPOCHS, BATCH, LEARNING_RATE, WARMUP = 4, 16, 2e-3, 20
SEED = 0
TOKENIZER = ByT5Tokenizer()
_FORMULAS = "tensorflow_privacy/privacy/privacy_tests/secret_sharer/exposures.py"


def threshold_of(controls: Iterable[float], false_positives: float = FALSE_POSITIVES) -> float:
    """The lowest control score that at most this share of the controls exceeds."""
    descending = sorted(controls, reverse=True)
    return descending[math.floor(false_positives * len(descending))]


def detected(scores: Iterable[float], threshold: float) -> dict[str, Any]:
    """The number of scores above the threshold, with the Clopper-Pearson interval of their share."""
    above = [score > threshold for score in scores]
    low, high = clopper_pearson([sum(above)], len(above))
    return {"detected": sum(above), "of": len(above), "low": float(low[0]), "high": float(high[0])}


def detections(scores: Sequence[float], repetitions: Sequence[int], threshold: float | None = None) -> dict[str, Any]:
    """Detections by repetition count (0 are the controls), and of all inserted canaries together.

    The threshold is that of rule 4 unless one is given.
    """
    if any(map(math.isnan, scores)):
        raise ValueError("a score is NaN")
    groups: dict[int, list[float]] = {}
    for score, count in zip(scores, repetitions, strict=True):
        groups.setdefault(count, []).append(score)
    controls = groups.pop(0)
    threshold = threshold_of(controls) if threshold is None else threshold
    return {
        "threshold": threshold,
        "controls": detected(controls, threshold),
        "inserted": detected([score for group in groups.values() for score in group], threshold),
        "by_repetitions": {str(count): detected(groups[count], threshold) for count in sorted(groups)},
    }


@dataclass
class Cost:
    """Processor seconds, and tokens fed to models."""

    processor_seconds: float = 0.0
    tokens: int = 0


@contextmanager
def counted(*models: PreTrainedModel) -> Iterator[Cost]:
    """Counts processor time and tokens within the block."""
    cost = Cost()

    def count(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        cost.tokens += ids.numel() if ids is not None else math.prod(kwargs["inputs_embeds"].shape[:2])

    hooks = [model.register_forward_pre_hook(count, with_kwargs=True) for model in models]
    started = time.process_time()
    try:
        yield cost
    finally:
        cost.processor_seconds = time.process_time() - started
        for hook in hooks:
            hook.remove()


@dataclass
class Trained:
    """The inputs of every tool."""

    model: PreTrainedModel
    base: PreTrainedModel
    canaries: CanarySet
    text_rows: Dataset
    rows: Dataset
    unseen_rows: Dataset
    seconds: float
    loss_bits_per_token: float

    @property
    def repetitions(self) -> list[int]:
        return [canary.repetitions for canary in self.canaries]


def learn(model: PreTrainedModel, texts: list[str]) -> float:
    """Trains like the demo: AdamW, warm-up, linear decay. Returns the mean loss of the last epoch in bits per
    token.
    """
    steps = EPOCHS * math.ceil(len(texts) / BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, WARMUP, steps)
    order = torch.Generator().manual_seed(SEED)
    losses: list[float] = []
    for _ in range(EPOCHS):
        losses.clear()
        for batch in torch.randperm(len(texts), generator=order).split(BATCH):
            encoded = TOKENIZER([texts[i] for i in batch.tolist()], padding=True, return_tensors="pt")
            labels = encoded.input_ids.masked_fill(encoded.attention_mask == 0, -100)
            loss = model.train()(**encoded, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item() / math.log(2))
    model.eval()
    return float(np.mean(losses))


def text_parts() -> list[Dataset]:
    """The text of the base model, the text of the training, and text that no model sees."""
    text = load_rows(None, None, 3 * PART_ROWS * ROW_CHARACTERS, ROW_CHARACTERS)
    ends = [PART_ROWS, 2 * PART_ROWS, len(text)]
    return [text.select(range(start, end)) for start, end in zip([0, *ends], ends, strict=False)]


def train_base(rows: Dataset) -> PreTrainedModel:
    """Returns a model that never saw a canary."""
    transformers.set_seed(SEED)
    base = load_model("small-gpt2", TOKENIZER, CONTEXT)
    learn(base, rows["text"])
    return base


def train(secret: Space, base: PreTrainedModel, parts: Sequence[Dataset]) -> Trained:
    """The base model, trained further on text with canaries."""
    template = CanaryTemplate(PREFIX + "{secret}", secret=secret)
    canaries = draw_canaries(template, REPETITIONS, controls=CONTROLS, seed=SEED)
    rows = insert_canaries(parts[1], canaries, seed=SEED)
    model = copy.deepcopy(base)
    started = time.process_time()
    loss = learn(model, rows["text"])
    return Trained(model, base, canaries, parts[1], rows, parts[2], time.process_time() - started, loss)


def hf_exposure_row(trained: Trained, base_model: PreTrainedModel | None) -> tuple[dict[str, Any], ExposureReport]:
    """Calls `measure_exposure` with all defaults."""
    with counted(trained.model, trained.base) as cost:
        report = measure_exposure(trained.model, TOKENIZER, trained.canaries, base_model=base_model)
    gained = [e.exposure_bits - (e.base_exposure_bits if base_model else 0.0) for e in report.estimates]
    groups = [
        {
            "repetitions": group.repetitions,
            "mean_bits": group.mean_bits,
            "low_bits": group.low_bits,
            "high_bits": group.high_bits,
            "corrected_p_value": group.corrected_p_value,
            "rank1": group.rank1,
            "rank1_share_low": group.rank1_share_low,
            "bounds": {
                kind: sum(e.bound == kind for e in group.estimates)
                for kind in sorted({e.bound for e in group.estimates})
            },
        }
        for group in report.groups
    ]
    row = {"cost": vars(cost), "detections": detections(gained, trained.repetitions), "groups": groups}
    return {**row, "auc": [report.auc, report.auc_low, report.auc_high]}, report


def extraction_row(trained: Trained) -> dict[str, Any]:
    """The number of inserted canaries among the template's likeliest texts, with the demo's settings."""
    inserted = {canary.text: canary.repetitions for canary in trained.canaries.inserted}
    top_k, limit = DemoSettings.top_k, 20_000
    with counted(trained.model) as cost:
        found = extract(trained.model, TOKENIZER, trained.canaries.template, top_k, max_expansions=limit)
    out = [inserted[candidate.text] for candidate in found.candidates if candidate.text in inserted]
    return {
        "cost": vars(cost),
        "top_k": top_k,
        "certified": found.certified,
        "extracted": len(out),
        "by_repetitions": {str(count): out.count(count) for count in REPETITIONS},
    }


def mean_losses(model: PreTrainedModel, texts: Sequence[str], batch: int = 256) -> list[float]:
    """Nats per token of texts of equal length in plain batches, as a user of the formulas would write it."""
    losses: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(texts), batch):
            ids = TOKENIZER(
                list(texts[start : start + batch]), add_special_tokens=False, return_tensors="pt"
            ).input_ids
            logits = model(input_ids=ids).logits[:, :-1]
            losses += cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").mean(dim=1).tolist()
    return losses


def uniform_texts(canaries: CanarySet, count: int) -> list[str]:
    """Returns random texts of the template, none of them an inserted canary."""
    (space,) = canaries.template.spaces.values()
    draw, taken = random.Random(SEED + 1), {canary.text for canary in canaries.inserted}
    drawn = (PREFIX + space.text_at(draw.randrange(space.size)) for _ in itertools.count())
    return list(itertools.islice((text for text in drawn if text not in taken), count))


def tensorflow_formulas() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Loads interpolation and extrapolation from their file, since the package itself imports TensorFlow."""
    path = metadata.distribution("tensorflow-privacy").locate_file(_FORMULAS)
    spec = importlib.util.spec_from_file_location("tensorflow_privacy_exposures", str(path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.compute_exposure_interpolation, module.compute_exposure_extrapolation


def tensorflow_privacy_rows(trained: Trained, report: ExposureReport) -> dict[str, Any]:
    """Both formulas, with two numbers of references."""
    rows = {}
    for references in (REFERENCES, FEWER_REFERENCES):
        texts = uniform_texts(trained.canaries, references)
        with counted(trained.model) as scoring:
            costs = mean_losses(trained.model, [canary.text for canary in trained.canaries])
            reference_costs = mean_losses(trained.model, texts)
        # One key per canary, since the order within a key is not kept.
        keyed = {str(place): [cost] for place, cost in enumerate(costs)}
        for name, formula in zip(("interpolation", "extrapolation"), tensorflow_formulas(), strict=True):
            with counted() as own:
                answer = formula(keyed, reference_costs)
            bits = [float(answer[key][0]) for key in keyed]
            seconds = scoring.processor_seconds + own.processor_seconds
            rows[f"TensorFlow Privacy, {name}, {references:,} references"] = {
                "references": references,
                "cost": {"processor_seconds": seconds, "tokens": scoring.tokens},
                "detections": detections(bits, trained.repetitions),
                "mean_bits": means(bits, trained.repetitions),
                "infinite": sum(map(math.isinf, bits)),
                **errors(bits, report),
            }
    return rows


def means(bits: Sequence[float], repetitions: Sequence[int]) -> dict[str, float]:
    """The mean exposure by repetition count."""
    counts = sorted(set(repetitions))
    return {
        str(count): float(np.mean([one for one, r in zip(bits, repetitions, strict=True) if r == count]))
        for count in counts
    }


def errors(bits: Sequence[float], report: ExposureReport) -> dict[str, Any]:
    """Differences from the exposures that the search proved, over the canaries for which it did."""
    known = [one - e.exposure_bits for one, e in zip(bits, report.estimates, strict=True) if e.bound == "exact"]
    finite = [one for one in known if math.isfinite(one)]
    return {"proven": len(known), "mean_error_bits": float(np.mean(finite)) if finite else None,
            "largest_error_bits": max(map(abs, finite), default=None)}  # fmt: skip


def memaudit_row(trained: Trained, ref: PreTrainedModel | str) -> dict[str, Any]:
    """`run_audit` as its README calls it: both verdicts, real records against a held-out population."""
    memaudit, audit = importlib.import_module("memaudit"), importlib.import_module("memaudit.audit")
    manifest = memaudit_manifest(memaudit, trained)
    with tempfile.TemporaryDirectory() as folder, counted(trained.model, trained.base) as cost:
        report = audit.run_audit(
            trained.model, TOKENIZER, manifest, trained.rows, ref=ref, held_out=trained.unseen_rows,
            output_path=f"{folder}/memaudit-report.json",
        )  # fmt: skip
    with counted(trained.model, trained.base) as membership_cost:
        audit.run_audit(trained.model, TOKENIZER, manifest, ref=ref, skip_generation=True, real_sample=0)
    scores = [row["scores"]["headline_score"] for row in report["per_canary"]]
    repeated = [row["repetitions"] if row["included"] else 0 for row in report["per_canary"]]
    own, said = report["membership"], report["regurgitation"]
    return {
        "cost": vars(cost),
        "membership_cost": vars(membership_cost),
        "detections": detections(scores, repeated),
        "own_rule": {
            "headline_attack": own["headline_attack"],
            "headline_valid": own["headline_valid"],
            "detected": own["n_detected"],
            "of": own["n_members"],
            "low": own["ci_low"],
            "high": own["ci_high"],
            "by_repetitions": {
                count: figures_of(row) for count, row in own["by_repetition"].items() if count != "note"
            },
        },
        "auc": own["auc"],
        "regurgitated": said["overall"],
        "regurgitated_by_repetitions": said["by_tier"],
        "controls_regurgitated": report["negative_controls"]["regurgitation_rate"],
        "real_records": figures_of(report["real_records"]["set_level"]),
        "profile": report["audit_profile"]["name"],
    }


def figures_of(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a part of memaudit's report without its sentences."""
    return {name: value for name, value in row.items() if not isinstance(value, str)}


def memaudit_manifest(memaudit: Any, trained: Trained) -> dict[str, Any]:
    """Our canaries inserted by memaudit; the rows must equal those that the model was trained on."""
    canary_type = importlib.import_module("memaudit.types").Canary
    theirs = []
    for canary in trained.canaries:
        secret = canary.text.removeprefix(PREFIX)
        ids = TOKENIZER(secret, add_special_tokens=False)["input_ids"]
        half = len(ids) // 2
        theirs.append(
            canary_type(
                id=canary.id, family="random", secret=secret, secret_token_ids=ids, prefix=secret[:half],
                prefix_token_ids=ids[:half], secret_span=[0, len(ids)], repetitions=max(1, canary.repetitions),
                role="candidate" if canary.repetitions else "control",
            )
        )  # fmt: skip
    rows, manifest = memaudit.inject(trained.text_rows, theirs, seed=SEED, include_prob=1.0, tokenizer=TOKENIZER)
    assert sorted(rows["text"]) == sorted(trained.rows["text"])
    return dict(manifest)


def canary_share(trained: Trained) -> float:
    """The canaries' share of the characters of the training text, whose tokens are bytes."""
    inserted = sum(len(canary.text) * canary.repetitions for canary in trained.canaries.inserted)
    return inserted / sum(map(len, trained.rows["text"]))


def compare(trained: Trained) -> dict[str, Any]:
    """Runs one training and all tools."""
    alone, report = hf_exposure_row(trained, None)
    bits = [estimate.exposure_bits for estimate in report.estimates]
    # Just below the limit, since a score must exceed the threshold and the rule says "at least".
    limit = math.nextafter(math.log2(1 / FALSE_POSITIVES), 0.0)
    tools: dict[str, Any] = {
        "hf_exposure": alone,
        "hf_exposure, without controls": {
            "cost": alone["cost"],
            "detections": detections(bits, trained.repetitions, limit),
        },
        "hf_exposure, less the base model's exposure": hf_exposure_row(trained, trained.base)[0],
        **tensorflow_privacy_rows(trained, report),
        "memaudit, with the base model": memaudit_row(trained, trained.base),
        "memaudit, without a base model": memaudit_row(trained, "none"),
    }
    return {
        "training_processor_seconds": trained.seconds,
        "training_rows": len(trained.rows),
        "canary_rows": trained.canaries.total_insertions,
        "canary_share_of_characters": canary_share(trained),
        "parameters": trained.model.num_parameters(),
        "canary_tokens": len(TOKENIZER(trained.canaries.controls[0].text, add_special_tokens=False)["input_ids"]),
        "loss_bits_per_token": trained.loss_bits_per_token,
        "log2_space_size": report.log2_space_size,
        "tools": tools,
        "extraction": extraction_row(trained),
    }


def trained_on(names: Sequence[str], folder: Path | None) -> Iterator[tuple[str, Trained]]:
    """Runs all training runs in order; those stored in `folder` are not repeated."""
    parts, base = text_parts(), None
    for name in names:
        file = folder / f"trained-{name.replace(' ', '-')}.pkl" if folder else None
        if file and file.exists():
            trained = pickle.loads(file.read_bytes())
        else:
            trained = train(SECRETS[name], base or train_base(parts[0]), parts)
            if file:
                file.write_bytes(pickle.dumps(trained))
        base = trained.base
        yield name, trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="folder that keeps the trained models for the next run")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    disable_progress_bars()
    torch.set_num_threads(1)
    importlib.import_module("memaudit")  # reports a missing peer before training
    tensorflow_formulas()
    secrets = {}
    for name, trained in trained_on(list(SECRETS), arguments.keep):
        secrets[name] = compare(trained)
        for tool, row in secrets[name]["tools"].items():
            print(name, tool, row["cost"], row["detections"]["inserted"], sep=", ", flush=True)
        figures = {
            "peers": {name: metadata.version(name) for name in ("memaudit", "tensorflow-privacy")},
            "repetitions": {str(count): canaries for count, canaries in REPETITIONS.items()},
            "controls": CONTROLS,
            "threads": torch.get_num_threads(),
            "secrets": secrets,
        }
        print(write_result("peers", figures))


if __name__ == "__main__":
    main()
