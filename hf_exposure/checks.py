"""What functions ask of the arguments they are given: one rule a function, one `InputError` where it is broken.

A value that is not shown in the error is one that may hold a secret: texts are named by their type.
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


def _seen(value: object) -> object:
    """What an error shows of a value of the wrong kind: a number, or the type of what may hold a secret."""
    return value if value is None or isinstance(value, (bool, int, float)) else type(value).__name__


def whole_number(
    argument: str, value: object, smallest: int, largest: int = LARGEST_COUNT, remedy: str | None = None
) -> int:
    """`value` as an int within limits; whole numbers of other libraries pass, booleans and floats do not."""
    remedy = remedy or f"Write {argument}={smallest} or more."
    rule = f"must be a whole number of at least {smallest}"
    if isinstance(value, bool):
        raise InputError(argument, rule, value, remedy)
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # the TypeError is the check
    except TypeError:
        raise InputError(argument, rule, _seen(value), remedy) from None
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
        raise InputError("index", f"must be from 0 to {size - 1}", _seen(value), remedy)
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

    Numbers of other libraries pass; booleans, texts, NaN and, unless `infinite`, infinity do not.
    """
    number = _as_float(value)
    inside = above < number < below or (infinite and math.isinf(number) and above < number <= below)
    if not (inside and at_least <= number <= at_most) or (math.isinf(number) and not infinite):
        raise InputError(argument, rule, _seen(value), remedy)
    return number


def _as_float(value: object) -> float:
    """NaN for what is no real number: it is in no interval."""
    if isinstance(value, (bool, str, bytes)) or type(value).__name__ in ("bool_", "bool"):
        return math.nan
    try:
        # Of arrays and tensors only those without dimensions are numbers.
        return math.nan if getattr(value, "shape", ()) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return math.nan


def flag(argument: str, value: object) -> bool:
    """`value` as a bool: True or False, not anything that is true."""
    if not isinstance(value, bool) and type(value).__name__ not in ("bool_", "bool"):
        raise InputError(
            argument, "must be True or False", _seen(value), f"Write {argument}=True or {argument}=False."
        )
    return bool(value)


def one_of(argument: str, value: object, allowed: Sequence[str], remedy: str) -> str:
    """`value`, which must be one of some texts."""
    if not isinstance(value, str) or value not in allowed:
        shown = value if isinstance(value, str) else _seen(value)
        raise InputError(argument, f"must be one of {', '.join(allowed)}", shown, remedy)
    return value


def known_names(given: Mapping[str, object], known: Sequence[str], of: str) -> None:
    """Refuses an argument that a function does not have."""
    for name, value in given.items():
        if name not in known:
            remedy = f"Use one of {', '.join(known)}."
            raise InputError(name, f"must be an argument of {of}", _seen(value), remedy)


def instance_of(argument: str, value: object, kind: type[T], remedy: str) -> T:
    """`value`, which must be an instance of a class; the error names its type alone."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIO" else "a"
        raise InputError(argument, f"must be {article} {kind.__name__}", type(value).__name__, remedy)
    return value


def check_tokenizer(tokenizer: object) -> None:
    """Refuses what is no tokenizer: None, a name, a class, a processor, a model."""
    if isinstance(tokenizer, type) or not callable(tokenizer) or not hasattr(tokenizer, "all_special_ids"):
        rule = "must be a Hugging Face tokenizer"
        raise InputError("tokenizer", rule, type(tokenizer).__name__, "The order is (model, tokenizer, ...).")


def encodable_text(argument: str, value: object) -> str:
    """`value` as text that UTF-8 can encode: a lone surrogate can neither be saved nor tokenized.

    The errors do not quote it: it may be a canary, or a secret that was typed in the place of something else.
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
    except UnicodeEncodeError:  # it holds the whole text: no other error may be raised while it is handled
        return False
    return True


def list_of_texts(argument: str, values: object, remedy: str, most: int = MOST_TEXTS) -> list[str]:
    """`values` as a list of strings, which any iterable but one string is; the error shows none of them."""
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise InputError(argument, "must be a list of strings", type(values).__name__, remedy)
    texts = at_most(argument, values, most)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"{argument}[{position}]", "must be a string", type(text).__name__, remedy)
    return texts


def at_most(argument: str, values: Iterable[T], most: int) -> list[T]:
    """`values` as a list; one that goes on beyond `most` is refused there, so that an endless one ends too."""
    if _holds_more(values, most):
        raise InputError(argument, f"must hold at most {most} entries", "more", "Use fewer.")
    try:
        taken = list(itertools.islice(values, most + 1))
    except TypeError:  # a tensor or array without dimensions says that it can be iterated over
        raise InputError(argument, "must be a list", type(values).__name__, "Write it in brackets.") from None
    if len(taken) > most:
        raise InputError(argument, f"must hold at most {most} entries", "more", "Use fewer.")
    return taken


def _holds_more(values: object, most: int) -> bool:
    """Whether a list, or a range, which takes no memory yet, has more entries."""
    try:
        return isinstance(values, Sequence) and len(values) > most
    except OverflowError:  # a range of 2**63 or more
        return True


def path_of(argument: str, value: object) -> Path:
    """`value` as a path: a string or a `Path`."""
    if not isinstance(value, (str, Path)):
        raise InputError(argument, "must be a path", _seen(value), "Write it in quotes.")
    try:
        os.lstat(value)
    except (ValueError, OSError) as error:  # a null character; a name that no file system takes
        if isinstance(error, ValueError) or error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
            raise InputError(argument, "must be a path that can exist", str(value), "Name another one.") from None
    return Path(value)


def countable(argument: str, symbols: int, length: int) -> None:
    """Refuses a space of `symbols ** length` texts whose number could not be printed, before it is computed."""
    if length * math.log10(max(symbols, 1)) >= LARGEST_SPACE_DIGITS:
        rule = f"must leave a space of at most 10^{LARGEST_SPACE_DIGITS} candidate secrets"
        raise InputError(argument, rule, f"{symbols}^{length}", "Use shorter fillings or fewer of them.")
<<<<<<< HEAD
=======


def number_array(argument: str, values: ArrayLike, remedy: str = "Pass a list of numbers.") -> FloatArray:
    """`values` as a float64 array of any shape. Texts, even those that spell numbers, and missing values are none."""
    rule = "must be numbers"
    if _holds_more(values, MOST_TEXTS):
        raise InputError(argument, f"must hold at most {MOST_TEXTS} entries", "more", "Use fewer.")
    try:
        array = np.asarray(values)
    except Exception:  # rows of unequal length, tensors with gradients or on a device: each fails in its own way
        raise InputError(argument, rule, type(values).__name__, remedy) from None
    if array.dtype.kind == "O" and not all(isinstance(value, Real) for value in array.flat):
        raise InputError(argument, rule, f"{type(values).__name__} with other values", remedy)
    if array.dtype.kind not in "biufO":
        raise InputError(argument, rule, f"an array of type {array.dtype}", remedy)
    try:
        return array.astype(np.float64)
    except (OverflowError, TypeError, ValueError):
        raise InputError(argument, "must be numbers that a float can hold", "a larger one", remedy) from None


def checked_costs(argument: str, values: ArrayLike, *, smallest_count: int = 0, finite: bool = False) -> FloatArray:
    """`values` as a float64 vector, or an `InputError` that names `argument`.

    +inf is a legitimate cost (a text of probability 0) unless `finite`; NaN and -inf never are.
    """
    costs = number_array(argument, values)
    if costs.ndim != 1:
        raise InputError(
            argument, "must be a flat list of numbers", f"an array of shape {costs.shape}", "Pass costs.ravel()."
        )
    if costs.size < smallest_count:
        raise InputError(
            argument,
            f"must hold at least {smallest_count} cost{'s' if smallest_count > 1 else ''}",
            costs.size,
            "Score more texts.",
        )
    if (np.isfinite(costs) & (np.abs(costs) > LARGEST_FIGURE)).any():
        raise InputError(argument, f"must be at most {LARGEST_FIGURE} bits each", "more", "Find out where it is from.")
    bad = ~np.isfinite(costs) if finite else np.isnan(costs) | np.isneginf(costs)
    if bad.any():
        where = int(np.flatnonzero(bad)[0])
        raise InputError(
            argument,
            "must be log-perplexities in bits, " + ("all finite" if finite else "never NaN or -inf"),
            f"{float(costs[where])} at position {where} ({int(bad.sum())} in all)",
            "Find out why the model returned it; do not drop it silently.",
        )
    return costs


def checked_flags(argument: str, values: ArrayLike, count: int, remedy: str) -> NDArray[np.bool_]:
    """`values`, one bool or one for each of `count` canaries, as (count,) bools; 0 and 1 pass too."""
    flags = number_array(argument, values, remedy)
    if flags.shape not in {(), (count,)} or not np.isin(flags, [0, 1]).all():
        raise InputError(argument, f"must be True or False, or ({count},) of them", _described(values), remedy)
    return np.broadcast_to(flags.astype(bool), (count,))


def _described(values: ArrayLike) -> object:
    """A scalar as it is, an array by its shape."""
    shape = np.shape(values)
    return f"an array of shape {shape}" if shape else values


def checked_confidence(confidence_level: float) -> float:
    """`confidence_level` strictly between 0 and 1, as a float."""
    rule = "must lie strictly between 0 and 1"
    return real_number("confidence_level", confidence_level, rule, "Type 0.95.", above=0.0, below=1.0)


def checked_space_size(space_size: int) -> int:
    """`space_size` as an exact int of at least 1; floats are refused, since they lose the low digits of 10**30."""
    remedy = "Pass template.space_size."
    if isinstance(space_size, bool) or not isinstance(space_size, (int, np.integer)) or space_size < 1:
        raise InputError("space_size", "must be an int, the number of texts in the space", space_size, remedy)
    if space_size > 10**LARGEST_SPACE_DIGITS:
        raise InputError("space_size", f"must be at most 10^{LARGEST_SPACE_DIGITS}", space_size, remedy)
    return int(space_size)
>>>>>>> rev15
