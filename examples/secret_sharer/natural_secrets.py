"""Finds card and social security numbers that occur in a text naturally, without insertion, and their positions.

It needs python-stdnum, which checks which numbers can be real.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from stdnum import luhn
from stdnum.us import ssn

from hf_exposure import CanarySet, CanaryTemplate, Digits, LuhnDigits

__all__ = ["NaturalSecret", "canary_sets", "find_secrets"]

MOST_CONTEXT = 32  # characters before a secret that an attacker is assumed to know
# No digit or hyphen next to them, so that they are not part of something longer.
_CARD = re.compile(r"(?<![\d-])\d{4}([ -]?)\d{4}\1\d{4}\1\d{4}(?![\d-])")
_SOCIAL_SECURITY = re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])")


@dataclass(frozen=True, kw_only=True)
class NaturalSecret:
    """A number that was found, with all its occurrences.

    Attributes:
        kind: "card" or "social security".
        written: the number as it is most often written.
        context: the most frequent text before it on its line, at most 32 characters.
        occurrences: total number of occurrences.
        in_context: number of occurrences with this context and this way of writing it.
    """

    kind: str
    written: str = field(repr=False)
    context: str
    occurrences: int
    in_context: int

    @property
    def template(self) -> CanaryTemplate:
        """The context followed by any number of the kind, written the same way."""
        fixed = self.context.replace("{", "{{").replace("}", "}}")
        if self.kind == "card":
            separator = self.written[4] if len(self.written) > 16 else ""
            return CanaryTemplate(fixed + "{card}", card=LuhnDigits(16, separator=separator))
        return CanaryTemplate(fixed + "{area}-{group}-{serial}", area=Digits(3), group=Digits(2), serial=Digits(4))

    @property
    def text(self) -> str:
        """The template's text that is the secret."""
        return self.context + self.written


def find_secrets(rows: Iterable[str]) -> list[NaturalSecret]:
    """Every valid card number (16 digits, solid or in fours) and hyphenated social security number, by its digits.

    Example:
        >>> found = find_secrets(["Visa: 4111 1111 1111 1111", "order 4111 1111 1111 1112", "SSN: 536-90-4399"])
        >>> [(secret.kind, secret.context, secret.occurrences) for secret in found]
        [('card', 'Visa: ', 1), ('social security', 'SSN: ', 1)]
    """
    places: dict[tuple[str, str], Counter[tuple[str, str]]] = {}
    for row in rows:
        for kind, pattern in (("card", _CARD), ("social security", _SOCIAL_SECURITY)):
            for match in pattern.finditer(row):
                digits = re.sub(r"\D", "", match[0])
                if luhn.is_valid(digits) if kind == "card" else ssn.is_valid(match[0]):
                    place = (_context(row[: match.start()]), match[0])
                    places.setdefault((kind, digits), Counter())[place] += 1
    found = []
    for (kind, _), counts in places.items():
        (context, written), times = counts.most_common(1)[0]
        found.append(
            NaturalSecret(kind=kind, written=written, context=context, occurrences=counts.total(), in_context=times)
        )
    return found


def canary_sets(secrets: Iterable[NaturalSecret], controls: int = 16, seed: int | None = None) -> list[CanarySet]:
    """One set for each template among the secrets, since a `CanarySet` has a single template.

    Controls are drawn from the rest of the space; that a text contains one is as unlikely as guessing a secret.
    """
    by_template: dict[tuple[str, str], list[NaturalSecret]] = {}
    for secret in secrets:
        by_template.setdefault((secret.context, repr(secret.template)), []).append(secret)
    return [
        CanarySet.from_secrets(
            alike[0].template, [one.text for one in alike], [one.occurrences for one in alike], controls, seed
        )
        for alike in by_template.values()
    ]


def _context(before: str) -> str:
    """The end of the line before a secret, or of the whole text before it if its line begins with it."""
    line = before.rsplit("\n", 1)[-1]
    return (line or before)[-MOST_CONTEXT:]
