"""Splits text into rows of characters, inserts canaries, and trains with a simple loop.

A row of text has `row_characters` characters; each canary has its own row, whose padding does not count. Losses are in
bits per character.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer, models
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from hf_exposure import CanarySet, insert_canaries
from hf_exposure.demo.inputs import load_rows

__all__ = ["Corpus", "Training", "character_tokenizer", "encode_rows", "load_corpus", "loss_bits", "train"]

# Canaries may contain characters that the text does not.
_ALWAYS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:;'-=\"\n"


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A text cut into rows, the last tenth of which are held out.

    Attributes:
        train, validation: a column `text`.
        name, sha256: name and hash of the text, for the result's file.
    """

    train: Dataset
    validation: Dataset
    tokenizer: PreTrainedTokenizerFast
    name: str
    sha256: str
    characters: int
    row_characters: int

    def train_with(self, canaries: CanarySet | None, seed: int) -> torch.Tensor:
        """(N, T) tokens of the training rows and of the canaries among them; -100 pads."""
        rows = self.train if canaries is None else insert_canaries(self.train, canaries, seed=seed)
        return encode_rows(self.tokenizer, rows["text"])

    @property
    def held_out(self) -> torch.Tensor:
        """(N, T) tokens of the validation rows."""
        return encode_rows(self.tokenizer, self.validation["text"])


def load_corpus(
    text_file: Path | None = None,
    dataset: str | None = None,
    *,
    characters: int = 200_000,
    row_characters: int = 100,
    held_out: float = 0.1,
) -> Corpus:
    """The start of a text: of a file, a dataset's `text` column, or the reference that comes with Python."""
    disable_progress_bars()
    rows = load_rows(text_file, dataset, characters, row_characters)["text"]
    rows = [row for row in rows if len(row) == row_characters]
    split = round(len(rows) * (1 - held_out))
    text = "".join(rows)
    return Corpus(
        train=Dataset.from_dict({"text": rows[:split]}),
        validation=Dataset.from_dict({"text": rows[split:]}),
        tokenizer=character_tokenizer(text),
        name=text_file.name if text_file else dataset or "pydoc_data.topics",
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        characters=len(text),
        row_characters=row_characters,
    )


def character_tokenizer(text: str) -> PreTrainedTokenizerFast:
    """One token per character, without special tokens; special tokens that occur in a text are read as characters."""
    characters = sorted(set(text) | set(_ALWAYS))
    vocabulary = {"<pad>": 0, "<unk>": 1} | {character: place for place, character in enumerate(characters, 2)}
    backend: Any = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    # The Penn Treebank has <unk> for rare words.
    how: dict[str, Any] = {"split_special_tokens": True, "clean_up_tokenization_spaces": False}
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", **how)


def encode_rows(tokenizer: PreTrainedTokenizerFast, rows: list[str]) -> torch.Tensor:
    """(N, T) tokens, where T is the length of the longest row; shorter rows are padded with -100."""
    ids = tokenizer(list(rows))["input_ids"]
    rows_NT = torch.full((len(ids), max(map(len, ids))), -100)
    for row_T, row in zip(rows_NT, ids, strict=True):
        row_T[: len(row)] = torch.tensor(row)
    return rows_NT


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained.

    Attributes:
        optimizer: one of `OPTIMIZERS`.
        shuffle: whether rows have a new order in every epoch; otherwise they keep that of the data.
        clip: largest norm of the gradient.
    """

    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 3e-3
    optimizer: str = "adam"
    weight_decay: float = 0.0
    shuffle: bool = True
    clip: float = 1.0
    seed: int = 0


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": lambda weights, **more: torch.optim.SGD(weights, momentum=0.9, **more),
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "adam": torch.optim.Adam,
}


def train(
    model: nn.Module,
    rows_NT: torch.Tensor,
    training: Training,
    *,
    after_batch: Callable[[int], bool | None] | None = None,
    after_epoch: Callable[[int], bool | None] | None = None,
) -> list[float]:
    """Trains `model` in place, on a GPU if there is one.

    `after_batch(step)` and `after_epoch(epoch)`, both from 1, may measure it. The training ends early after a batch or
    an epoch for which one of them returns True.

    Returns:
        the mean loss of each epoch in bits per character; the last epoch may be incomplete.
    """
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    make = OPTIMIZERS[training.optimizer]
    optimizer = make(model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    generator = torch.Generator().manual_seed(training.seed)
    torch.manual_seed(training.seed)
    step, losses = 0, []
    for epoch in range(1, training.epochs + 1):
        total, count, ended = 0.0, 0, False
        for batch_BT in _batches(rows_NT, training, generator):
            model.train()
            optimizer.zero_grad(set_to_none=True)
            loss = _loss_nats(model, batch_BT)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), training.clip)
            optimizer.step()
            step, total, count = step + 1, total + loss.item(), count + 1
            ended = after_batch is not None and after_batch(step) is True
            if ended:
                break
        losses.append(total / count / math.log(2))
        if ended or (after_epoch is not None and after_epoch(epoch) is True):
            break
    model.eval()
    return losses


def _batches(rows_NT: torch.Tensor, training: Training, generator: torch.Generator) -> Iterator[torch.Tensor]:
    count = len(rows_NT)
    order = torch.randperm(count, generator=generator) if training.shuffle else torch.arange(count)
    for first in range(0, count, training.batch_size):
        yield rows_NT[order[first : first + training.batch_size]]


def _loss_nats(model: nn.Module, batch_BT: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """The loss of every character after the first of its row; padding is passed as token 0 and does not count."""
    device = next(model.parameters()).device
    batch_BT = batch_BT.to(device)
    logits_BTV = model(input_ids=batch_BT[:, :-1].clamp(min=0)).logits
    return functional.cross_entropy(logits_BTV.flatten(0, 1), batch_BT[:, 1:].flatten(), reduction=reduction)


@torch.no_grad()
def loss_bits(model: nn.Module, rows_NT: torch.Tensor, batch_size: int = 128) -> float:
    """Mean bits per character over rows, with equal weight for every character."""
    was_training = model.training
    model.eval()
    total = sum(_loss_nats(model, batch_BT, "sum").item() for batch_BT in rows_NT.split(batch_size))
    model.train(was_training)
    return total / int((rows_NT[:, 1:] >= 0).sum()) / math.log(2)
