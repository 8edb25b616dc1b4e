"""Spaces of a fixed number of characters: digits, letters, and digits with a Luhn checksum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hf_exposure.canaries.space import Space, State
from hf_exposure.checks import countable, encodable_text, whole_number
from hf_exposure.errors import InputError
from hf_exposure.limits import LONGEST_FILLING

_DIGITS = "0123456789"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_GROUP = 4  # card numbers are printed in groups of this many digits


class _FixedAlphabet(Space):
    """Every text of `length` characters of `symbols`. The state is the number of characters still to come."""

    length: int

    @property
    def symbols(self) -> str:
        raise NotImplementedError

    @property
    def start(self) -> State:
        return self.length

    def moves(self, state: int) -> dict[str, State]:
        return dict.fromkeys(self.symbols, state - 1) if state else {}

    def is_end(self, state: int) -> bool:
        return state == 0

    def count(self, state: int) -> int:
        return int(len(self.symbols) ** state)

    @property
    def alphabet(self) -> frozenset[str]:
        return frozenset(self.symbols)

    @property
    def fixed_length(self) -> int | None:
        return self.length


@dataclass(frozen=True)
class Digits(_FixedAlphabet):
    """All `10 ** length` texts of `length` decimal digits, leading zeros included.

    The paper's running example is nine of them (Carlini et al. 2019, Section 3).

    Raises:
        InputError: `length` is not a whole number from 1 to 1,000.

    Example:
        >>> Digits(9).size, Digits(9).text_at(42), Digits(3).index_of("007")
        (1000000000, '000000042', 7)
    """

    length: int

    def __post_init__(self) -> None:
        vars(self).update(length=whole_number("length", self.length, 1, LONGEST_FILLING))

    @property
    def symbols(self) -> str:
        return _DIGITS

    def to_dict(self) -> dict[str, Any]:
        return {"type": "digits", "length": self.length}


@dataclass(frozen=True, init=False)
class Letters(_FixedAlphabet):
    """All `len(alphabet) ** length` texts of `length` characters of an alphabet, by default a to z.

    Args:
        length: the length in characters.
        alphabet: the distinct characters to draw from, in any order.

    Raises:
        InputError: `length` is not a whole number from 1 to 1,000, or `alphabet` is empty, repeats a letter, or has
            one that UTF-8 cannot encode.

    Example:
        >>> Letters(2).size, Letters(2).text_at(27), Letters(3, alphabet="AB").size
        (676, 'bb', 8)
    """

    length: int
    letters: str

    def __init__(self, length: int, alphabet: str = _LETTERS) -> None:
        letters = encodable_text("alphabet", alphabet)
        if not letters or len(set(letters)) < len(letters):
            raise InputError(
                "alphabet", "must be distinct characters, at least one", letters, 'Write Letters(5, alphabet="abc").'
            )
        length = whole_number("length", length, 1, LONGEST_FILLING)
        countable("length", len(letters), length)
        vars(self).update(length=length, letters="".join(sorted(letters)))

    @property
    def symbols(self) -> str:
        return self.letters

    def to_dict(self) -> dict[str, Any]:
        return {"type": "letters", "length": self.length, "alphabet": self.letters}


@dataclass(frozen=True)
class LuhnDigits(Space):
    """All texts of `length` digits with a valid Luhn checksum, like credit card numbers (ISO/IEC 7812-1, annex B).

    From the right, every second digit is doubled (9 subtracted above 9); the sum must be a multiple of 10. For any
    leading digits, exactly one last digit fits, so there are `10 ** (length - 1 - len(prefix))` of them.

    Args:
        length: the number of digits, at least 2.
        prefix: digits that all texts start with, such as an issuer's.
        separator: one character, not a digit, after every four digits: "4111 1111 1111 1111".

    Raises:
        InputError: `length` is not a whole number from 2 to 1,000, the prefix is not digits or leaves no digit to
            draw, or the separator is a digit or longer than one character.

    Example:
        >>> LuhnDigits(16).size == 10**15, LuhnDigits(16, prefix="4").size == 10**14
        (True, True)
        >>> LuhnDigits(11).contains("79927398713"), LuhnDigits(11).contains("79927398710")
        (True, False)
        >>> LuhnDigits(16, separator="-").contains("4111-1111-1111-1111")
        True
    """

    length: int
    prefix: str = ""
    separator: str = ""

    def __post_init__(self) -> None:
        vars(self).update(length=whole_number("length", self.length, 2, LONGEST_FILLING))
        prefix = encodable_text("prefix", self.prefix)
        # There must be a free digit besides the check digit; otherwise the "secret" would have only one value.
        if not set(prefix) <= set(_DIGITS) or len(prefix) > self.length - 2:
            rule = f"must be at most {self.length - 2} digits"
            raise InputError("prefix", rule, prefix, 'Write LuhnDigits(16, prefix="4").')
        separator = encodable_text("separator", self.separator)
        if len(separator) > 1 or separator in set(_DIGITS):
            rule = "must be one character, no digit"
            raise InputError("separator", rule, separator, 'Write LuhnDigits(16, separator=" ").')

    @property
    def start(self) -> State:
        return (0, 0, False)

    def _after(self, state: State, digit: int) -> tuple[int, int, bool]:
        position, checksum, _ = state
        if (self.length - position) % 2 == 0:
            digit = digit * 2 - 9 * (digit > 4)
        position += 1
        ends_group = bool(self.separator) and position % _GROUP == 0 and position < self.length
        return position, (checksum + digit) % 10, ends_group

    def moves(self, state: State) -> dict[str, State]:
        position, checksum, ends_group = state
        if ends_group:
            return {self.separator: (position, checksum, False)}
        if position < len(self.prefix):
            return {self.prefix[position]: self._after(state, int(self.prefix[position]))}
        if position == self.length:
            return {}
        moves: dict[str, State] = {digit: self._after(state, int(digit)) for digit in _DIGITS}
        if position == self.length - 1:
            return {digit: following for digit, following in moves.items() if self.is_end(following)}
        return moves

    def is_end(self, state: tuple[int, int, bool]) -> bool:
        return state == (self.length, 0, False)

    def count(self, state: State) -> int:
        position = state[0]
        # Neither the check digit nor the prefix can be chosen, so they add no factor.
        return int(10 ** max(0, self.length - 1 - max(position, len(self.prefix))))

    @property
    def alphabet(self) -> frozenset[str]:
        return frozenset(_DIGITS + (self.separator if self.length > _GROUP else ""))

    @property
    def fixed_length(self) -> int | None:
        return self.length + len(self.separator) * ((self.length - 1) // _GROUP)

    def to_dict(self) -> dict[str, Any]:
        values = {"type": "luhn", "length": self.length, "prefix": self.prefix}
        # The separator is left out if there is none, so that hashes of older sets stay the same.
        return values | ({"separator": self.separator} if self.separator else {})
