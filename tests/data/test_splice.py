"""Canaries inside running text: their counts and positions, without losing any text."""

from __future__ import annotations

import pytest
from datasets import Dataset

from hf_exposure import CanarySet, CanaryTemplate, Digits, draw_canaries, splice_canaries
from hf_exposure.data.splice import spliced
from hf_exposure.errors import InputError

TEMPLATE = CanaryTemplate("pin {pin}", pin=Digits(6))
TEXT = " ".join(f"word{number}" for number in range(300))


def some(seed: int = 0) -> CanarySet:
    return draw_canaries(TEMPLATE, {1: 2, 3: 2}, controls=2, seed=seed)


@pytest.mark.parametrize("between_words", [True, False])
def test_each_canary_is_there_as_often_as_it_says_and_the_text_around_it_stays(between_words: bool) -> None:
    canaries = some()
    out = splice_canaries(TEXT, canaries, seed=4, between_words=between_words)
    for canary in canaries:
        assert out.count(canary.text) == canary.repetitions
        out = out.replace(f" {canary.text}" if between_words else canary.text, "")
    assert out == TEXT


def test_no_word_is_cut_unless_it_is_asked_for() -> None:
    words = set(TEXT.split())
    found = splice_canaries(TEXT, some(), seed=4).split()
    assert words <= set(found)
    cut = [splice_canaries(TEXT, some(), seed=seed, between_words=False).split() for seed in range(5)]
    assert any(not words <= set(one) for one in cut)


def test_places_are_uniform_over_the_characters() -> None:
    canary = CanarySet.from_secrets(TEMPLATE, ["pin 000042"])
    text = "x" * 999
    places = [splice_canaries(text, canary, seed=seed, between_words=False).index("pin") for seed in range(2000)]
    assert min(places) < 10 and max(places) > 990
    assert sum(places) / len(places) == pytest.approx(499.5, abs=3.3 * 288.7 / 2000**0.5)


@pytest.mark.parametrize(("place", "share"), [(0.0, 0.0), (0.1, 0.1), (1.0, 1.0)])
def test_a_chosen_place(place: float, share: float) -> None:
    out = splice_canaries(TEXT, CanarySet.from_secrets(TEMPLATE, ["pin 000042"]), place=place)
    assert out.index("pin 000042") == pytest.approx(share * len(TEXT), abs=10)


def test_the_rows_of_a_dataset_are_one_running_text() -> None:
    rows = ["one two", None, "", "three four five", "six"]
    data = Dataset.from_dict({"text": rows, "n": [0, 1, 2, 3, 4]}).select([4, 0, 1, 2, 3])
    canaries = some()
    out = splice_canaries(data, canaries, seed=1)
    assert len(out) == 5 and out["n"][:] == [4, 0, 1, 2, 3]
    joined = "\n".join(text or "" for text in out["text"])
    for canary in canaries:
        assert joined.count(canary.text) == canary.repetitions
        joined = joined.replace(f" {canary.text}", "").replace(f"{canary.text} ", "")
    assert joined == "\n".join(["six", "one two", "", "", "three four five"])


def test_long_rows_get_more_canaries_than_short_ones() -> None:
    data = Dataset.from_dict({"text": ["a " * 50, "b " * 950]})
    canaries = draw_canaries(TEMPLATE, {1: 200}, controls=0, seed=0)
    first, second = splice_canaries(data, canaries, seed=0)["text"][:]
    assert first.count("pin") + second.count("pin") == 200
    assert 2 <= first.count("pin") <= 24, "5 % of the characters"


def test_what_cannot_be_spliced_is_refused() -> None:
    with pytest.raises(InputError, match="data: must not be empty"):
        splice_canaries("", some())
    with pytest.raises(InputError, match="data: must have rows with text"):
        splice_canaries(Dataset.from_dict({"text": ["", ""]}), some())
    with pytest.raises(InputError, match="text_column: must be one of"):
        splice_canaries(Dataset.from_dict({"body": ["a"]}), some())
    with pytest.raises(InputError, match="place: must lie between 0 and 1"):
        splice_canaries(TEXT, some(), place=1.5)
    with pytest.raises(InputError, match="data: must be a text or a Dataset"):
        splice_canaries(["a"], some())  # type: ignore[type-var]


def test_several_at_one_place_stay_apart() -> None:
    assert spliced("ab cd", [(0, "X"), (0, "Y"), (5, "Z")], True) == "ab X Y cd Z"
    assert spliced("", [(0, "X"), (0, "Y")], True) == "X Y"
    assert spliced(" ab", [(0, "X")], True) == "X ab"
