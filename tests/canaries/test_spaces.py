"""Laws that every space obeys, checked against brute-force listings, and each space's own facts."""

from __future__ import annotations

import itertools
import json
import pickle
import time
from collections import Counter

import pytest

from hf_exposure.canaries import Choice, Digits, Letters, LuhnDigits, Space, Words, parse_space, space_from_dict
from hf_exposure.canaries.word_spaces import english_words
from hf_exposure.errors import InputError
from hf_exposure.testing import check_space


def luhn_by_hand(text: str) -> bool:
    """The textbook procedure: double every second digit from the right, then add the digits of the results."""
    doubled = [int(d) * (2 if place % 2 else 1) for place, d in enumerate(reversed(text))]
    return sum(int(d) for number in doubled for d in str(number)) % 10 == 0


def strings(alphabet: str, length: int) -> list[str]:
    return ["".join(characters) for characters in itertools.product(alphabet, repeat=length)]


WORDS = ["is", "isn", "island", "a", "to"]
LISTED = {
    "digits": (Digits(3), strings("0123456789", 3)),
    "letters": (Letters(3, alphabet="cab"), strings("abc", 3)),
    "luhn": (LuhnDigits(4), [text for text in strings("0123456789", 4) if luhn_by_hand(text)]),
    "luhn_odd": (LuhnDigits(3), [text for text in strings("0123456789", 3) if luhn_by_hand(text)]),
    "luhn_prefix": (
        LuhnDigits(5, prefix="42"),
        [text for text in strings("0123456789", 5) if luhn_by_hand(text) and text.startswith("42")],
    ),
    "luhn_groups": (
        LuhnDigits(6, prefix="421", separator=" "),
        [f"{text[:4]} {text[4:]}" for text in strings("0123456789", 6) if luhn_by_hand(text) and text[:3] == "421"],
    ),
    "luhn_one_group": (
        LuhnDigits(4, separator="-"),
        [text for text in strings("0123456789", 4) if luhn_by_hand(text)],
    ),
    "choice": (Choice(["11", "1", "two words", "two"]), ["1", "11", "two", "two words"]),
    "words": (Words(2, words=WORDS), [f"{a} {b}" for a in WORDS for b in WORDS]),
    "words_one": (Words(1, words=WORDS), WORDS),
    "words_separator": (
        Words(3, words=["a", "ab"], separator=" - "),
        [" - ".join(p) for p in itertools.product(["a", "ab"], repeat=3)],
    ),
}


@pytest.fixture(params=LISTED, ids=str)
def listed(request: pytest.FixtureRequest) -> tuple[Space, list[str]]:
    space, texts = LISTED[request.param]
    return space, sorted(texts)


def test_the_laws_against_the_list(listed: tuple[Space, list[str]]) -> None:
    check_space(*listed)


def test_equal_after_pickle_and_json(listed: tuple[Space, list[str]]) -> None:
    space, _ = listed
    for copy in (pickle.loads(pickle.dumps(space)), space_from_dict(json.loads(json.dumps(space.to_dict())))):
        assert copy == space and hash(copy) == hash(space)
        assert copy.text_at(space.size - 1) == space.text_at(space.size - 1)
    assert space != Digits(7) and space != "text"
    assert len(repr(space)) < 100


def test_sizes_of_spaces_too_large_to_list() -> None:
    assert Digits(9).size == 1_000_000_000
    assert Letters(20).size == 19928148895209409152340197376  # 26**20
    assert LuhnDigits(16).size == 1_000_000_000_000_000
    assert LuhnDigits(16, prefix="424242").size == 1_000_000_000
    assert LuhnDigits(16).contains("4111111111111111") and not LuhnDigits(16).contains("4111111111111112")
    grouped = LuhnDigits(16, separator="-")
    assert grouped.size == 1_000_000_000_000_000 and grouped.fixed_length == 19
    assert grouped.contains("4111-1111-1111-1111") and not grouped.contains("4111111111111111")
    assert "separator" not in LuhnDigits(16).to_dict()  # manifest hashes written before groups existed are still valid


def test_drawing_many_texts_asks_a_state_for_its_moves_once() -> None:
    asked: Counter[object] = Counter()

    class Watched(LuhnDigits):
        def moves(self, state: object) -> dict[str, object]:
            asked[state] += 1
            return super().moves(state)

    space = Watched(16, separator=" ")
    texts = [space.text_at(index * 7_919_000_011) for index in range(2000)]
    assert len(set(texts)) == 2000 and max(asked.values()) == 1
    assert [space.index_of(text) for text in texts[:20]] == [index * 7_919_000_011 for index in range(20)]


def test_a_vocabulary_of_267735_words_to_the_fourth() -> None:
    """The size of WikiText-103's vocabulary, which the paper's word-level model draws from."""
    before = time.perf_counter()
    space = Words(4, words=[f"w{number:x}" for number in range(267_735)])
    assert space.size == 5_138_313_457_177_813_550_625  # bc: 267735^4
    for index in (0, 1, 10**21, space.size - 1):
        text = space.text_at(index)
        assert len(text.split(" ")) == 4 and space.index_of(text) == index
    assert time.perf_counter() - before < 5


def test_the_english_list_is_sorted_words_and_saved_by_name() -> None:
    words = english_words()
    assert 1000 <= len(words) <= 3000
    assert list(words) == sorted(set(words))
    assert all(word.isascii() and word.isalpha() and word.islower() and 3 <= len(word) <= 10 for word in words)
    saved = Words(3).to_dict()
    assert saved["list"] == "english-1" and "words" not in saved
    assert space_from_dict(saved) == Words(3) == Words(3, words=reversed(words))
    with pytest.raises(InputError, match=r"list: must be 'english-1' with the words that ship"):
        space_from_dict(saved | {"sha256": "0" * 64})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Digits(0), "length: must be a whole number of at least 1, got 0. Write length=1 or more."),
        (lambda: Digits(2.0), "length: must be a whole number of at least 1, got 2.0"),
        (lambda: Digits(True), "length: must be a whole number of at least 1, got True"),
        (lambda: Letters(2, alphabet="aa"), "alphabet: must be distinct characters, at least one, got 'aa'"),
        (lambda: Letters(2, alphabet=""), "alphabet: must be distinct characters"),
        (lambda: Letters(2, alphabet="\ud800"), "alphabet: must be text that UTF-8 can encode"),
        (lambda: LuhnDigits(1), "length: must be a whole number of at least 2, got 1"),
        (lambda: LuhnDigits(4, prefix="123"), "prefix: must be at most 2 digits, got '123'"),
        (lambda: LuhnDigits(4, prefix="x"), "prefix: must be at most 2 digits, got 'x'"),
        (lambda: LuhnDigits(16, separator="--"), "separator: must be one character, no digit, got '--'"),
        (lambda: LuhnDigits(16, separator="0"), "separator: must be one character, no digit, got '0'"),
        (lambda: Choice([]), "options: must hold at least one string"),
        (lambda: Choice(["a", ""]), "options: must hold no empty string"),
        (lambda: Choice(["a", "a"]), "options: must be distinct, got 'a text of 1 characters'"),
        (lambda: Choice("abc"), "options: must be a list of strings, got 'a text of 3 characters'"),
        (lambda: Choice([1]), "options: must be a string, got 'int'"),
        (
            lambda: Words(2, words=["a b"]),
            "words: must hold no character of the separator ' ', got 'a text of 3 characters'",
        ),
        (lambda: Words(2, words=["a"], separator=""), "separator: must be at least one character, got ''"),
        (lambda: Words(0), "number: must be a whole number of at least 1, got 0"),
        (lambda: Digits(2).text_at(100), "index: must be from 0 to 99, got 100"),
        (lambda: Digits(2).text_at(-1), "index: must be from 0 to 99, got -1"),
        (
            lambda: Digits(2).index_of("1"),
            "text: must be a filling of Digits(length=2); it stops too early, got 'a text of 1 characters'",
        ),
        (lambda: Digits(2).index_of("123"), "text: must be a filling of Digits(length=2); character 2 does not fit"),
        (
            lambda: space_from_dict({"type": "digit"}),
            "type: must be one of digits, letters, ",
        ),
        (lambda: space_from_dict({"type": "digits"}), "space: must hold the arguments of 'digits', got {}"),
        (lambda: parse_space("digits"), "space: must be a kind and its size, got 'digits'. Write digits:9,"),
        (lambda: parse_space("numbers:3"), "space: must be a kind and its size, got 'numbers:3'"),
        (lambda: parse_space("digits:-3"), "space: must be a kind and its size, got 'digits:-3'"),
        (lambda: parse_space("digits:0"), "length: must be a whole number of at least 1, got 0"),
    ],
)
def test_errors_name_argument_rule_and_value(make: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        make()  # type: ignore[operator]
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_specs_of_the_command_line() -> None:
    assert parse_space("digits:9") == Digits(9)
    assert parse_space("letters:5") == Letters(5)
    assert parse_space("luhn:16") == LuhnDigits(16)
    assert parse_space("words:3") == Words(3)
    assert parse_space("choice:a|b c|d:e") == Choice(["a", "b c", "d:e"])
