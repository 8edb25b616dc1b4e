"""New: a language model whose noise is canaries. Do exposure and training dynamics rank the same canaries?

python -m examples.closer_look.canary_forgetting

A small GPT-2 of characters is trained on rows of words and on canaries, inserted 1 to 16 times. `DynamicsMeasure`
records the digits of each canary after each epoch, and `ExposureCallback` measures its exposure at the end. Training
then continues on other rows without canaries, to see how fast an attack stops finding them.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import (
    ByT5Tokenizer,
    DataCollatorForSeq2Seq,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    set_seed,
)

from examples.closer_look import RESULTS
from examples.closer_look.images import Options, parse_options
from examples.closer_look.resumed import each_run
from examples.closer_look.texts import draw_rows
from examples.secret_sharer.results import band, write_result
from hf_exposure import (
    CanarySet,
    CanaryTemplate,
    Digits,
    DynamicsMeasure,
    DynamicsRecord,
    ExposureCallback,
    MeasureCallback,
    draw_canaries,
)
from hf_exposure.estimators import (
    alpha_k_forgetting,
    area_under_margin,
    data_map,
    forgetting_events,
    rank_correlation,
    second_split_forgetting_time,
)
from hf_exposure.report.verdict import times_inserted

REPETITIONS = (1, 2, 4, 8, 16)
DIGITS = 6
TEMPLATE = CanaryTemplate("code {code}.", code=Digits(DIGITS))
SUCCESS_BITS = 10.0
"""An attack succeeds on a canary that ranks among the first thousandth of its template."""
ALPHA = 0.25
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Size:
    """There are `canaries` for each repetition count, and `rows` rows of `words` words in each of the two splits.

    During the second split the canaries are measured every `every` steps.
    """

    canaries: int
    rows: int
    words: int
    width: int
    epochs: int
    second_epochs: int
    every: int
    references: int
    seeds: int


SIZES = {
    "smallest": Size(
        canaries=2, rows=30, words=4, width=16, epochs=3, second_epochs=2, every=2, references=64, seeds=2
    ),
    "small": Size(
        canaries=6, rows=120, words=6, width=64, epochs=16, second_epochs=2, every=4, references=256, seeds=3
    ),
    "full": Size(
        canaries=32, rows=4_000, words=10, width=256, epochs=40, second_epochs=20, every=100, references=4_096, seeds=5
    ),
}  # fmt: skip


def run(options: Options) -> None:
    size = SIZES[options.size]
    keys = [(seed,) for seed in range(size.seeds)]
    runs, cost = each_run(options, "canary_forgetting", replace(size, seeds=0), keys, partial(_run_of, size))
    figures: dict[str, Any] = {
        "runs": runs,
        "fall": {str(count): [run["exposure"][str(count)][0] - run["exposure"][str(count)][-1] for run in runs]
                 for count in REPETITIONS},
        "kept_16_over_4": [run["rates"]["16"][-1] - run["rates"]["4"][-1] for run in runs],
    }  # fmt: skip
    pairs = list(runs[0]["correlations"])
    rows: list[list[str]] = []
    for name in pairs:
        for where in ("all", "within"):
            found = [run["correlations"][name][where] for run in runs]
            shown = ["all canaries" if where == "all" else "canaries with the same count"]
            rows.append([f"exposure and {name}", *shown, *(_spread(one) for one in found)])
    for count in REPETITIONS:
        of_count = [run["k"][str(count)] for run in runs]
        shown = [
            f"inserted {times_inserted(count)}",
            *("not forgotten" if math.isnan(k) else f"{k:g}" for k in of_count),
        ]
        rows.append([f"steps until {ALPHA:.0%} or less are exposed", *shown])
    steps = runs[0]["steps"]
    plots = [
        {
            "title": "Exposure after training on the canaries has ended",
            "x": "steps without canaries",
            "y": "mean exposure (bits)",
            "series": [
                band(times_inserted(count), steps, zip(*(run["exposure"][str(count)] for run in runs), strict=True))
                for count in REPETITIONS
            ],
        },
        {
            "title": "Exposure against confidence over training (seed 0)",
            "x": "mean probability of the secret's digits",
            "y": "exposure at the end (bits)",
            "series": [
                {
                    "name": times_inserted(count),
                    "kind": "points",
                    "x": [point[0] for point in runs[0]["points"] if point[2] == count],
                    "y": [point[1] for point in runs[0]["points"] if point[2] == count],
                }
                for count in REPETITIONS
            ],
        },
    ]
    write_result(
        options,
        "canary_forgetting",
        claims=RESULTS,
        settings={
            "size": size.__dict__, "data": _rows(size, 0)[0].name, "template": TEMPLATE.text,
            "success_bits": SUCCESS_BITS, "alpha": ALPHA, "training": "GPT-2 of 2 layers, AdamW 2e-3, batches of 16",
        },
        seeds=list(range(size.seeds)),
        figures=figures,
        table={"columns": ["", "canaries", *(f"seed {run['seed']}" for run in runs)], "rows": rows},
        plots=plots,
        cost=cost,
    )  # fmt: skip


def _rows(size: Size, seed: int) -> Any:
    return draw_rows(seed, size.rows, size.rows, words=size.words, num_topics=30, most=400)


def _run_of(size: Size, seed: int) -> dict[str, Any]:
    first, second = _rows(size, seed)
    canaries = draw_canaries(TEMPLATE, dict.fromkeys(REPETITIONS, size.canaries), controls=size.canaries, seed=seed)
    inserted = [canary.text for canary in canaries.inserted for _ in range(canary.repetitions)]
    set_seed(seed)
    longest = max(len(text.encode()) for text in [*first.texts, *second.texts]) + 1
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=384, n_layer=2, n_head=2, n_embd=size.width, n_positions=longest, bos_token_id=1,
            eos_token_id=1,
        )
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        places = [Path(folder) / name for name in ("first", "second")]
        reports = _train(model, first.texts + inserted, canaries, size, seed, places[0], is_second=False)
        later = _train(model, second.texts, canaries, size, seed, places[1], is_second=True)
        records = [DynamicsRecord.load(place) for place in places]
    return _summary(seed, canaries, reports[-1], later, records)


def _train(
    model: Any, texts: list[str], canaries: CanarySet, size: Size, seed: int, folder: Path, *, is_second: bool
) -> list[Any]:
    """Trains on one split and returns the exposures: after the first split, or before and during the second one."""
    tokenizer = ByT5Tokenizer()
    dynamics = DynamicsMeasure([canary.text for canary in canaries.inserted], batch_size=256)
    looks = MeasureCallback(
        dynamics, "steps" if is_second else "epoch", size.every if is_second else None, baseline=is_second
    )
    exposure = ExposureCallback(
        canaries, "steps" if is_second else "end", size.every if is_second else None, baseline=is_second,
        references=size.references, require_delivery=not is_second, count_doses=False,
    )  # fmt: skip
    arguments = TrainingArguments(
        str(folder), num_train_epochs=size.second_epochs if is_second else size.epochs, learning_rate=2e-3,
        per_device_train_batch_size=16, lr_scheduler_type="constant", seed=seed, save_strategy="no",
        logging_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    rows = [{"input_ids": ids, "labels": ids} for ids in tokenizer(texts)["input_ids"]]
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        processing_class=tokenizer,
        callbacks=[looks, exposure],
    )
    with warnings.catch_warnings():
        # No canary is expected in the second split.
        warnings.filterwarnings("ignore", "INVALID: 0 of", UserWarning)
        trainer.train()
    return exposure.reports


def _summary(
    seed: int, canaries: CanarySet, report: Any, later: list[Any], records: list[DynamicsRecord]
) -> dict[str, Any]:
    count = len(canaries.inserted)
    repetitions_K = np.array([canary.repetitions for canary in canaries.inserted])
    exposure_K = _exposures(report, canaries)
    first, second = (_of_digits(record, count) for record in records)
    events = forgetting_events(first["correct"])
    learned_K = np.where(events.first_learned_N < 0, np.inf, events.first_learned_N)
    others: dict[str, npt.NDArray[Any]] = {
        "forgetting events": first["events"].sum(axis=0),
        # Toneva et al. rank an example that is never classified correctly after the most forgotten ones.
        "forgetting, never right last": np.where(events.first_learned_N < 0, np.inf, events.counts_N),
        "first right": learned_K,
        "confidence": data_map(first["probability"]).confidence_N,
        "area under margin": area_under_margin(first["margin"]),
        "second-split forgetting time": second_split_forgetting_time(second["correct"]),
    }
    correlations = {}
    for name, values_K in others.items():
        found = {
            "all": rank_correlation(exposure_K, values_K),
            "within": rank_correlation(exposure_K, values_K, repetitions_K),
        }
        correlations[name] = {where: [one.r, one.low, one.high] for where, one in found.items()}
    bits_TK = np.array([_exposures(one, canaries) for one in later])
    steps = [one.step or 0 for one in later]
    made: dict[str, Any] = {"seed": seed, "correlations": correlations, "steps": steps}
    made |= {"exposure": {}, "rates": {}, "k": {}}
    for repeated in REPETITIONS:
        own_TK = bits_TK[:, repetitions_K == repeated]
        forgotten = alpha_k_forgetting(own_TK >= SUCCESS_BITS, steps, ALPHA)
        made["exposure"][str(repeated)] = own_TK.mean(axis=1).tolist()
        made["rates"][str(repeated)] = forgotten.rates_T.tolist()
        made["k"][str(repeated)] = math.nan if forgotten.k is None else forgotten.k
    made["points"] = [
        [float(x), float(y), int(repeated)]
        for x, y, repeated in zip(others["confidence"], exposure_K, repetitions_K, strict=True)
    ]
    print({name: value for name, value in made.items() if name != "points"}, flush=True)
    return made


def _exposures(report: Any, canaries: CanarySet) -> Floats:
    bits = {estimate.canary_id: estimate.exposure_bits for estimate in report.estimates}
    return np.array([bits[canary.id] for canary in canaries.inserted])


def _of_digits(record: DynamicsRecord, count: int) -> dict[str, Floats]:
    """For each canary: forgetting events of its digits, whether all are right, mean probability, and lowest margin."""
    start = len(TEMPLATE.prefix.encode())
    is_digit = (record.position_N >= start) & (record.position_N < start + DIGITS)
    assert is_digit.sum() == count * DIGITS
    order = np.lexsort((record.position_N, record.example_N))
    columns = order[is_digit[order]]
    shape = (len(record.steps_T), count, DIGITS)
    return {
        "events": forgetting_events(record.correct_TN[:, columns]).counts_N.reshape(count, DIGITS).T,
        "correct": record.correct_TN[:, columns].reshape(shape).min(axis=2),
        "probability": record.probability_TN[:, columns].reshape(shape).mean(axis=2),
        "margin": record.margin_TN[:, columns].reshape(shape).min(axis=2),
    }


def _spread(values: list[float]) -> str:
    r, low, high = values
    if math.isnan(r):
        return "undefined"
    return f"{r:.2f} ({low:.2f} to {high:.2f})" if math.isfinite(low) else f"{r:.2f}"


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
