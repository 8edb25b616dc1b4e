"""Coins: fair, independent, kept in the file, and without influence on what else is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from hf_exposure import Canary, CanarySet, CanaryTemplate, Digits, draw_canaries
from hf_exposure.errors import CanaryFileError, InputError

TEMPLATE = CanaryTemplate("pin {pin}", pin=Digits(6))


def test_heads_are_inserted_once_and_tails_are_controls() -> None:
    canaries = draw_canaries(TEMPLATE, {8: 2}, controls=3, seed=0, coin_flips=50)
    heads = [canary for canary in canaries if canary.coin is True]
    tails = [canary for canary in canaries if canary.coin is False]
    assert len(heads) + len(tails) == 50
    assert {canary.repetitions for canary in heads} == {1} and {canary.repetitions for canary in tails} == {0}
    assert set(heads) <= set(canaries.inserted) and set(tails) <= set(canaries.controls)
    assert len(canaries.inserted) == 2 + len(heads) and len(canaries.controls) == 3 + len(tails)


def test_coins_are_fair_and_differ_between_seeds() -> None:
    heads = [
        sum(canary.coin is True for canary in draw_canaries(TEMPLATE, {8: 1}, controls=0, seed=seed, coin_flips=50))
        for seed in range(40)
    ]
    assert binomtest(sum(heads), 2000).pvalue > 1e-3
    # Independent coins vary between draws like Binomial(50, 1/2): variance 12.5; chi-square limits at 1e-3.
    assert 12.5 * 16.27 / 39 < np.var(heads, ddof=1) < 12.5 * 74.73 / 39


def test_the_texts_do_not_depend_on_the_coins() -> None:
    plain = draw_canaries(TEMPLATE, {1: 2, 8: 2}, controls=3, seed=5)
    flipped = draw_canaries(TEMPLATE, {1: 2, 8: 2}, controls=3, seed=5, coin_flips=20)
    assert [canary.text for canary in plain] == [canary.text for canary in flipped if canary.coin is None]


def test_coins_alone_are_enough() -> None:
    canaries = draw_canaries(TEMPLATE, {}, controls=0, seed=1, coin_flips=30)
    assert len(canaries) == 30 and all(canary.coin is not None for canary in canaries)


def test_coins_survive_the_file_and_their_edit_is_noticed(tmp_path: Path) -> None:
    canaries = draw_canaries(TEMPLATE, {8: 1}, controls=1, seed=2, coin_flips=10)
    path = tmp_path / "canaries.json"
    canaries.save(path)
    assert CanarySet.load(path) == canaries
    assert [canary.coin for canary in CanarySet.load(path)] == [canary.coin for canary in canaries]
    values = json.loads(path.read_text())
    flipped = next(item for item in values["canaries"] if item["coin"] is not None)
    flipped["coin"] = None
    path.write_text(json.dumps(values))
    with pytest.raises(CanaryFileError, match="must match its hashes"):
        CanarySet.load(path)


def test_a_coin_that_disagrees_with_repetitions_is_refused() -> None:
    canary = Canary(text="pin 000001", template=TEMPLATE, repetitions=8, coin=True)
    with pytest.raises(InputError, match="coin: must agree with repetitions"):
        CanarySet(inserted=(canary,), template=TEMPLATE)
