"""Keeps canaries out of error messages.

Errors of this package name canaries by their ids. A tokenizer, a model, a dataset or a collator may raise an error
whose message quotes its input; such an error is replaced before it reaches the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from hf_exposure.canaries.canary_set import CanarySet
from hf_exposure.errors import ExposureError, OutOfStepError, rows_named

T = TypeVar("T")
# Shorter fillings may occur in any message by chance; fillings without a digit need more characters.
_SHORTEST, _SHORTEST_WITHOUT_DIGIT = 4, 12


def without_secrets(canaries: CanarySet | None, work: Callable[[], T]) -> T:
    """Returns the result of `work`, whose errors are raised without the text of any canary.

    An error about a row of a call names the canary at that position in the set. An error whose message, notes or
    arguments quote a canary is replaced by one with its class name, its traceback and the canary's id; a cause or
    context that quotes one is removed. Without a set (None), `work` is simply called.

    Example:
        >>> from hf_exposure import CanaryTemplate, Digits
        >>> canaries = CanarySet.from_secrets(CanaryTemplate("pin {pin}", pin=Digits(6)), ["pin 382946"])
        >>> without_secrets(canaries, lambda: {}["pin 382946"])    # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        ExposureError: KeyError: its message is withheld because it quotes canary ...
    """
    if not isinstance(canaries, CanarySet):
        return work()
    try:
        return rows_named(_names(canaries), work)
    except Exception as error:
        owner = _quoted(error, canaries)
        if owner is None:
            _cut_chain(error, canaries)
            raise
        kind = OutOfStepError if isinstance(error, OutOfStepError) else ExposureError
        message = f"{type(error).__name__}: its message is withheld because it quotes canary {owner}"
        replacement = kind(message).with_traceback(error.__traceback__)
    raise replacement


def message_of(error: BaseException, canaries: CanarySet) -> str:
    """The message of an error, for a note or a warning; it is withheld if it quotes a canary."""
    owner = _quoted(error, canaries)
    return _safely(str, error) if owner is None else f"the message is withheld because it quotes canary {owner}"


def _names(canaries: CanarySet) -> Callable[[int], str]:
    """The names of rows in messages: the canary at that position in the set; later rows are references.

    The row number of other texts is not named, since texts of a space may be in order, so that it would reveal the
    digits.
    """
    ids = [canary.id for canary in canaries]
    return lambda row: f"canary {ids[row]}" if row < len(ids) else "a reference text"


def _quoted(error: BaseException, canaries: CanarySet) -> str | None:
    """The id of a canary that the error's own message quotes."""
    said = " ".join([_safely(str, error), _safely(repr, error.args), *getattr(error, "__notes__", ())])
    for canary in canaries:
        if canary.text in said or any(_holds_word(said, filling) for filling in _telling(canary.text, canaries)):
            return canary.id
    return None


def _cut_chain(error: BaseException, canaries: CanarySet) -> None:
    """Removes the causes and contexts that quote a canary, with everything behind them."""
    seen = {id(error)}
    at = [error]
    while at:
        one = at.pop()
        for link in ("__cause__", "__context__"):
            behind = getattr(one, link)
            if behind is None:
                continue
            if _quoted(behind, canaries) is not None:
                hides_context = one.__suppress_context__
                setattr(one, link, None)
                one.__suppress_context__ = hides_context
            elif id(behind) not in seen:
                seen.add(id(behind))
                at.append(behind)


def _telling(text: str, canaries: CanarySet) -> Iterator[str]:
    for filling in canaries.template.parse(text).values():
        has_digit = any(character.isdigit() for character in filling)
        if len(filling) >= (_SHORTEST if has_digit else _SHORTEST_WITHOUT_DIGIT):
            yield filling


def _holds_word(said: str, filling: str) -> bool:
    """Whether the filling occurs in a message, not as part of a longer number or word."""
    at = said.find(filling)
    while at >= 0:
        around = said[at - 1 : at] + said[at + len(filling) : at + len(filling) + 1]
        if not any(character.isalnum() for character in around):
            return True
        at = said.find(filling, at + 1)
    return False


def _safely(show: Callable[[Any], str], value: Any) -> str:
    try:
        return show(value)
    except Exception:  # formatting an error may fail too
        return ""
