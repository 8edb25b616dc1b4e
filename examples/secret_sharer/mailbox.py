"""A synthetic mailbox: short messages with sentences of a text, some with card or social security numbers.

The planted numbers and their positions are known, so the results of a scanner can be checked. All numbers are random,
so they belong to real persons only by chance.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from stdnum.us import ssn

from hf_exposure import LuhnDigits

__all__ = ["Mailbox", "Planted", "make_mailbox"]

_PEOPLE = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "June", "Kai", "Lea", "Mo", "Nia")
_SUBJECTS = ("minutes", "Re: budget", "next week", "Fw: forecast", "travel", "Re: contract", "lunch", "your question")
_SAME = {"card": "{who}'s card for the hotel is {number}", "social security": "{who}'s SSN for payroll: {number}"}
_VARYING = {
    "card": (
        "Please book it on my card {number}",
        "Visa {number}, exp 04/02",
        "charge it to {number} as before",
        "the number you asked for is {number}",
        "Card no. {number} (company)",
        "I paid with {number} last time",
    ),
    "social security": (
        "My social security number is {number}",
        "SSN: {number}",
        "for the form, {number} is mine",
        "the number you asked for is {number}",
        "Soc. Sec. No. {number}, born in May",
        "HR has me as {number}",
    ),
}
_TIMES = (
    (1, True),
    (2, True),
    (4, True),
    (8, True),
    (16, True),
    (4, False),
    (16, False),
)  # and: same context?
_DECOYS = ("call 713-555-{serial:04}", "order {wrong}", "Invoice 000-{pair:02}-{serial:04}", "see 9{pair:02}-12-3456")


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A secret, how often it occurs in the mailbox, and whether always after the same words."""

    kind: str
    number: str = field(repr=False)
    times: int
    one_context: bool


@dataclass(frozen=True, kw_only=True)
class Mailbox:
    """Messages, one string each, and the secrets in them."""

    messages: tuple[str, ...] = field(repr=False)
    planted: tuple[Planted, ...]


def make_mailbox(sentences: Sequence[str], messages: int = 1000, seed: int = 0) -> Mailbox:
    """Makes `messages` messages of a header, one or two sentences and sometimes a secret; every sixth has a decoy.

    Seven secrets of each kind are planted: 1, 2, 4, 8 and 16 times after the same words, 4 and 16 times after
    different words. Decoys look similar but are not valid: telephone numbers, order numbers, unissued ranges.
    """
    generator = random.Random(seed)
    planted = tuple(
        Planted(kind=kind, number=_number(kind, generator), times=times, one_context=one)
        for kind in ("card", "social security")
        for times, one in _TIMES
    )
    owners = generator.sample(_PEOPLE, len(planted))
    lines = [line for secret, owner in zip(planted, owners, strict=True) for line in _lines(secret, owner, generator)]
    lines += ["" if place % 6 else _decoy(generator) for place in range(messages - len(lines))]
    generator.shuffle(lines)
    made = [_message(line, sentences, generator) for line in lines]
    return Mailbox(messages=tuple(made), planted=planted)


def _lines(secret: Planted, owner: str, generator: random.Random) -> list[str]:
    forms = _VARYING[secret.kind]
    first = generator.randrange(len(forms))
    # Forms are used in turn, so that none is used twice before all were used once.
    chosen = [
        _SAME[secret.kind] if secret.one_context else forms[(first + at) % len(forms)] for at in range(secret.times)
    ]
    return [form.format(who=owner, number=secret.number) for form in chosen]


def _message(line: str, sentences: Sequence[str], generator: random.Random) -> str:
    head = f"From: {generator.choice(_PEOPLE)}\nSubject: {generator.choice(_SUBJECTS)}\n"
    body = [generator.choice(sentences), line, generator.choice(sentences)]
    return head + "\n".join(part for part in body if part)


def _number(kind: str, generator: random.Random) -> str:
    if kind == "card":
        space = LuhnDigits(16, prefix="4", separator=generator.choice(("", " ", "-")))
        return space.text_at(generator.randrange(space.size))
    while True:
        number = f"{generator.randrange(900):03}-{generator.randrange(100):02}-{generator.randrange(10_000):04}"
        if ssn.is_valid(number):
            return number


def _decoy(generator: random.Random) -> str:
    card = _number("card", generator)
    wrong = card[:-1] + str((int(card[-1]) + 1) % 10)  # its check digit is wrong
    pair, serial = generator.randrange(100), generator.randrange(10_000)
    return generator.choice(_DECOYS).format(pair=pair, serial=serial, wrong=wrong)
