"""Counterfactual exposure: random coins decide which canaries are included in each of many runs of a small character
model.

python -m examples.many_trainings.canaries --data TEXT_FILE --store FOLDER

The secrets have four digits, so that every rank among the 10,000 is exact. A row of the data is a line of text or a
canary with all its repetitions; lines are in every run. The score of a canary is its exposure; the score of a line is
its mean log-probability per character, in bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import nn

from examples.many_trainings.study import Options, parse_options, write_result
from examples.secret_sharer.results import Stopwatch
from hf_exposure import CanaryTemplate, Digits, draw_canaries, run_subsets
from hf_exposure.estimators import counterfactual_exposure, one_run_agreement

TEMPLATE = CanaryTemplate("the code is {code}.", code=Digits(4))
ALPHABET = "\n abcdefghijklmnopqrstuvwxyz0123456789.,'-$&N<>"
CONTEXT = 10
PREFIX = "the code is "
Row = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class Size:
    """There are `each` canaries for every count, and `characters` characters of text."""

    characters: int
    each: int
    models: int
    epochs: int
    counts: tuple[int, ...] = (1, 2, 4, 8, 16, 32)


SIZES = {
    "smallest": Size(characters=2_000, each=1, models=6, epochs=2),
    "small": Size(characters=25_000, each=6, models=60, epochs=6),
}


class NextCharacter(nn.Module):
    """Predicts the next character from the last ten: embeddings and one hidden layer (about 70,000 weights)."""

    def __init__(self, width: int = 256, entries: int = len(ALPHABET)) -> None:
        super().__init__()
        self.embedding = nn.Embedding(entries + 1, 16)
        self.rest = nn.Sequential(nn.Linear(16 * CONTEXT, width), nn.ReLU(), nn.Linear(width, entries))

    def forward(self, contexts: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.rest(self.embedding(contexts).flatten(1))
        return logits


def ids_of(text: str) -> npt.NDArray[np.int64]:
    return np.array([ALPHABET.find(character) + 1 or 2 for character in text.replace("N", "n")], dtype=np.int64)


def windows(ids: npt.NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
    padded = np.concatenate([np.zeros(CONTEXT, dtype=np.int64), ids])
    views = np.lib.stride_tricks.sliding_window_view(padded[:-1], CONTEXT)
    return torch.from_numpy(views.copy()), torch.from_numpy(ids - 1)


@dataclass(frozen=True)
class Train:
    epochs: int

    def __call__(self, rows: list[Row]) -> nn.Module:
        texts = [text for text, count in rows for _ in range(count)]
        order = torch.randperm(len(texts)).tolist()
        contexts, following = windows(np.concatenate([ids_of(texts[place] + "\n") for place in order]))
        model = NextCharacter()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(self.epochs):
            for batch in torch.randperm(len(following)).split(256):
                optimizer.zero_grad(set_to_none=True)
                nn.functional.cross_entropy(model(contexts[batch]), following[batch]).backward()
                optimizer.step()
        return model


def train_on(model: nn.Module, texts: list[str], steps: int) -> nn.Module:
    """Trains with Adam for `steps` steps on batches of 256 characters, drawn from all texts."""
    contexts, following = windows(np.concatenate([ids_of(text + "\n") for text in texts]))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        batch = torch.randint(len(following), (256,))
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(contexts[batch]), following[batch]).backward()
        optimizer.step()
    return model


def mean_bits(model: nn.Module, texts: list[str]) -> float:
    """Bits per character, averaged over all characters of the texts."""
    contexts, following = windows(np.concatenate([ids_of(text + "\n") for text in texts]))
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(contexts), following)) / float(np.log(2.0))


def scores(model: nn.Module, rows: list[Row]) -> npt.NDArray[np.float64]:
    """Exposure of canaries and mean log-probability of lines, in bits, higher for rows that are better known."""
    costs = _costs_of_codes(model)
    codes = [int(text[len(PREFIX) : len(PREFIX) + 4]) for text, _ in rows if text.startswith(PREFIX)]
    # Other canaries do not compete.
    rivals = np.delete(costs, codes)
    found = []
    for text, _ in rows:
        if text.startswith(PREFIX):
            own = costs[int(text[len(PREFIX) : len(PREFIX) + 4])]
            # Ties count against the canary.
            found.append(float(np.log2(len(rivals) + 1) - np.log2(1 + (rivals <= own).sum())))
        else:
            contexts, following = windows(ids_of("\n" + text))
            with torch.no_grad():
                logs = model(contexts).double().log_softmax(1).gather(1, following[:, None])[1:, 0]
            found.append(float(logs.mean()) / np.log(2.0))
    return np.array(found)


def _correlations_with(exposures: npt.NDArray[np.float64], included: npt.NDArray[np.bool_]) -> list[float]:
    """Like `one_run_agreement`, but with the mean exposure of runs with the canary as the target."""
    found = []
    for run_number, had in enumerate(included):
        others = np.arange(len(included)) != run_number
        means = np.nanmean(np.where(included[others], exposures[others], np.nan), axis=0)
        if had.sum() >= 3 and np.ptp(exposures[run_number, had]) and np.ptp(means[had]):
            found.append(float(stats.spearmanr(exposures[run_number, had], means[had]).statistic))
    return found


def _costs_of_codes(model: nn.Module) -> npt.NDArray[np.float64]:
    """Bits of each of the 10,000 codes with the full stop, after the prefix, which is the same for all."""
    codes = np.arange(10_000)
    digits = np.stack([codes // 10**place % 10 for place in (3, 2, 1, 0)], 1) + ALPHABET.index("0") + 1
    prefix = np.tile(ids_of("\n" + PREFIX), (len(codes), 1))
    whole = np.concatenate([prefix, digits, np.full((len(codes), 1), ALPHABET.index(".") + 1)], 1)
    costs = np.zeros(len(codes))
    with torch.no_grad():
        for end in range(prefix.shape[1], whole.shape[1]):
            logs = model(torch.from_numpy(whole[:, end - CONTEXT : end].copy())).double().log_softmax(1)
            costs -= logs.gather(1, torch.from_numpy(whole[:, end : end + 1] - 1))[:, 0].numpy()
    return costs / np.log(2.0)


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    if options.data is None:
        words = np.random.default_rng(0).choice(["on", "a", "red", "hill", "they", "sat"], size.characters)
        text, name = " ".join(words)[: size.characters], "made up"
        lines = [text[start : start + 60] for start in range(0, len(text), 60)]
    else:
        lines, name = options.data.read_text()[: size.characters].splitlines(), options.data.name
    lines = [line for line in lines if line.strip()]
    canaries = draw_canaries(TEMPLATE, dict.fromkeys(size.counts, size.each), controls=2, seed=0).inserted
    rows: list[Row] = [(line.lower(), 1) for line in lines]
    rows += [(canary.text, canary.repetitions) for canary in canaries]
    masks = np.ones((size.models, len(rows)), dtype=bool)
    masks[:, len(lines) :] = np.random.default_rng(1).random((size.models, len(canaries))) < 0.5
    runs = run_subsets(Train(size.epochs), rows, masks, store=options.store, score=scores, n_jobs=options.jobs)
    if runs.missing or runs.diverged:
        raise SystemExit(f"missing runs {runs.missing[:5]}, diverged {dict(runs.diverged)}")
    exposures, included = runs.scores_MN[:, len(lines) :], runs.included_MN[:, len(lines) :]
    counts = np.array([canary.repetitions for canary in canaries])
    found, agreement = counterfactual_exposure(exposures, included), one_run_agreement(exposures, included)
    caused = found.caused.memorization_N
    # The exposure of the first rank; other canaries do not compete.
    ceiling = np.log2(TEMPLATE.space_size - len(canaries) + 1) - 1e-9
    often = counts >= 8
    within = [one_run_agreement(exposures[:, counts == count], included[:, counts == count]) for count in size.counts]
    figures: dict[str, Any] = {
        "one_run_correlation": [value for value in agreement.correlation_M.tolist() if value == value],
        "one_run_correlation_with": _correlations_with(exposures, included),
        "one_run_error_bits": [value for value in agreement.error_bits_M.tolist() if value == value],
        "within_count": [{"count": count, "mean": one.mean} for count, one in zip(size.counts, within, strict=True)],
        "within_count_correlation": float(np.mean([one.mean for one in within])),
        "without_bits": found.without_C.tolist(),
        "count_correlation": float(stats.spearmanr(counts, caused).statistic),
        "by_count": [
            {
                "count": count,
                "with_bits": float(found.with_C[counts == count].mean()),
                "without_bits": float(found.without_C[counts == count].mean()),
                "caused_bits": float(caused[counts == count].mean()),
                "share_at_ceiling": float(
                    np.mean(exposures[:, counts == count][included[:, counts == count]] >= ceiling)
                ),
                "standard_error_bits": float(found.caused.standard_error_N[counts == count].mean()),
            }
            for count in size.counts
        ],
        "spread_of_8_or_more_bits": {
            "caused": float(caused[often].std()),
            "with": float(found.with_C[often].std()),
            "without": float(found.without_C[often].std()),
        },
        "bits_a_character": float(-runs.scores_MN[:, : len(lines)].mean()),
        "seconds_a_run": float(np.median(runs.seconds_M)),
    }
    settings = {"characters": size.characters, "models": size.models, "epochs": size.epochs}
    settings |= {"canaries_each": size.each, "counts": list(size.counts), "space": TEMPLATE.space_size}
    write_result(options, "canaries", data=name, settings=settings, figures=figures, cost=watch.read())


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
