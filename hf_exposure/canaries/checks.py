"""What every space and template asks of the arguments it is given."""

from __future__ import annotations

import operator

from hf_exposure.errors import InputError


def whole_number(argument: str, value: object, smallest: int) -> int:
    """`value` as an int of at least `smallest`; whole numbers of other libraries pass, booleans and floats do not."""
    rule = f"must be a whole number of at least {smallest}"
    if isinstance(value, bool):
        raise InputError(argument, rule, value, f"Write {argument}={smallest} or more.")
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # the TypeError is the check
    except TypeError:
        raise InputError(argument, rule, value, f"Write {argument}={smallest} or more.") from None
    if number < smallest:
        raise InputError(argument, rule, value, f"Write {argument}={smallest} or more.")
    return number


def encodable_text(argument: str, value: object) -> str:
    """`value` as text that UTF-8 can encode: a lone surrogate can neither be saved nor tokenised."""
    if not isinstance(value, str):
        raise InputError(argument, "must be a string", value, "Write it in quotes.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            argument, "must be text that UTF-8 can encode", value, "Remove the lone surrogate (\\ud800 to \\udfff)."
        ) from None
    return value
