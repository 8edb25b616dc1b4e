"""The model of the paper's Section 3, trained on running text with one canary in it, and what is measured of it.

Two experiments: "base" stops at the lowest validation loss and measures that model thoroughly; "overfitting" trains
all epochs and measures each. The text is cut into rows at a new random offset each epoch, so that no canary is cut in
two at the same place all the time.

Shapes: N numbers, L characters, H width, B rows, T characters of a row, V vocabulary entries.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn
from torch.nn import functional

from examples.secret_sharer.models import CharacterModel, make_model
from examples.secret_sharer.paper_setting.store import Task
from examples.secret_sharer.training import OPTIMIZERS, character_tokenizer, loss_bits
from hf_exposure import Canary, draw_canaries, extract, presets, rank_bounds, splice_canaries
from hf_exposure.estimators import SkewNormalFit, fit_skew_normal, log_cdf

TEMPLATE = presets.random_number(9)
SMALLEST = {
    **{"characters": 6_000, "layers": 1, "width": 12, "row_characters": 40, "batch_size": 16, "epochs": 3},
    **{"patience": 1, "references": 200, "law_samples": 500, "look_expansions": 50, "max_expansions": 50},
}


def train_model(task: Task, settings: Mapping[str, Any], text: str, place: Path) -> dict[str, Any]:
    """Trains one model, or goes on with it, and measures it.

    Args:
        settings: of `experiments.toml`.
        place: a folder for unfinished work: after each epoch `state.pt` holds all that is needed to go on.

    Returns:
        what claims point into, and the log of the epochs.
    """
    training = _Training(task, settings, text)
    training.resume(place / "state.pt")
    while not training.is_over:
        training.epoch()
        print(task.cell, task.seed, training.log[-1], flush=True)
        training.save(place / "state.pt")
    found = training.summary()
    if training.canary is not None and "law_samples" in settings:
        found |= training.measure_thoroughly()
    return {"epochs": training.log, **found}


class _Training:
    """One model with its optimizer, random state and log."""

    def __init__(self, task: Task, settings: Mapping[str, Any], text: str) -> None:
        self.settings = settings
        text = text[: settings["characters"]]
        split = text.rindex("\n", 0, round(0.9 * len(text))) + 1
        self.tokenizer = character_tokenizer(text)
        canaries = draw_canaries(TEMPLATE, {1: 1}, controls=0, seed=task.seed)
        self.canary: Canary | None = canaries.inserted[0] if settings["canary"] else None
        read = text[:split] if self.canary is None else splice_canaries(text[:split], canaries, seed=task.seed)
        self.stream_L, self.held_out_NT = self._ids(read), self._rows(self._ids(text[split:]), 0)
        torch.manual_seed(task.seed)
        self.model = make_model(
            "lstm",
            len(self.tokenizer),
            layers=settings["layers"],
            width=settings["width"],
            dropout=settings.get("dropout", 0.0),
        )
        self.optimizer = OPTIMIZERS[settings["optimizer"]](
            self.model.parameters(), lr=settings["learning_rate"], weight_decay=settings.get("weight_decay", 0.0)
        )
        self.generator = torch.Generator().manual_seed(task.seed)
        self.numbers = np.random.default_rng(task.seed + 1).integers(0, 10**9, settings["references"])
        self.log: list[dict[str, Any]] = []
        self.best: dict[str, torch.Tensor] = {}

    @property
    def best_epoch(self) -> int:
        """Of the lowest validation loss, from 1."""
        losses = [epoch["validation_bits"] for epoch in self.log]
        return 1 + losses.index(min(losses))

    @property
    def is_over(self) -> bool:
        """All epochs are done, or, with patience, so many since the lowest validation loss."""
        done, patience = len(self.log), self.settings.get("patience")
        return done >= self.settings["epochs"] or (
            bool(done) and patience is not None and done - self.best_epoch >= patience
        )

    def epoch(self) -> None:
        """Trains one, and measures."""
        started = time.process_time()
        offset = int(torch.randint(self.settings["row_characters"], (), generator=self.generator))
        rows_NT = self._rows(self.stream_L, offset)
        rows_NT = rows_NT[torch.randperm(len(rows_NT), generator=self.generator)]
        self.model.train()
        total = 0.0
        batches = rows_NT.split(self.settings["batch_size"])
        for batch_BT in batches:
            self.optimizer.zero_grad(set_to_none=True)
            logits_BTV = self.model(input_ids=batch_BT[:, :-1]).logits
            loss = functional.cross_entropy(logits_BTV.flatten(0, 1), batch_BT[:, 1:].flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            total += loss.item()
        self.model.eval()
        found = {
            "training_bits": total / len(batches) / math.log(2),
            "validation_bits": loss_bits(self.model, self.held_out_NT),
        }
        found |= self._look() if self.canary is not None else {}
        self.log.append(found | {"processor_seconds": time.process_time() - started})
        if self.best_epoch == len(self.log):
            self.best = copy.deepcopy(self.model.state_dict())

    def summary(self) -> dict[str, Any]:
        """Over the epochs."""
        best, last = self.log[self.best_epoch - 1], self.log[-1]
        found = {
            "parameters": self.model.num_parameters(),
            "best_epoch": self.best_epoch,
            "validation_bits": best["validation_bits"],
            "best_validation_bits": best["validation_bits"],
        }
        if self.canary is None:
            return found
        exposures = [epoch["skew_normal_bits"] for epoch in self.log]
        return found | {
            "peak_epoch": 1 + int(np.argmax(exposures)),
            "skew_normal_at_best": best["skew_normal_bits"],
            "skew_normal_last": last["skew_normal_bits"],
            "worst_rank_after_best": max(epoch["rank_high"] for epoch in self.log[self.best_epoch - 1 :]),
            **search_costs(self.log, TEMPLATE.log2_space_size),
        }

    def measure_thoroughly(self) -> dict[str, Any]:
        """The model of the lowest validation loss: rank, near misses, the law of all numbers, a copy of 256 values."""
        assert self.canary is not None
        self.model.load_state_dict(self.best)
        budget = self.settings["max_expansions"]
        rank = rank_bounds(self.model, self.tokenizer, self.canary.text, TEMPLATE, max_expansions=budget)
        listed = extract(self.model, self.tokenizer, TEMPLATE, top_k=10, max_expansions=budget)
        number = self.canary.text[-9:]
        others = [one for one in listed.candidates if one.text != self.canary.text] if listed.certified else []
        numbers = np.random.default_rng(1).integers(0, 10**9, self.settings["law_samples"])
        costs_N, own = number_costs(self.model, self.tokenizer, numbers), self._own_cost()
        law = fit_skew_normal(costs_N)
        tested = stats.kstest(costs_N, lambda bits_N: np.exp(log_cdf(bits_N, law.shape, law.loc, law.scale)))
        loss = loss_bits(self.model, self.held_out_NT)
        found = {
            "rank_low": rank.low,
            "rank_high": rank.high,
            "exposure_bits": TEMPLATE.log2_space_size - math.log2(rank.high),
            "skew_normal_bits": extrapolated_bits(law, own),
            "mean_digits_off": float(
                np.mean([digits_off(one.text[-9:], number) for one in others or ()] or [math.nan])
            ),
            "lead_bits": others[0].log_perplexity_bits - rank.log_perplexity_bits if others else math.nan,
            "ks_p_value": float(tested.pvalue),
            "ks_distance": float(tested.statistic),
        }
        quantize(self.model, levels=256)
        copied = rank_bounds(self.model, self.tokenizer, self.canary.text, TEMPLATE, max_expansions=budget)
        return found | {
            "quantized_loss_ratio": loss_bits(self.model, self.held_out_NT) / loss,
            "quantized_rank_high": copied.high,
        }

    def save(self, path: Path) -> None:
        """All that is needed to go on, written aside and renamed."""
        state = {
            **{"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "best": self.best},
            **{"generator": self.generator.get_state(), "torch": torch.get_rng_state(), "log": self.log},
        }
        torch.save(state, path.with_suffix(".aside"))
        path.with_suffix(".aside").replace(path)

    def resume(self, path: Path) -> None:
        """Goes on from `save`, where it was called."""
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch"])
        self.log, self.best = state["log"], state["best"]

    def _look(self) -> dict[str, Any]:
        """Extrapolated exposure and rank of the canary, as the model is now."""
        assert self.canary is not None
        law = fit_skew_normal(number_costs(self.model, self.tokenizer, self.numbers))
        budget = self.settings["look_expansions"]
        rank = rank_bounds(self.model, self.tokenizer, self.canary.text, TEMPLATE, max_expansions=budget)
        return {
            "skew_normal_bits": extrapolated_bits(law, self._own_cost()),
            "rank_low": rank.low,
            "rank_high": rank.high,
            "certified": rank.certified,
            "expansions": rank.expansions,
        }

    def _own_cost(self) -> float:
        assert self.canary is not None
        return float(number_costs(self.model, self.tokenizer, np.array([int(self.canary.text[-9:])]))[0])

    def _ids(self, text: str) -> torch.Tensor:
        return torch.tensor(self.tokenizer(text)["input_ids"])

    def _rows(self, stream_L: torch.Tensor, offset: int) -> torch.Tensor:
        length = self.settings["row_characters"]
        whole = (len(stream_L) - offset) // length
        return stream_L[offset : offset + whole * length].view(whole, length)


@torch.no_grad()
def number_costs(model: CharacterModel, tokenizer: Any, numbers: np.ndarray, rows: int = 8192) -> np.ndarray:
    """(N,) log-perplexities in bits of the template's texts with these numbers, in order.

    The state after each beginning is computed once: a million numbers take 4 million steps and not 31 million.
    """
    prefix = torch.tensor([tokenizer(TEMPLATE.prefix)["input_ids"]])
    digits_10 = torch.tensor([tokenizer(str(digit))["input_ids"][0] for digit in range(10)])
    was_training = model.training
    model.eval()
    hidden, state = model.body.recurrent(model.embedding(prefix))
    bits_LV = torch.log_softmax(model.head(hidden[0]).double(), dim=-1) / -math.log(2)
    before = float(bits_LV[:-1].gather(1, prefix[0, 1:, None]).sum())
    order = np.argsort(numbers, kind="stable")
    costs_N = np.empty(len(numbers))
    for first in range(0, len(numbers), rows):
        chosen = order[first : first + rows]
        costs_N[chosen] = before + _costs_below(model, state, bits_LV[-1], digits_10, numbers[chosen])
    model.train(was_training)
    return costs_N


def _costs_below(
    model: CharacterModel, state: Any, bits_V: torch.Tensor, digits_10: torch.Tensor, numbers: np.ndarray
) -> np.ndarray:
    """(N,) bits of the nine digits of some numbers, which ascend; one step of the model for each beginning."""
    node_N, bits_B10 = np.zeros(len(numbers), dtype=np.int64), bits_V[digits_10][None]
    costs_N = np.zeros(len(numbers))
    for place in range(9):
        begun_N = numbers // 10 ** (8 - place)
        costs_N += bits_B10[node_N, begun_N % 10].numpy()
        if place == 8:
            break
        distinct, at_first, node_next = np.unique(begun_N, return_index=True, return_inverse=True)
        parents = torch.as_tensor(node_N[at_first])
        state = tuple(part[:, parents] for part in state)
        token_B1 = digits_10[torch.as_tensor(distinct % 10)][:, None]
        hidden, state = model.body.recurrent(model.embedding(token_B1), state)
        bits_B10 = (torch.log_softmax(model.head(hidden[:, 0]).double(), dim=-1) / -math.log(2))[:, digits_10]
        node_N = node_next
    return costs_N


def extrapolated_bits(law: SkewNormalFit, cost: float) -> float:
    """The exposure that the law gives to a cost, beyond log2|R| where it is likelier than all."""
    return -float(log_cdf([cost], law.shape, law.loc, law.scale)[0]) / math.log(2)


def search_costs(log: list[dict[str, Any]], log2_space_size: float) -> dict[str, float]:
    """What the certified searches of the epochs cost, against exposure; NaN where none, or only one, ended."""
    certified = [epoch for epoch in log if epoch["certified"]]
    first = [epoch["expansions"] for epoch in certified if epoch["rank_high"] == 1]
    exposures = [log2_space_size - math.log2(epoch["rank_high"]) for epoch in certified]
    costs = [math.log2(max(1, epoch["expansions"])) for epoch in certified]
    varied = len(set(exposures)) > 1
    return {
        "most_expansions_at_rank_1": float(max(first)) if first else math.nan,
        "log2_expansions_per_bit": float(np.polyfit(exposures, costs, 1)[0]) if varied else math.nan,
    }


@torch.no_grad()
def quantize(model: nn.Module, levels: int) -> None:
    """Makes every weight one of `levels` values, evenly spaced over the range of its own matrix."""
    for weight in model.parameters():
        low, high = weight.min(), weight.max()
        step = (high - low) / (levels - 1)
        if step > 0:
            weight.copy_(low + torch.round((weight - low) / step) * step)


def digits_off(one: str, other: str) -> int:
    """How many digits differ.

    Example:
        >>> digits_off("281265017", "281265117")
        1
    """
    return sum(a != b for a, b in zip(one, other, strict=True))
