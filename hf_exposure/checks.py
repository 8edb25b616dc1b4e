"""Checks of arguments: each function checks one rule and raises an `InputError` if it is broken.

The whole package checks its arguments here, except arrays of numbers (`estimators/arrays.py`), since nothing here
needs numpy. A text may be a secret, so the errors give its length and do not quote it (`errors.described`); names that
a caller chooses from a list are quoted.
"""

from __future__ import annotations

import errno
import itertools
import math
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from hf_exposure.errors import InputError, described
from hf_exposure.limits import LARGEST_COUNT, LARGEST_SPACE_DIGITS, MOST_TEXTS

T = TypeVar("T")


def whole_number(
    argument: str, value: object, smallest: int, largest: int = LARGEST_COUNT, remedy: str | None = None
) -> int:
    """`value` as an int within limits. Integers of other libraries are accepted; booleans and floats are not."""
    remedy = remedy or f"Write {argument}={smallest} or more."
    rule = f"must be a whole number of at least {smallest}"
    if isinstance(value, bool):
        raise InputError(argument, rule, value, remedy)
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # the TypeError is the check
    except TypeError:
        raise InputError(argument, rule, described(value), remedy) from None
    if number < smallest:
        raise InputError(argument, rule, number, remedy)
    if number > largest:
        raise InputError(argument, f"must be at most {largest}", number, f"Write a smaller {argument}.")
    return number


def index_below(size: int, value: object, remedy: str) -> int:
    """`value` as an index into `size` texts."""
    try:
        index = -1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        index = -1
    if not 0 <= index < size:
        raise InputError("index", f"must be from 0 to {size - 1}", described(value), remedy)
    return index


def real_number(
    argument: str,
    value: object,
    rule: str,
    remedy: str,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
    infinite: bool = False,
) -> float:
    """`value` as a float within limits: `above < value`, `at_least <= value <= at_most`, `value < below`.

    Numbers of other libraries are accepted; booleans, texts, NaN and, unless `infinite`, infinity are not.
    """
    number = _as_float(value)
    inside = above < number < below or (infinite and math.isinf(number) and above < number <= below)
    if not (inside and at_least <= number <= at_most) or (math.isinf(number) and not infinite):
        raise InputError(argument, rule, described(value), remedy)
    return number


def _as_float(value: object) -> float:
    """The value as a float; NaN, which is in no interval, if it is not a real number."""
    if isinstance(value, (bool, str, bytes)) or type(value).__name__ in ("bool_", "bool"):
        return math.nan
    try:
        # Arrays and tensors count as numbers only if they have no dimensions.
        return math.nan if getattr(value, "shape", ()) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return math.nan


def flag(argument: str, value: object) -> bool:
    """`value` as a bool. Only True and False are accepted, not other values that are true."""
    if not isinstance(value, bool) and type(value).__name__ not in ("bool_", "bool"):
        raise InputError(
            argument, "must be True or False", described(value), f"Write {argument}=True or {argument}=False."
        )
    return bool(value)


def one_of(argument: str, value: object, allowed: Iterable[str], remedy: str) -> str:
    """`value`, which must be one of the allowed texts."""
    allowed = list(allowed)
    if not isinstance(value, str) or value not in allowed:
        shown = value if isinstance(value, str) else described(value)
        raise InputError(argument, f"must be one of {', '.join(allowed)}", shown, remedy)
    return value


def known_names(given: Mapping[str, object], known: Sequence[str], of: str) -> None:
    """Refuses names that are not arguments of a function."""
    for name, value in given.items():
        if name not in known:
            remedy = f"Use one of {', '.join(known)}."
            raise InputError(name, f"must be an argument of {of}", described(value), remedy)


def instance_of(argument: str, value: object, kind: type[T], remedy: str) -> T:
    """`value`, which must be an instance of a class; the error names its type alone."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIO" else "a"
        raise InputError(argument, f"must be {article} {kind.__name__}", type(value).__name__, remedy)
    return value


def check_tokenizer(tokenizer: object) -> None:
    """Refuses objects that are no tokenizer: None, a name, a class, a processor, a model."""
    if isinstance(tokenizer, type) or not callable(tokenizer) or not hasattr(tokenizer, "all_special_ids"):
        rule = "must be a Hugging Face tokenizer"
        raise InputError("tokenizer", rule, type(tokenizer).__name__, "The order is (model, tokenizer, ...).")


def encodable_text(argument: str, value: object) -> str:
    """`value` as text that UTF-8 can encode, since a lone surrogate can neither be saved nor tokenized.

    The errors do not quote it, since it may be a canary, or a secret that was typed by mistake.
    """
    if not isinstance(value, str):
        raise InputError(argument, "must be a string", described(value, numbers=False), "Write it in quotes.")
    if not _is_encodable(value):
        remedy = "Remove the lone surrogate (\\ud800 to \\udfff)."
        raise InputError(argument, "must be text that UTF-8 can encode", described(value), remedy)
    return value


def _is_encodable(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # it contains the whole text, so no other error may be raised while it is handled
        return False
    return True


def list_of_texts(argument: str, values: object, remedy: str, most: int = MOST_TEXTS) -> list[str]:
    """`values`, an iterable but not one string, as a list of strings. The error shows none of them."""
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise InputError(argument, "must be a list of strings", type(values).__name__, remedy)
    texts = at_most(argument, values, most)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"{argument}[{position}]", "must be a string", type(text).__name__, remedy)
    return texts


def at_most(argument: str, values: Iterable[T], most: int) -> list[T]:
    """`values` as a list of at most `most` entries. Reading stops after that many, so that endless iterables are
    refused too.
    """
    if holds_more(values, most):
        raise InputError(argument, f"must hold at most {most} entries", "more", "Use fewer.")
    try:
        taken = list(itertools.islice(values, most + 1))
    except TypeError:  # a tensor or array without dimensions claims to be iterable
        raise InputError(argument, "must be a list", type(values).__name__, "Write it in brackets.") from None
    if len(taken) > most:
        raise InputError(argument, f"must hold at most {most} entries", "more", "Use fewer.")
    return taken


def holds_more(values: object, most: int) -> bool:
    """Whether a list or a range has more than `most` entries. A range is not turned into a list."""
    try:
        return isinstance(values, Sequence) and len(values) > most
    except OverflowError:  # a range of 2**63 or more
        return True


def path_of(argument: str, value: object) -> Path:
    """`value` as a path: a string or a `Path`."""
    if not isinstance(value, (str, Path)):
        raise InputError(argument, "must be a path", described(value), "Write it in quotes.")
    try:
        os.lstat(value)
    except (ValueError, OSError) as error:  # a null character, or a name that no file system accepts
        if isinstance(error, ValueError) or error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
            raise InputError(argument, "must be a path that can exist", str(value), "Name another one.") from None
    return Path(value)


def countable(argument: str, symbols: int, length: int) -> None:
    """Refuses a space of `symbols ** length` texts if that number is too long to print, before computing it."""
    if length * math.log10(max(symbols, 1)) >= LARGEST_SPACE_DIGITS:
        rule = f"must leave a space of at most 10^{LARGEST_SPACE_DIGITS} candidate secrets"
        raise InputError(argument, rule, f"{symbols}^{length}", "Use shorter fillings or fewer of them.")
