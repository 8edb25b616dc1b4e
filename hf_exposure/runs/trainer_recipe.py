"""A training for `run_subsets` from what a `Trainer` is given."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments

from hf_exposure.checks import instance_of
from hf_exposure.errors import InputError

_LARGEST_SEED = 2**32 - 1
_OF_EACH_RUN = dict.fromkeys(("model", "model_init", "args", "train_dataset"), "Leave it out: each run has its own.")
# One that was made beforehand would train the weights of another model.
_OF_EACH_RUN["optimizers"] = "Pass optimizer_cls_and_kwargs, or set optim and lr_scheduler_type in args."


class TrainerRecipe:
    """train(subset) -> model: a new model and a new `Trainer` for each subset.

    Args:
        model_init: model_init() -> model, a new one at each call. Weights that are drawn in it differ from run to run,
            since each run has its own seed; it may as well load the same pre-trained weights each time.
        args: `TrainingArguments`. Their `seed` and `data_seed` are replaced by the run's, and `output_dir` by a folder
            of that seed inside it, so that runs side by side do not write into each other's. Set
            `save_strategy="no"`: a run that was killed begins again from its start.
        trainer_class: `Trainer`, or a subclass such as TRL's `SFTTrainer`.
        **trainer_arguments: passed to it: `data_collator`, `processing_class`, `callbacks`, `compute_loss_func`. Each
            run has copies of its own, since a callback that counts, or a collator that draws, would carry what it
            knows from one run into the next.

    Raises:
        InputError: arguments that are no `TrainingArguments`; `model`, `args`, `train_dataset` or `optimizers` among
            the others; one that cannot be copied; no function that makes a model.

    Example:
        recipe = TrainerRecipe(model_init, TrainingArguments("out", num_train_epochs=3, save_strategy="no"))
        runs = run_subsets(recipe, dataset, masks, store="runs", score=score)
    """

    def __init__(
        self,
        model_init: Callable[[], Any],
        args: TrainingArguments,
        trainer_class: type[Trainer] = Trainer,
        **trainer_arguments: Any,
    ) -> None:
        if not callable(model_init) or isinstance(model_init, torch.nn.Module):
            rule = "must be a function that makes a new model"
            raise InputError("model_init", rule, type(model_init).__name__, "Pass lambda: Model(config).")
        self.model_init, self.trainer_class, self.trainer_arguments = model_init, trainer_class, trainer_arguments
        self.args = instance_of("args", args, TrainingArguments, "Pass TrainingArguments(...).")
        for name, remedy in _OF_EACH_RUN.items():
            if name in trainer_arguments:
                rule = "must not be among the trainer's arguments"
                raise InputError(name, rule, type(trainer_arguments[name]).__name__, remedy)

    def __call__(self, subset: Any) -> Any:
        # What `run_subsets` seeded torch with; a Trainer seeds all generators again, by its arguments.
        seed = torch.initial_seed() & _LARGEST_SEED
        args = copy.copy(self.args)
        args.seed = args.data_seed = seed
        args.output_dir = str(Path(self.args.output_dir or ".") / f"seed-{seed}")
        own = {name: _copied(name, value) for name, value in self.trainer_arguments.items()}
        trainer = self.trainer_class(model=self.model_init(), args=args, train_dataset=subset, **own)
        if args.disable_tqdm:
            trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.train()
        return trainer.model


def _copied(name: str, value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception as error:
        rule, remedy = "must be something that can be copied for each run", "Pass a class or a function that makes it."
        raise InputError(name, rule, type(value).__name__, remedy) from error
