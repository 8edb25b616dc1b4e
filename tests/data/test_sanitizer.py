"""Removing by format: it finds the same as a simple regular expression, in every string of a chat."""

from __future__ import annotations

import pickle
import random
import re

import pytest
from datasets import Dataset, IterableDataset

from hf_exposure import Choice, Digits, LuhnDigits, Sanitizer, Words, presets, sanitize
from hf_exposure.errors import InputError


def luhn(digits: str) -> bool:
    doubled = [int(d) * (1 + place % 2) for place, d in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def test_it_finds_what_a_regular_expression_finds() -> None:
    draw = random.Random(0)
    for _ in range(200):
        text = "".join(draw.choice("12 3a-") for _ in range(60))
        expected = [match.span() for match in re.finditer(r"(?<![0-9a-z])\d{3}(?![0-9a-z])", text)]
        assert [(one.start, one.end) for one in Sanitizer([Digits(3)]).find(text)] == expected, text
        loose = [match.span() for match in re.finditer(r"\d{3}", text)]
        assert [(one.start, one.end) for one in Sanitizer([Digits(3)], whole_words=False).find(text)] == loose, text


def test_checksums_count() -> None:
    draw = random.Random(1)
    numbers = ["".join(draw.choices("0123456789", k=16)) for _ in range(300)]
    cleaned = Sanitizer([LuhnDigits(16)], "#").text(" ".join(numbers)).split()
    assert [one == "#" for one in cleaned] == [luhn(number) for number in numbers]
    assert 10 < cleaned.count("#") < 60


def test_the_longest_of_several_formats_wins() -> None:
    sanitizer = Sanitizer([Digits(3), presets.social_security_number(), Choice(["red", "red wine"])], "#")
    text = "My social security number is 078-05-1120, red wine 123, reddish 1234."
    found = [(text[one.start : one.end], one.format) for one in sanitizer.find(text)]
    assert found == [("My social security number is 078-05-1120", 1), ("red wine", 2), ("123", 0)]
    assert Sanitizer([Words(2, words=["a", "b"])], "#").text("a b a b") == "# #"


def test_rows_are_replaced_or_dropped() -> None:
    data = Dataset.from_dict({"text": ["id 078051120!", "none", "x078051120"], "n": [0, 1, 2]})
    assert sanitize(data, [Digits(9)], replacement="#")["text"][:] == ["id #!", "none", "x078051120"]
    assert sanitize(data, [Digits(9)], replacement=None)["n"][:] == [1, 2]
    stream = IterableDataset.from_generator(lambda: iter([{"text": "078051120"}, {"text": "none"}]))
    assert [row["text"] for row in sanitize(stream, [Digits(9)], replacement="#")] == ["#", "none"]


def test_every_string_of_a_chat_is_read() -> None:
    chat = [{"role": "user", "content": "It is 078051120."}, {"role": "assistant", "content": "Thanks."}]
    data = Dataset.from_dict({"messages": [chat]})
    cleaned = sanitize(data, [Digits(9)], "messages", replacement="#")["messages"][0]
    assert [turn["content"] for turn in cleaned] == ["It is #.", "Thanks."]
    assert len(sanitize(data, [Digits(9)], "messages", replacement=None)) == 0


def test_it_can_be_sent_to_workers() -> None:
    sanitizer = Sanitizer([Digits(2)], "#")
    assert sanitizer.text("12") == "#"  # intermediate results are not sent
    assert pickle.loads(pickle.dumps(sanitizer)).text("34 5") == "# 5"


def test_what_is_no_format_is_refused() -> None:
    with pytest.raises(InputError, match="formats: must be templates or spaces"):
        Sanitizer([])
    with pytest.raises(InputError, match="formats: must be templates or spaces"):
        Sanitizer([r"\d+"])  # type: ignore[list-item]
    with pytest.raises(InputError, match="text_column: must be one of"):
        sanitize(Dataset.from_dict({"body": ["a"]}), [Digits(1)])
