"""Draws are uniform, without replacement and reproducible, and their ids reveal nothing."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from hf_exposure.canaries import CanarySet, CanaryTemplate, Choice, Digits, Words, draw_canaries
from hf_exposure.errors import InputError

NUMBER = CanaryTemplate("The random number is {number}", number=Digits(9))


def texts(canaries: CanarySet) -> list[str]:
    return [canary.text for canary in canaries]


def test_first_digits_are_uniform() -> None:
    """A known generator fails this test: it draws too many, sorts, and keeps the lexicographically first n."""
    drawn = draw_canaries(NUMBER, repetitions={1: 4000}, controls=1000, seed=1)
    for position in (0, 4, 8):
        counts = Counter(NUMBER.parse(text)["number"][position] for text in texts(drawn))
        assert stats.chisquare([counts[digit] for digit in "0123456789"]).pvalue > 1e-3


@pytest.mark.parametrize("place", [0, 5, 9])
def test_a_space_as_large_as_the_draw_is_shuffled(place: int) -> None:
    template = CanaryTemplate("{d}", d=Digits(1))
    counts: Counter[str] = Counter()
    for seed in range(1000):
        drawn = texts(draw_canaries(template, repetitions={1: 4, 2: 2}, controls=4, seed=seed))
        assert sorted(drawn) == list("0123456789")
        counts[drawn[place]] += 1
    assert stats.chisquare([counts[digit] for digit in "0123456789"]).pvalue > 1e-3


def test_values_of_another_mersenne_twister() -> None:
    """NumPy's, seeded by array like Python's: the top 30 of each 32 bits; values of 10**9 and above are rejected."""
    raw = np.random.RandomState([0]).bytes(40)
    bits = [int.from_bytes(raw[start : start + 4], "little") >> 2 for start in range(0, 40, 4)]
    expected = [f"The random number is {value:09}" for value in bits if value < 10**9][:3]
    assert texts(draw_canaries(NUMBER, repetitions={1: 3}, controls=0, seed=0)) == expected


@pytest.mark.parametrize(
    "template",
    [
        CanaryTemplate("{n}", n=Digits(16)),
        CanaryTemplate("{w}", w=Words(4, words=[f"w{number}" for number in range(267_735)])),
    ],
    ids=["10**16", "267735**4"],
)
def test_large_spaces(template: CanaryTemplate) -> None:
    drawn = draw_canaries(template, repetitions={1: 50}, controls=50, seed=3)
    indices = [template.index_of(text) / template.space_size for text in texts(drawn)]
    assert len(set(indices)) == 100
    assert stats.kstest(indices, "uniform").pvalue > 1e-3


def test_order_counts_and_controls() -> None:
    drawn = draw_canaries(NUMBER, repetitions={64: 1, 1: 2, 8: 3}, controls=5, seed=0)
    assert [canary.repetitions for canary in drawn] == [1, 1, 8, 8, 8, 64, 0, 0, 0, 0, 0]
    assert [canary.is_control for canary in drawn] == [False] * 6 + [True] * 5
    assert len(drawn) == 11 and drawn.total_insertions == 2 + 24 + 64 and drawn.repetition_counts == (1, 8, 64)
    assert len(set(texts(drawn))) == 11
    assert not {canary.text for canary in drawn.inserted} & {canary.text for canary in drawn.controls}
    assert all(canary.template is NUMBER for canary in drawn)


def test_one_seed_one_draw_and_ids_of_their_own() -> None:
    first, again, other = (draw_canaries(NUMBER, repetitions={1: 20}, seed=seed) for seed in (5, 5, 6))
    assert first == again and texts(first) == texts(again)
    assert not set(texts(first)) & set(texts(other))
    assert not {canary.id for canary in first} & {canary.id for canary in again}, "ids must not follow from the seed"
    assert first.salt != again.salt and first.manifest_hash != again.manifest_hash


def test_without_a_seed_the_system_chooses_and_it_is_kept() -> None:
    first, second = (draw_canaries(NUMBER, repetitions={1: 4}) for _ in range(2))
    assert first.seed != second.seed and first.seed is not None and first.seed > 2**64
    assert texts(draw_canaries(NUMBER, repetitions={1: 4}, seed=first.seed)) == texts(first)


def test_secrets_are_not_in_reprs() -> None:
    drawn = draw_canaries(NUMBER, repetitions={1: 1}, controls=1, seed=987654)
    shown = repr(drawn) + repr(drawn.inserted[0]) + str(drawn)
    for canary in drawn:
        assert NUMBER.parse(canary.text)["number"] not in shown
    assert "987654" not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"repetitions": {}},
            "repetitions: must be a mapping with at least one group, got {}. Write repetitions={1: 4",
        ),
        ({"repetitions": 3}, "repetitions: must be a mapping with at least one group, got 3"),
        ({"repetitions": {0: 3}}, "repetitions: must be a whole number of at least 1, got 0"),
        ({"repetitions": {2: 0}}, "repetitions[2]: must be a whole number of at least 1, got 0"),
        ({"repetitions": {1: 1}, "controls": -1}, "controls: must be a whole number of at least 0, got -1"),
        ({"repetitions": {1: 1}, "seed": -1}, "seed: must be a whole number of at least 0, got -1"),
        (
            {"repetitions": {1: 1}, "seed": "x"},
            "seed: must be a whole number of at least 0, got 'a text of 1 characters'",
        ),
        (
            {"repetitions": {1: 90}, "controls": 11},
            "template: must have at least as many texts as are drawn (101), got",
        ),
    ],
)
def test_errors_name_argument_rule_and_value(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        draw_canaries(CanaryTemplate("{d}", d=Digits(2)), **arguments)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_secrets_that_are_in_the_data_already() -> None:
    template = CanaryTemplate("pin {d}", d=Digits(1))
    known = CanarySet.from_secrets(template, ["pin 3", "pin 1"], repetitions=[2, 5], controls=8, seed=0)
    assert [(canary.text, canary.repetitions) for canary in known.inserted] == [("pin 3", 2), ("pin 1", 5)]
    assert sorted(canary.text for canary in known.controls) == [f"pin {d}" for d in (0, 2, 4, 5, 6, 7, 8, 9)]
    assert known == CanarySet.from_secrets(template, ["pin 3", "pin 1"], repetitions=[2, 5], controls=8, seed=0)
    alone = CanarySet.from_secrets(template, iter(["pin 3"]))
    assert (len(alone), alone.seed, alone.inserted[0].repetitions) == (1, None, 1)
    assert CanarySet.from_secrets(template, ["pin 3"], controls=2).seed is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"texts": ["pin 3", "pin 777"]},
            "inserted[1]: must be a text of the template 'pin {d}', got 'a text of 7 char",
        ),
        (
            {"texts": ["pin 3", "pin 1", "pin 3"]},
            "canaries: must each have a text of their own, got 'canary 2 with the",
        ),
        ({"texts": []}, "inserted: must hold at least one canary"),
        (
            {"texts": ["pin 3"], "repetitions": 0},
            "inserted[0].repetitions: must be a whole number of at least 1, got 0",
        ),
        ({"texts": ["pin 3"], "repetitions": [1, 2]}, "repetitions: must be one number or 1, got 2"),
        (
            {"texts": ["pin 3"], "controls": 10},
            "controls: must be at most the number of remaining texts, 9, got 10. Write 9.",
        ),
    ],
)
def test_errors_of_known_secrets_do_not_quote_them(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        CanarySet.from_secrets(CanaryTemplate("pin {d}", d=Digits(1)), **arguments)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "777" not in str(caught.value) and "pin 3" not in str(caught.value)


def test_a_set_refuses_canaries_in_the_wrong_place() -> None:
    drawn = draw_canaries(CanaryTemplate("{c}", c=Choice(["red", "green", "blue"])), {1: 1}, controls=1, seed=0)
    with pytest.raises(InputError, match=r"controls\[0\]: must have 0 repetitions, got 1"):
        CanarySet(inserted=drawn.inserted, controls=drawn.inserted, template=drawn.template)
    with pytest.raises(InputError, match=r"inserted\[0\]: must be a text of the template 'The random number"):
        CanarySet(inserted=drawn.inserted, template=NUMBER)
    with pytest.raises(InputError, match=r"inserted\[0\]: must be a Canary, got 'str'"):
        CanarySet(inserted=("red",), template=drawn.template)  # type: ignore[arg-type]
