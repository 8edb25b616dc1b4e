"""What every space and template asks of the arguments it is given."""

from __future__ import annotations

import operator

from hf_exposure.errors import InputError, described


def whole_number(argument: str, value: object, smallest: int) -> int:
    """`value` as an int of at least `smallest`; whole numbers of other libraries pass, booleans and floats do not."""
    rule, remedy = f"must be a whole number of at least {smallest}", f"Write {argument}={smallest} or more."
    if isinstance(value, (bool, float)):
        raise InputError(argument, rule, value, remedy)
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # the TypeError is the check
    except TypeError:
        raise InputError(argument, rule, described(value), remedy) from None
    if number < smallest:
        raise InputError(argument, rule, number, remedy)
    return number


def encodable_text(argument: str, value: object) -> str:
    """`value` as text that UTF-8 can encode: a lone surrogate can neither be saved nor tokenised.

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
