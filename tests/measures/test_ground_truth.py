"""The long proof: on a trained model, every estimator against brute force over the whole space.

Slow; `make proof` runs it. The space has five digits, so that 10^5 texts can be scored one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

from hf_exposure import Canary, CanarySet, CanaryTemplate, Digits, draw_canaries, measure_exposure
from hf_exposure.canaries.space import distinct_ids

TEMPLATE = CanaryTemplate("code {code}.", code=Digits(5))
TOKENIZER = ByT5Tokenizer()

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained() -> Iterator[tuple[nn.Module, CanarySet]]:
    """A small model that has seen some codes often, some rarely, and most never."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    canaries = draw_canaries(TEMPLATE, {40: 5, 10: 5, 3: 10}, controls=5, seed=3)
    texts = [canary.text for canary in canaries.inserted for _ in range(canary.repetitions)]
    rng = np.random.default_rng(0)
    # Codes favor small digits, so that unseen codes differ in cost as well.
    texts += ["code " + "".join(map(str, rng.geometric(0.25, 5) % 10)) + "." for _ in range(400)]
    ids = torch.tensor(TOKENIZER(texts, add_special_tokens=False)["input_ids"])
    config = GPT2Config(vocab_size=384, n_layer=2, n_head=2, n_embd=48, n_positions=32, bos_token_id=0, eos_token_id=1)
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(12):
        for batch in ids[torch.randperm(len(ids))].split(64):
            model(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    yield model.eval(), canaries
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def costs_of_space(trained: tuple[nn.Module, CanarySet]) -> np.ndarray:
    """(10^5,) bits of every text in index order."""
    return _costs_of_space(trained[0], ".")


def _costs_of_space(model: nn.Module, ending: str) -> np.ndarray:
    """(10^5,) bits of every text with that ending, computed plainly: whole texts, float64 sums."""
    found = []
    with torch.no_grad():
        for first in range(0, 10**5, 2000):
            texts = [f"code {number:05d}{ending}" for number in range(first, first + 2000)]
            ids = torch.tensor(TOKENIZER(texts, add_special_tokens=False)["input_ids"])
            log_p = torch.log_softmax(model(input_ids=ids).logits.double(), dim=-1)
            taken = log_p[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2)
            found.append(-taken.sum(dim=1).numpy() / math.log(2))
    return np.concatenate(found)


def _set_of(numbers: list[int], ending: str = ".") -> CanarySet:
    """One inserted canary and the rest controls, so that all but one rank in the whole space."""
    ids, template = distinct_ids(), CanaryTemplate("code {code}" + ending, code=Digits(5))
    made = [
        Canary(id=next(ids), text=f"code {n:05d}{ending}", template=template, repetitions=int(i == 0))
        for i, n in enumerate(numbers)
    ]
    return CanarySet(inserted=(made[0],), controls=tuple(made[1:]), template=template)


def _true_ranks(costs: np.ndarray, numbers: list[int], tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest rank that a scoring error of `tolerance` allows; the first number does not compete."""
    low, high = [], []
    for place, number in enumerate(numbers):
        rivals = np.delete(costs, sorted({number, numbers[0]} if place else {number}))
        low.append(1 + (rivals <= costs[number] - tolerance).sum())
        high.append(1 + (rivals <= costs[number] + tolerance).sum())
    return np.array(low), np.array(high)


def _spread_numbers(costs: np.ndarray, count: int) -> list[int]:
    """Numbers at ranks spread evenly in log2, from the first to the last."""
    order = np.argsort(costs, kind="stable")
    places = np.unique(np.round(np.exp2(np.linspace(0, math.log2(len(costs)), 2 * count))).astype(int) - 1)
    chosen = places[np.round(np.linspace(0, len(places) - 1, count)).astype(int)]
    return [int(number) for number in order[chosen]]


def test_bounded_rank_equals_brute_force_for_100_canaries(
    trained: tuple[nn.Module, CanarySet], costs_of_space: np.ndarray
) -> None:
    model, _ = trained
    numbers = _spread_numbers(costs_of_space, 100)
    report = measure_exposure(model, TOKENIZER, _set_of(numbers), method="bounded", max_expansions=10**6)
    low, high = _true_ranks(costs_of_space, numbers, 2e-4)
    strict_low, strict_high = _true_ranks(costs_of_space, numbers, 0.0)
    found_low = np.array([estimate.rank_low for estimate in report.estimates])
    found_high = np.array([estimate.rank_high for estimate in report.estimates])
    assert (low <= found_low).all() and (found_high <= high).all()
    assert (found_low <= strict_high).all() and (strict_low <= found_high).all()
    assert found_high.min() == 1 and found_high.max() > 99_000
    # Exact ranks differ from the truth only for ties within the tolerance.
    assert np.median(found_high - found_low) <= 1


def test_enumeration_equals_brute_force(trained: tuple[nn.Module, CanarySet], costs_of_space: np.ndarray) -> None:
    model, _ = trained
    numbers = _spread_numbers(costs_of_space, 100)
    report = measure_exposure(model, TOKENIZER, _set_of(numbers), method="enumerate")
    low, high = _true_ranks(costs_of_space, numbers, 3e-4)
    assert all(low <= [estimate.rank_low for estimate in report.estimates])
    assert all([estimate.rank_high for estimate in report.estimates] <= high)


@pytest.mark.parametrize("ending", [".", ""])
def test_importance_intervals_cover_the_truth(trained: tuple[nn.Module, CanarySet], ending: str) -> None:
    """Without a text after the code, each draw counts the ten codes that it could have ended with."""
    model, _ = trained
    costs_of_space = _costs_of_space(model, ending)
    numbers = _spread_numbers(costs_of_space, 10)
    canaries = _set_of(numbers, ending)
    _, ranks = _true_ranks(costs_of_space, numbers, 0.0)
    sizes = 10**5 - (np.arange(10) > 0)
    truth = np.log2(sizes) - np.log2(ranks)
    covered, widths = 0, []
    for seed in range(30):
        report = measure_exposure(
            model, TOKENIZER, canaries, method="importance", references=2048, seed=seed, precision_bits=1e-9
        )
        low = np.array([estimate.low_bits for estimate in report.estimates])
        high = np.array([estimate.high_bits for estimate in report.estimates])
        covered += int(((low <= truth + 1e-3) & (truth <= high + 1e-3)).sum())
        widths.append(high - low)
    assert covered >= 270, f"{covered} of 300 intervals hold the truth"
    # Intervals that cover everything because they are wide would prove nothing.
    assert np.median(widths) < 0.5


def test_exposures_of_1000_null_canaries_follow_the_null(
    trained: tuple[nn.Module, CanarySet], costs_of_space: np.ndarray
) -> None:
    model, seen = trained
    known = {canary.text for canary in seen}
    rng = np.random.default_rng(7)
    numbers = [int(n) for n in rng.permutation(10**5) if f"code {n:05d}." not in known][:1001]
    report = measure_exposure(model, TOKENIZER, _set_of(numbers), method="enumerate")
    exposures = np.array([estimate.exposure_bits for estimate in report.controls])
    assert len(exposures) == 1000
    # 2^-exposure = rank / |R| is uniform on (0, 1] for a canary that was never seen.
    assert stats.kstest(np.exp2(-exposures), "uniform").pvalue > 0.01
    for bits in (1, 2, 3, 5, 8):
        tail = int((exposures >= bits).sum())
        assert stats.binomtest(tail, 1000, 2.0**-bits, alternative="greater").pvalue > 1e-3
