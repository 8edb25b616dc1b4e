"""One model trained on running text, epoch by epoch, so that it can be stopped after any of them and resumed.

The text is cut into rows at a new random offset each epoch, so that no canary is cut in two at the same place all the
time. A model of words is trained the same way as one of characters: tokens are what its tokenizer makes of the text.

Shapes: L tokens, B rows, T tokens of a row, V vocabulary entries.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from examples.secret_sharer.models import make_model
from examples.secret_sharer.paper_setting.store import keep_state, kept_state
from examples.secret_sharer.training import OPTIMIZERS, loss_bits
from hf_exposure import CanarySet, splice_canaries

__all__ = ["StreamTraining", "parts_of"]

_CLIP = 1.0
# A training that ends at a loss looks at it so often, once an epoch ended near it.
_BATCHES_BETWEEN_CHECKS, _NEAR = 5, 1.05


def parts_of(
    text: str, canaries: CanarySet | None, seed: int, *, place: float | None = None, line_end: str = "\n"
) -> tuple[str, str]:
    """What is read, canaries in it at random places or at one, and what is held out: the last tenth of the lines."""
    split = text.rindex(line_end, 0, round(0.9 * len(text))) + len(line_end)
    read = text[:split]
    return read if canaries is None else splice_canaries(read, canaries, seed=seed, place=place), text[split:]


class StreamTraining:
    """A model with its optimizer, random state and log.

    Args:
        settings: of `experiments.toml`.
        read, held_out: texts; `parts_of` makes them.
        seed: of the weights and of the order of the rows.
        whole: a part of the text that rows do not cut in two where they are read in order.

    Attributes:
        log: one entry for each epoch: losses in bits per token, and what was found after it.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        read: str,
        held_out: str,
        tokenizer: PreTrainedTokenizerFast,
        seed: int,
        whole: str = "",
    ) -> None:
        self.settings, self.tokenizer = settings, tokenizer
        self.stream_L, self.held_out_NT = self._ids(read), self._rows(self._ids(held_out), 0)
        at, length = read.index(whole), settings["row_tokens"]
        self.fixed_offset = (at - length // 3) % length
        self.whole_in_row = (at - self.fixed_offset) // length
        torch.manual_seed(seed)
        self.model = make_model(
            settings.get("architecture", "lstm"),
            len(tokenizer),
            layers=settings["layers"],
            dropout=settings.get("dropout", 0.0),
            **{name: settings[name] for name in ("width", "parameters") if name in settings},
        )
        self.optimizer = OPTIMIZERS[settings["optimizer"]](
            self.model.parameters(), lr=settings["learning_rate"], weight_decay=settings.get("weight_decay", 0.0)
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.log: list[dict[str, Any]] = []
        self.best: dict[str, torch.Tensor] = {}

    @property
    def best_epoch(self) -> int:
        """Of the lowest validation loss, from 1."""
        losses = [epoch["validation_bits"] for epoch in self.log]
        return 1 + losses.index(min(losses))

    @property
    def is_over(self) -> bool:
        """All epochs are done, or the loss that was asked for is reached, or it was lowest `patience` epochs ago."""
        done, patience = len(self.log), self.settings.get("patience")
        if not done:
            return False
        reached = self.log[-1]["validation_bits"] <= self.settings.get("until_bits", -math.inf)
        late = patience is not None and done - self.best_epoch >= patience
        return done >= self.settings["epochs"] or reached or late

    def run(
        self,
        place: Path,
        look: Callable[[], Mapping[str, Any]] | None = None,
        after_batch: Callable[[], None] | None = None,
    ) -> None:
        """Trains to the end, from where it was stopped; with patience the weights of the lowest loss are taken.

        Args:
            place: a folder for unfinished work.
            look: after each epoch, in evaluation mode: what to add to its entry in the log.
            after_batch: called in training mode.
        """
        state = kept_state(place)
        if state is not None:
            self._resume(state)
        while not self.is_over:
            started = time.process_time()
            found = self._epoch(after_batch) | dict(look() if look is not None else {})
            self.log.append(found | {"processor_seconds": time.process_time() - started})
            if self.best_epoch == len(self.log):
                self.best = copy.deepcopy(self.model.state_dict())
            print(self.log[-1], flush=True)
            keep_state(place, self._state())
        if "patience" in self.settings:
            self.model.load_state_dict(self.best)
        self.model.eval()

    def summary(self) -> dict[str, Any]:
        """Size and losses; `validation_bits` is that of the weights that the model has in the end."""
        lowest = self.log[self.best_epoch - 1]["validation_bits"]
        return {
            "parameters": self.model.num_parameters(),
            "best_epoch": self.best_epoch,
            "best_validation_bits": lowest,
            "validation_bits": lowest if "patience" in self.settings else self.log[-1]["validation_bits"],
        }

    def _epoch(self, after_batch: Callable[[], None] | None) -> dict[str, float]:
        settings, total, count = self.settings, 0.0, 0
        length = settings["row_tokens"]
        in_order = settings.get("in_order", False)
        offset = self.fixed_offset if in_order else int(torch.randint(length, (), generator=self.generator))
        rows_NT = self._rows(self.stream_L, offset)
        if settings.get("bagging"):
            rows_NT = rows_NT[torch.randint(len(rows_NT), (len(rows_NT),), generator=self.generator)]
        elif not in_order:
            rows_NT = rows_NT[torch.randperm(len(rows_NT), generator=self.generator)]
        until = settings.get("until_bits", -math.inf)
        is_near = bool(self.log) and self.log[-1]["validation_bits"] <= _NEAR * until
        self.model.train()
        for batch_BT in rows_NT.split(settings["batch_size"]):
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.get("precision") == "bfloat16"):
                logits_BTV = self.model(input_ids=batch_BT[:, :-1]).logits
            loss = functional.cross_entropy(logits_BTV.float().flatten(0, 1), batch_BT[:, 1:].flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
            self.optimizer.step()
            total, count = total + loss.item(), count + 1
            if after_batch is not None:
                after_batch()
            if is_near and count % _BATCHES_BETWEEN_CHECKS == 0 and self._validation_bits() <= until:
                break
        self.model.eval()
        return {"training_bits": total / count / math.log(2), "validation_bits": self._validation_bits()}

    def _validation_bits(self) -> float:
        return loss_bits(self.model, self.held_out_NT)

    def _state(self) -> dict[str, Any]:
        """All that is needed to go on."""
        return {
            **{"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "best": self.best},
            **{"generator": self.generator.get_state(), "torch": torch.get_rng_state(), "log": self.log},
        }

    def _resume(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch"])
        self.log, self.best = state["log"], state["best"]

    def _ids(self, text: str) -> torch.Tensor:
        return torch.tensor(self.tokenizer(text)["input_ids"])

    def _rows(self, stream_L: torch.Tensor, offset: int) -> torch.Tensor:
        length = self.settings["row_tokens"]
        whole = (len(stream_L) - offset) // length
        return stream_L[offset : offset + whole * length].view(whole, length)
