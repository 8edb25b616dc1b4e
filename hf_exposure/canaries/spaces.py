"""Makes spaces of every kind, from saved values and from the short form of the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hf_exposure.canaries.character_spaces import Digits, Letters, LuhnDigits
from hf_exposure.canaries.pattern import Pattern
from hf_exposure.canaries.space import Space
from hf_exposure.canaries.word_spaces import ENGLISH_LIST, Choice, Words, digest, english_words
from hf_exposure.checks import encodable_text, one_of
from hf_exposure.errors import InputError


def _words_from_dict(values: dict[str, Any]) -> Words:
    if "list" not in values:
        return Words(**values)
    name, expected = values["list"], values["sha256"]
    if name != ENGLISH_LIST or expected != digest(english_words()):
        rule = f"must be {ENGLISH_LIST!r} with the words that ship with this version"
        raise InputError("list", rule, name, "Load it with the version of hf-exposure that wrote it.")
    return Words(values["number"], separator=values["separator"])


_FROM_DICT: dict[str, Callable[[dict[str, Any]], Space]] = {
    "digits": lambda values: Digits(**values),
    "letters": lambda values: Letters(**values),
    "luhn": lambda values: LuhnDigits(**values),
    "choice": lambda values: Choice(**values),
    "words": _words_from_dict,
    "pattern": lambda values: Pattern(**values),
}


def space_from_dict(values: dict[str, Any]) -> Space:
    """The space from the values of `space.to_dict()`.

    Raises:
        InputError: the type is unknown, its constructor refuses the arguments, or the shipped word list has changed.

    Example:
        >>> space_from_dict({"type": "digits", "length": 9})
        Digits(length=9)
    """
    if not isinstance(values, Mapping):
        remedy = "Write what space.to_dict() gives."
        raise InputError("space", "must be a mapping with a type", type(values).__name__, remedy)
    arguments = dict(values)
    kind = arguments.pop("type", None)
    one_of("type", kind, _FROM_DICT, "Write what space.to_dict() gives.")
    try:
        return _FROM_DICT[kind](arguments)
    except (TypeError, KeyError):
        rule = f"must hold the arguments of {kind!r}"
        raise InputError("space", rule, arguments, "Write what space.to_dict() gives.") from None


_FORMS = "digits:9, letters:5, luhn:16, words:3, choice:red|green or pattern:[A-Z]{2}"


def parse_space(spec: str) -> Space:
    """The space of a short form: `digits:9`, `letters:5`, `luhn:16`, `words:3`, `choice:a|b|c`, or `pattern:` and a
    regular expression.

    Raises:
        InputError: the form is unknown, or the space refuses the number.

    Example:
        >>> parse_space("digits:9"), parse_space("choice:a|b|c").size
        (Digits(length=9), 3)
    """
    kind, colon, argument = encodable_text("space", spec).partition(":")
    kinds: dict[str, Callable[[int], Space]] = {
        "digits": Digits,
        "letters": Letters,
        "luhn": LuhnDigits,
        "words": Words,
    }
    if colon and kind == "choice":
        return Choice(argument.split("|"))
    if colon and kind == "pattern":
        return Pattern(argument)
    if not colon or kind not in kinds or not (argument.isascii() and argument.isdigit() and len(argument) < 19):
        raise InputError("space", "must be a kind and its size", spec, f"Write {_FORMS}.")
    return kinds[kind](int(argument))
