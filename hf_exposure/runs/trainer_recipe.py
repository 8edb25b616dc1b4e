"""A training function for `run_subsets` from the arguments of a `Trainer`."""

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
_OF_EACH_RUN = dict.fromkeys(("model", "model_init", "args", "train_dataset"), "Omit it: each run has its own.")
# One that was made beforehand would train the weights of another model.
_OF_EACH_RUN["optimizers"] = "Pass optimizer_cls_and_kwargs, or set optim and lr_scheduler_type in args."


class TrainerRecipe:
    """A function train(subset) -> model that makes a new model and a new `Trainer` for each subset.

    Args:
        model_init: function model_init() -> model, which returns a new model at each call. Random weights differ
            between runs, since each run has its own seed; it may also load the same pre-trained weights each time.
        args: `TrainingArguments`. Their `seed` and `data_seed` are replaced by the run's, and `output_dir` by a folder
            of that seed inside it, so that parallel runs do not overwrite each other's files. Set
            `save_strategy="no"`: an interrupted run restarts from the beginning.
        trainer_class: `Trainer`, or a subclass such as TRL's `SFTTrainer`.
        **trainer_arguments: passed to the trainer: `data_collator`, `processing_class`, `callbacks`,
            `compute_loss_func`. Each run uses its own copies, so that the state of a callback or a collator is not
            carried from one run into the next.

    Raises:
        InputError: `args` are not `TrainingArguments`, `model_init` is not a function, `model`, `args`,
            `train_dataset` or `optimizers` is among the other arguments, or one of them cannot be copied.

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
            rule = "must be a function that returns a new model"
            raise InputError("model_init", rule, type(model_init).__name__, "Pass lambda: Model(config).")
        self.model_init, self.trainer_class, self.trainer_arguments = model_init, trainer_class, trainer_arguments
        self.args = instance_of("args", args, TrainingArguments, "Pass TrainingArguments(...).")
        for name, remedy in _OF_EACH_RUN.items():
            if name in trainer_arguments:
                rule = "must not be among the trainer's arguments"
                raise InputError(name, rule, type(trainer_arguments[name]).__name__, remedy)

    def __call__(self, subset: Any) -> Any:
        # The seed that `run_subsets` gave torch; a Trainer reseeds all generators from its arguments.
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
