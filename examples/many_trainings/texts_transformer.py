"""The study `texts` with a small transformer, using `TrainerRecipe` and `TextScore` of this package.

python -m examples.many_trainings.texts_transformer --data TEXT_FILE --store FOLDER

The network is a GPT-2 of two layers over bytes, trained by a `Trainer`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import (
    ByT5Tokenizer,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    TrainingArguments,
)

from examples.many_trainings import texts
from examples.many_trainings.study import Options, parse_options, write_result
from examples.many_trainings.texts import Size, draw_kinds, figures_of
from examples.secret_sharer.results import Stopwatch
from hf_exposure import TextScore, TrainerRecipe, draw_subsets, run_subsets

SIZES = {"smallest": replace(texts.SIZES["smallest"], epochs=1), "small": replace(texts.SIZES["small"], epochs=60)}


@dataclass(frozen=True)
class NewModel:
    """GPT-2 with 130,000 weights; the seed is that of the run."""

    layers: int = 2
    width: int = 64

    def __call__(self) -> PreTrainedModel:
        model: PreTrainedModel = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=384, n_positions=80, n_layer=self.layers, n_head=4, n_embd=self.width, bos_token_id=1,
                eos_token_id=1, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            )
        )  # fmt: skip
        return model


def recipe(options: Options, epochs: int, tokenizer: ByT5Tokenizer) -> TrainerRecipe:
    args = TrainingArguments(
        str(options.store / "out"), num_train_epochs=epochs, per_device_train_batch_size=16, learning_rate=3e-3,
        lr_scheduler_type="constant_with_warmup", warmup_steps=20, save_strategy="no", logging_strategy="no",
        report_to="none", disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
    )  # fmt: skip
    return TrainerRecipe(NewModel(), args, data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False))


def run(options: Options) -> None:
    run_named(options, "texts_transformer", SIZES[options.size])


def run_named(options: Options, study: str, size: Size) -> None:
    watch, tokenizer = Stopwatch(), ByT5Tokenizer()
    kinds, name = draw_kinds(options, size)
    rows = [text for texts_of_kind in kinds.values() for text in texts_of_kind]
    data = Dataset.from_dict({"text": rows, "input_ids": [tokenizer(text)["input_ids"] for text in rows]})
    masks = draw_subsets(len(rows), size.models)
    train, score = recipe(options, size.epochs, tokenizer), TextScore(tokenizer)
    runs = run_subsets(train, data, masks, store=options.store, score=score, n_jobs=options.jobs)
    figures: dict[str, Any] = figures_of(runs, kinds)
    kind_of = np.repeat([*kinds], [len(texts_of_kind) for texts_of_kind in kinds.values()])
    for side, included in (("with", runs.included_MN), ("without", ~runs.included_MN)):
        figures[f"accuracy_{side}"] = float(runs.scores_MN[included].mean())
        for kind in kinds:
            of_kind = included & (kind_of == kind)
            figures[f"{kind}_accuracy_{side}"] = float(runs.scores_MN[of_kind].mean())
    figures["weights"] = int(np.sum([weight.numel() for weight in NewModel()().parameters()]))
    settings = {"lines": size.lines, "families": size.families, "unusual": size.unusual, "models": size.models}
    settings |= {"epochs": size.epochs, "weights": figures["weights"]}
    write_result(options, study, data=name, settings=settings, figures=figures, cost=watch.read())


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
