"""Figure 7: a translation model, with a sentence pair containing a social security number inserted a few times.

python -m examples.secret_sharer.figure7_translation

The source and target of a pair contain the same number, also in the references: exposure is computed for each target
given its own source. No prefix of such a target can be scored before its source is known, so no search is possible:
the results are the paper's extrapolation from references, and the estimate from uniform references alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, T5ForConditionalGeneration

from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.results import Stopwatch, band, interval, write_result
from examples.secret_sharer.translation import (
    SOURCE,
    TARGET,
    PairTraining,
    make_pairs,
    pair_model,
    pair_tokenizer,
)
from hf_exposure import CanarySet, CanaryTemplate, Digits, draw_canaries, insert_canaries, log_perplexity
from hf_exposure.measures import ExposureMeter


@dataclass(frozen=True, kw_only=True)
class Size:
    """The training; `repetitions` maps insertions to numbers of canaries in each model."""

    pairs: int
    width: int
    layers: int
    epochs: int
    repetitions: dict[int, int]
    controls: int
    references: int
    seeds: int


SIZES = {
    "smallest": Size(
        pairs=100, width=16, layers=1, epochs=1, repetitions={1: 1, 10: 1}, controls=2, references=64, seeds=2
    ),
    "small": Size(
        pairs=2000,
        width=64,
        layers=2,
        epochs=6,
        repetitions={1: 2, 2: 2, 3: 2, 4: 2, 6: 2, 8: 2, 10: 2},
        controls=16,
        references=4096,
        seeds=5,
    ),
    # The paper has some 100,000 pairs, and one canary in each model.
    "full": Size(
        pairs=100_000,
        width=512,
        layers=4,
        epochs=10,
        repetitions=dict.fromkeys(range(1, 11), 1),
        controls=32,
        references=100_000,
        seeds=8,
    ),
}
TEMPLATE = CanaryTemplate(TARGET, area=Digits(3), group=Digits(2), serial=Digits(4))


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    runs = [_run(size, seed) for seed in range(size.seeds)]
    _report(options, size, runs, watch.read())


def _run(size: Size, seed: int) -> dict[str, Any]:
    tokenizer = pair_tokenizer()
    canaries = draw_canaries(TEMPLATE, size.repetitions, controls=size.controls, seed=seed)
    plain = make_pairs(size.pairs, seed)
    held_out = make_pairs(max(size.pairs // 10, 20), seed + 1000)
    pairs = insert_canaries(plain, canaries, "target", source=SOURCE, seed=seed)
    torch.manual_seed(seed)
    model = pair_model(tokenizer, size.width, size.layers)
    training = PairTraining(model, tokenizer, pairs, seed)
    for _ in range(size.epochs):
        training.epoch()
    bits = log_perplexity(model, tokenizer, held_out["target"][:], sources=held_out["source"][:], end_token=True)
    figures = _exposures(model, tokenizer, canaries, size, seed)
    run = {"seed": seed, "held_out_bits_per_sentence": float(bits.mean()), **figures}
    print(run, flush=True)
    return run


def _exposures(
    model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, canaries: CanarySet, size: Size, seed: int
) -> dict[str, Any]:
    """For every canary: insertions, the paper's extrapolation, and the estimate from uniform references."""
    found: dict[str, Any] = {"canaries": []}
    reports = {}
    for method in ("skew_normal", "sample"):
        meter = ExposureMeter(
            canaries,
            tokenizer,
            method=method,
            references=size.references,
            seed=seed,
            source=SOURCE,
            accept_bad_fit=True,
        )
        reports[method] = meter.measure(model)
    for fitted, sampled in zip(reports["skew_normal"].estimates, reports["sample"].estimates, strict=True):
        found["canaries"].append(
            {
                "repetitions": fitted.repetitions,
                "exposure_bits": fitted.exposure_bits,
                "sampled_bits": sampled.exposure_bits,
            }
        )
    found["notes"] = list(reports["skew_normal"].notes)
    found["p_value"] = reports["sample"].memorization_p_value
    return found


def _report(options: Options, size: Size, runs: list[dict[str, Any]], cost: dict[str, float]) -> None:
    counts = [0, *size.repetitions]
    by_count = {
        times: [_mean(one["exposure_bits"] for one in run["canaries"] if one["repetitions"] == times) for run in runs]
        for times in counts
    }
    most, least = max(counts), min(size.repetitions)
    figures: dict[str, Any] = {
        "runs": runs,
        "by_insertions": {str(times): bits for times, bits in by_count.items()},
        "often_over_once": [more - less for more, less in zip(by_count[most], by_count[least], strict=True)],
        "once_over_controls": [more - less for more, less in zip(by_count[least], by_count[0], strict=True)],
    }
    write_result(
        options,
        "figure7_translation",
        corpus=None,
        settings=vars(size),
        seeds=[run["seed"] for run in runs],
        figures=figures,
        table=_table(by_count, runs),
        plots=[_plot(by_count)],
        cost=cost,
    )


def _mean(values: Any) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def _table(by_count: dict[int, list[float]], runs: list[dict[str, Any]]) -> dict[str, Any]:
    rows = []
    for times, bits in by_count.items():
        mean, low, high = interval(bits)
        sampled = [one["sampled_bits"] for run in runs for one in run["canaries"] if one["repetitions"] == times]
        rows.append([times, round(mean, 1), f"[{low:.1f}, {high:.1f}]", round(_mean(sampled), 1)])
    return {"columns": ["inserted", "exposure (skew-normal)", "95 % interval", "exposure by sampling"], "rows": rows}


def _plot(by_count: dict[int, list[float]]) -> dict[str, Any]:
    counts = [times for times in by_count if times]
    return {
        "title": "A translation model: exposure against insertions",
        "x": "times the pair was inserted",
        "y": "exposure (bits, skew-normal)",
        "series": [band("inserted pairs", counts, [by_count[times] for times in counts])],
        "lines": [
            {"y": TEMPLATE.log2_space_size, "label": "log2|R|"},
            {"y": interval(by_count[0])[0], "label": "held-out mean"},
        ],
    }


if __name__ == "__main__":
    run(parse_options(__doc__))
