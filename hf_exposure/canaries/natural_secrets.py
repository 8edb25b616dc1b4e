"""Secrets that the data already contain, each with its context, number of occurrences and format.

A canary is drawn from a space. A natural secret was not, but its format has a space too: all card numbers of that
length, or all numbers with as many digits. `secret_template` makes the template of one secret: the words before it are
fixed, and the hole accepts every text of the format. Then the rank of the true secret can be measured as for a canary.

The file contains the secrets and their contexts: only its owner may read it. Nothing here prints a secret.

Source: Carlini et al. 2019, "The Secret Sharer", Section 8.4 (card and social security numbers of Enron's mail); the
number of examples that contain a secret is the k of k-eidetic memorization, Carlini et al. 2021, Definition 2.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from hf_exposure.canaries.canary_set import CanarySet
from hf_exposure.canaries.character_spaces import Digits, Letters, LuhnDigits
from hf_exposure.canaries.pattern import Pattern
from hf_exposure.canaries.space import Space
from hf_exposure.canaries.template import CanaryTemplate
from hf_exposure.checks import path_of
from hf_exposure.errors import CanaryFileError, InputError
from hf_exposure.files import read_json, write_aside

FORMAT, VERSION = "hf-exposure secrets", 1
_FIELDS = ("id", "kind", "text", "before", "after", "occurrences", "examples")
# Area numbers 000, 666 and 900 or above, group 00 and serial number 0000 are never issued.
_AREA = "00[1-9]|0[1-9]\\d|[1-57-8]\\d\\d|6[0-57-9]\\d|66[0-57-9]"
_GROUP, _SERIAL = "0[1-9]|[1-9]\\d", "000[1-9]|00[1-9]\\d|0[1-9]\\d\\d|[1-9]\\d\\d\\d"
_LOWER, _UPPER, _DIGITS = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"


class SecretKind(StrEnum):
    """The kind of a natural secret."""

    CARD = "card"
    """A payment card number with a valid checksum."""
    SSN = "ssn"
    """A social security number of the United States."""
    IBAN = "iban"
    """An international bank account number with valid check digits."""
    PHONE = "phone"
    """A telephone number."""
    EMAIL = "email"
    """An e-mail address."""
    API_KEY = "api_key"
    """A key or token of a known service."""
    NUMBER = "number"
    """Six to twelve digits after a word such as "PIN" or "account"."""


@dataclass(frozen=True, kw_only=True)
class NaturalSecret:
    """One secret in the data. Its `repr` contains no text.

    Attributes:
        id: names the secret in output and publications.
        kind: the kind of its format.
        text: the secret.
        before, after: the text around its first occurrence.
        occurrences: the total number of occurrences.
        examples: the number of records that contain it: the k of k-eidetic memorization.
        template: the words before it, and a hole that accepts every text of its format.
    """

    id: str
    kind: SecretKind
    text: str = field(repr=False)
    before: str = field(repr=False)
    after: str = field(repr=False)
    occurrences: int
    examples: int
    template: CanaryTemplate = field(repr=False)

    @property
    def whole_text(self) -> str:
        """The secret after the words before it: a text of the template."""
        return self.before + self.text

    def canaries(self, controls: int = 0, seed: int | None = None) -> CanarySet:
        """The secret as a set of one canary, with controls drawn from the rest of its format."""
        return CanarySet.from_secrets(self.template, [self.whole_text], self.occurrences, controls, seed)


@dataclass(frozen=True, kw_only=True, repr=False)
class NaturalSecrets:
    """The secrets that a scan found. Iteration yields them in the order found; the `repr` contains no text.

    Attributes:
        secrets: the distinct secrets.
        rows: the number of records that were scanned.
        left_out: the number of occurrences of further secrets, beyond those that are kept.
        settings: the settings of the scan.
    """

    secrets: tuple[NaturalSecret, ...]
    rows: int
    left_out: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[NaturalSecret]:
        return iter(self.secrets)

    def __len__(self) -> int:
        return len(self.secrets)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {kind.value}" for kind, count in self.counts.items()) or "none"
        return f"NaturalSecrets({counts} in {self.rows} rows)"

    @property
    def counts(self) -> Counter[SecretKind]:
        """The number of distinct secrets of each kind."""
        return Counter(secret.kind for secret in self.secrets)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, as `save` writes them. They contain the secrets."""
        secrets = [
            {**{name: getattr(secret, name) for name in _FIELDS}, "template": secret.template.to_dict()}
            for secret in self.secrets
        ]
        values = {
            "format": FORMAT,
            "version": VERSION,
            "rows": self.rows,
            "left_out": self.left_out,
            "settings": dict(self.settings),
            "secrets": secrets,
        }
        return {**values, "file_hash": _hash(values)}

    def save(self, path: str | Path) -> None:
        """Writes the secrets to a JSON file that only its owner may read.

        Raises:
            InputError: the folder does not exist, or the path is a folder.
        """
        target = path_of("path", path)
        if not target.parent.is_dir() or target.is_dir():
            rule = "must be a file in a folder that exists"
            raise InputError("path", rule, str(path), f"Make it: mkdir -p {target.parent}")
        write_aside(target, json.dumps(self.to_dict(), indent=1), private=True)

    @classmethod
    def load(cls, path: str | Path) -> NaturalSecrets:
        """Reads secrets that `save` wrote.

        Raises:
            InputError: there is no such file.
            CanaryFileError: the file is of another kind, from a newer version, damaged, or was edited by hand.
        """
        place = path_of("path", path)
        try:
            values = read_json(place)
        except OSError as error:
            rule = f"must be a file of secrets that can be read ({error.strerror})"
            raise InputError("path", rule, str(place), "Make one: hf-exposure scan.") from None
        except ValueError:
            values = None
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise CanaryFileError("path", f"must be a file of format {FORMAT!r}", str(place), "Scan again.")
        if not isinstance(values.get("version"), int) or values["version"] > VERSION:
            rule = f"must be at most {VERSION} for this version of hf_exposure"
            raise CanaryFileError("version", rule, "another", "Upgrade: pip install --upgrade hf-exposure")
        found = None
        # The errors may quote a secret, so ours is raised outside the handler, without a context.
        with suppress(Exception):
            found = cls._of(values)
        if found is None or _hash(values) != values.get("file_hash"):
            rule = "must be as it was saved; this file is damaged or was edited by hand"
            raise CanaryFileError("path", rule, str(place), "Scan again.")
        return found

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> NaturalSecrets:
        secrets = []
        for item in values["secrets"]:
            template = CanaryTemplate.from_dict(item["template"])
            own = {**{name: item[name] for name in _FIELDS}, "kind": SecretKind(item["kind"])}
            secrets.append(NaturalSecret(template=template, **own))
        return cls(
            secrets=tuple(secrets), rows=values["rows"], left_out=values["left_out"], settings=values["settings"]
        )


def is_secrets_file(path: str | Path) -> bool:
    """Whether a file is marked as a file of natural secrets."""
    with suppress(OSError, ValueError):
        values = read_json(path)
        return isinstance(values, dict) and values.get("format") == FORMAT
    return False


def secret_template(kind: SecretKind, text: str, before: str = "", fixed: int = 0) -> CanaryTemplate:
    """The template of a secret: fixed words, then a hole for every text of its format.

    The spaces are: for cards, Luhn numbers with as many digits and the same separators; social security numbers that
    can be issued; for IBANs, the same country with a digit for each digit and a letter for each letter, which ignores
    the check digits and is therefore 97 times too large; for phone numbers, other digits after the same country code;
    for addresses, another name of the same length at the same domain; for keys, the same service and the kinds of
    characters that the key contains; and otherwise numbers with as many digits.

    Args:
        kind: the kind of the secret.
        text: the secret.
        before: the words before it.
        fixed: the number of its first characters that belong to the format (a country code, the prefix of a service's
            keys).

    Raises:
        InputError: no template can represent the format.

    Example:
        >>> template = secret_template(SecretKind.CARD, "4111 1111 1111 1111", "my card is ")
        >>> template.contains("my card is 4111 1111 1111 1111"), template.space_size == 10**15
        (True, True)
        >>> secret_template(SecretKind.EMAIL, "ann@site.org").space_size == 39**3
        True
    """
    hole, suffix = text[fixed:], ""
    if kind is SecretKind.EMAIL:
        hole, at, domain = text.partition("@")
        suffix = at + domain
    space = _SPACES[kind](hole)
    return CanaryTemplate(_literal(before + text[:fixed]) + "{secret}" + _literal(suffix), secret=space)


def _card(text: str) -> Space:
    digits = re.sub(r"\D", "", text)
    separators = re.sub(r"\d", "", text)
    if not separators:
        return LuhnDigits(len(digits))
    grouped = LuhnDigits(len(digits), separator=separators[0])
    # For groups of other sizes, as on American Express cards, the space ignores the checksum.
    return grouped if grouped.contains(text) else _like(text)


def _ssn(text: str) -> Space:
    separator = re.escape(text[3]) if not text[3].isdigit() else ""
    return Pattern(f"({_AREA}){separator}({_GROUP}){separator}({_SERIAL})")


def _email(text: str) -> Space:
    return Letters(len(text), _LOWER + _DIGITS + "._-" + "".join(sorted(set(text) - set(_LOWER + _DIGITS + "._-"))))


def _key(text: str) -> Space:
    classes = [_LOWER, _UPPER, _DIGITS]
    if set(text) <= set("0123456789abcdef") and len(text) >= 16:
        return Letters(len(text), "0123456789abcdef")
    alphabet = "".join(one for one in classes if set(text) & set(one))
    return Letters(len(text), alphabet + "".join(sorted(set(text) - set(alphabet))))


def _like(text: str) -> Space:
    """Texts with a digit for each digit and a letter for each letter; all other characters are fixed."""
    parts = [
        "\\d" if one in _DIGITS else "[A-Z]" if one in _UPPER else "[a-z]" if one in _LOWER else re.escape(one)
        for one in text
    ]
    return Pattern("".join(parts))


_SPACES: Mapping[SecretKind, Callable[[str], Space]] = {
    SecretKind.CARD: _card,
    SecretKind.SSN: _ssn,
    SecretKind.IBAN: _like,
    SecretKind.PHONE: _like,
    SecretKind.EMAIL: _email,
    SecretKind.API_KEY: _key,
    SecretKind.NUMBER: lambda text: Digits(len(text)),
}


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _hash(values: Mapping[str, Any]) -> str:
    content = {name: value for name, value in values.items() if name != "file_hash"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()
