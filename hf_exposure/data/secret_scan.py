"""Finds natural secrets in a dataset: card, social security, account and phone numbers, addresses, keys.

Maintained libraries decide what a number is: python-stdnum knows checksums and numbers that are never issued,
phonenumbers the numbering plans, and detect-secrets the forms of services' keys. This file only searches texts for
candidates, since most texts contain none. Rows are read once, and only distinct secrets are kept.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

from hf_exposure.canaries.natural_secrets import NaturalSecret, NaturalSecrets, SecretKind, secret_template
from hf_exposure.canaries.space import distinct_ids
from hf_exposure.checks import flag, one_of, whole_number
from hf_exposure.errors import InputError, MissingDependencyError
from hf_exposure.limits import MOST_CANARIES

_EXTRA = 'scanning needs the extra "scan": pip install "hf-exposure[scan]"'
# Six digits with little between them, an address, or a long word; other texts contain no secret of these kinds.
_WORTH_A_LOOK = re.compile(r"\d(?:[ \-().\u00a0]{0,2}\d){5}|@|[A-Za-z0-9_\-]{16}")
# Not part of a longer number; a comma may be on both sides, as between the fields of a table.
_BEFORE, _AFTER = r"(?<![\dA-Za-z])(?<!\d\.)", r"(?![\dA-Za-z])(?![.\-]\d)"
# Further groups of digits may follow after the same separator.
_BEFORE_GROUPS = _BEFORE + r"(?<!\d[ \-])"
_CARD = re.compile(
    rf"{_BEFORE}\d{{13,19}}{_AFTER}"
    rf"|{_BEFORE_GROUPS}(?:\d{{4}}([ \-])\d{{4}}\1\d{{4}}\1\d{{1,7}}|3\d{{3}}([ \-])\d{{6}}\2\d{{4,5}}){_AFTER}"
)
# Numbers of the large issuers, by their first digits and lengths (ISO/IEC 7812).
_ISSUERS = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[689]\d)\d{11}|6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}"
)
_SSN = re.compile(rf"{_BEFORE_GROUPS}\d{{3}}([ \-])\d{{2}}\1\d{{4}}{_AFTER}")
_SSN_NAMED = re.compile(r"(?i)\b(?:ssn|social security)\b[^\d\n]{0,20}(\d{9})" + _AFTER)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?![A-Za-z0-9])")
_EMAIL = re.compile(
    r"(?<![\w.+%\-])[A-Za-z0-9](?:[\w.+%\-]{0,62}\w)?@(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.)+"
    r"[A-Za-z]{2,24}(?![\w\-])", re.ASCII
)  # fmt: skip
# Addresses reserved for examples (RFC 2606), or of programs, which belong to no person.
_NOBODYS = re.compile(
    r"(?i)(?:^(?:git|hg|svn|no-?reply)@|@(?:.+\.)?(?:example(?:\.(?:com|net|org))?|test|invalid|localhost)$)"
)
_PHONE_CUE = re.compile(r"(?i)(?:phone|tel(?:ephone)?|mobile|cell|call|fax|whatsapp)\W{0,12}(?:\w+\W{1,3})?$")
# A country code, three groups of digits, or a word; the numbering plans are only consulted for these.
_PHONE_LIKE = re.compile(
    r"\+ ?[1-9](?:[ \-().\u00a0/]{0,3}\d){6}|\d[ \-).\u00a0/]{1,3}\d{2,4}[ \-.\u00a0]\d{2,4}"
    r"|(?i:phone|tel|mobile|cell|call|fax|whatsapp)"
)
_WORD_OF_A_KEY = re.compile(r"[A-Za-z0-9_\-]{16}|://|AccountKey|xox|eyJ")
_DATE = re.compile(r"(?:19|20)\d\d-\d\d-\d\d")
CUES = (
    "pin", "passcode", "password", "passwd", "access code", "security code", "secret code", "account", "acct",
    "customer", "member", "membership", "policy", "passport", "licence", "license", "patient", "employee", "student",
    "routing", "tax", "invoice", "order", "tracking", "serial",
)  # fmt: skip
"""The words after which six to twelve digits count as a secret."""
_SIX_DIGITS = re.compile(r"\d{6}")
_BETWEEN = r"(?:\s{0,3}(?:number|num|no\.?|id|code|is|was|[:=#(\"'])){0,4}\s{0,3}"
# Key forms that match ordinary words or hashes too often, and a file header that contains no key.
_LEFT_OUT_DETECTORS = {"PrivateKeyDetector", "IPPublicDetector", "KeywordDetector"}
_SHORTEST_KEY = 12
_KEY_PREFIX = re.compile(
    r"AKIA|ASIA|gh[pousr]_|gl[a-z]+-|GR1348941|xox[a-z]-|sk_live_|rk_live_|sk-|SG\.|npm_|sq0csp-|pypi-|(AC|SK|AKC|AP|eyJ)"
)


class Found(NamedTuple):
    """One secret in a text.

    Attributes:
        kind: the kind of the secret.
        start, stop: the position of the secret in the text.
        fixed: the number of its first characters that belong to its format.
    """

    kind: SecretKind
    start: int
    stop: int
    fixed: int = 0


@dataclass(frozen=True)
class SecretFinder:
    """Finds secrets in one text. If two kinds overlap, the first in the order of `SecretKind` takes precedence.

    Args:
        kinds: the kinds to search for.
        region: the country of phone numbers without a country code, such as "US"; None to find only numbers with one.
        cues: words or signs after which six to twelve digits count as a secret.

    Example:
        >>> SecretFinder(kinds=(SecretKind.NUMBER,)).find("My PIN is 482913, call 5550100.")
        [Found(kind=<SecretKind.NUMBER: 'number'>, start=10, stop=16, fixed=0)]
    """

    kinds: tuple[SecretKind, ...] = tuple(SecretKind)
    region: str | None = "US"
    cues: tuple[str, ...] = CUES

    def find(self, text: str) -> list[Found]:
        """All secrets of a text, in order; no two overlap."""
        if not _WORTH_A_LOOK.search(text):
            return []
        found: list[Found] = []
        for kind in _ORDER:
            if kind in self.kinds:
                for one in self._finders[kind](text):
                    if not any(one.start < other.stop and other.start < one.stop for other in found):
                        found.append(one)
        return sorted(found, key=lambda one: one.start)

    @cached_property
    def _finders(self) -> Mapping[SecretKind, Callable[[str], Iterator[Found]]]:
        finders: dict[SecretKind, Callable[[], Callable[[str], Iterator[Found]]]] = {
            SecretKind.CARD: _card_finder,
            SecretKind.SSN: _ssn_finder,
            SecretKind.IBAN: _iban_finder,
            SecretKind.PHONE: lambda: _phone_finder(self.region),
            SecretKind.EMAIL: lambda: _emails,
            SecretKind.API_KEY: _key_finder,
            SecretKind.NUMBER: lambda: _number_finder(self.cues),
        }
        return {kind: finders[kind]() for kind in self.kinds}


_ORDER = (
    SecretKind.API_KEY, SecretKind.EMAIL, SecretKind.IBAN, SecretKind.CARD, SecretKind.SSN, SecretKind.PHONE,
    SecretKind.NUMBER,
)  # fmt: skip


def scan(
    dataset: Iterable[Any],
    text_column: str | None = None,
    *,
    kinds: Sequence[str] | None = None,
    region: str | None = "US",
    cues: Sequence[str] = CUES,
    context_characters: int = 100,
    most: int = MOST_CANARIES,
    progress: bool = False,
) -> NaturalSecrets:
    """Finds the natural secrets in a dataset: each distinct one with its context, number of occurrences and format.

    Rows are read once, in order, so a stream is accepted. Memory grows with the distinct secrets, not with the rows.

    Source: Carlini et al. 2019, "The Secret Sharer", Section 8.4.

    Args:
        dataset: rows (mappings) or texts: a `Dataset`, a stream, a list.
        text_column: the column to scan; by default all texts of a row, including those in chats and lists.
        kinds: kinds of `SecretKind`, by default all: card, ssn, iban, phone, email, api_key, number.
        region: the country of phone numbers without a country code; None ignores those.
        cues: words or signs, such as "#", after which six to twelve digits count as a secret.
        context_characters: maximum number of characters kept before and after the first occurrence of a secret; those
            before it, from the start of a word on, become the beginning of its template.
        most: the maximum number of distinct secrets to keep; occurrences of further ones are counted.
        progress: whether to show a progress bar.

    Returns:
        `NaturalSecrets`: save it with `.save("secrets.json")`. Its `repr` contains no text.

    Raises:
        InputError: rows lack the column, a kind or region is unknown, or a number is out of range.
        MissingDependencyError: a library of the extra "scan" is not installed.

    Example:
        >>> found = scan(["The PIN is 482913.", "Nothing here", "Again, the PIN is 482913!"], kinds=["number"])
        >>> found, found.secrets[0].examples, found.secrets[0].template.space_size
        (NaturalSecrets(1 number in 3 rows), 2, 1000000)
    """
    finder = _finder(kinds, region, cues)
    whole_number("context_characters", context_characters, 0, 10_000)
    whole_number("most", most, 1, MOST_CANARIES)
    flag("progress", progress)
    known: dict[tuple[SecretKind, str], list[Any]] = {}
    left_out = rows = 0
    for rows, row in enumerate(_shown(_rows(dataset, text_column), progress), start=1):
        in_row: set[tuple[SecretKind, str]] = set()
        for text in _texts_of(row, text_column, rows - 1):
            for one in finder.find(text):
                key = one.kind, text[one.start : one.stop]
                entry = known.get(key)
                if entry is None:
                    if len(known) == most:
                        left_out += 1
                        continue
                    before = text[max(0, one.start - context_characters - 1) : one.start]
                    after = text[one.stop : one.stop + context_characters]
                    entry = known[key] = [_from_a_word_on(before, context_characters), after, one.fixed, 0, 0]
                entry[3] += 1
                entry[4] += key not in in_row
                in_row.add(key)
    ids = distinct_ids()
    secrets = tuple(
        NaturalSecret(
            id=next(ids), kind=kind, text=text, before=before, after=after, occurrences=occurrences,
            examples=examples, template=secret_template(kind, text, before, fixed),
        )
        for (kind, text), (before, after, fixed, occurrences, examples) in known.items()
    )  # fmt: skip
    settings = {
        "text_column": text_column, "kinds": [kind.value for kind in finder.kinds], "region": region,
        "cues": list(cues), "context_characters": context_characters,
    }  # fmt: skip
    return NaturalSecrets(secrets=secrets, rows=rows, left_out=left_out, settings=settings)


def _finder(kinds: Sequence[str] | None, region: str | None, cues: Sequence[str]) -> SecretFinder:
    if isinstance(kinds, str) or isinstance(cues, str):
        argument, value = ("kinds", kinds) if isinstance(kinds, str) else ("cues", cues)
        raise InputError(argument, "must be words in a list", value, f"Write {argument}=[...].")
    known = [kind.value for kind in SecretKind]
    chosen = known if kinds is None else [one_of("kinds", kind, known, "Leave it out for all.") for kind in kinds]
    if not chosen or (SecretKind.NUMBER in chosen and not all(isinstance(cue, str) and cue for cue in cues)):
        rule = "must hold at least one word, and no empty one"
        raise InputError("kinds, cues", rule, len(chosen), "Leave them out for the defaults.")
    finder = SecretFinder(tuple(SecretKind(kind) for kind in chosen), region, tuple(cues))
    _ = finder._finders  # a missing library is reported now
    return finder


def texts_of_rows(dataset: Any, text_column: str | None) -> Iterator[list[str]]:
    """Yields the texts of each row of a dataset, of its splits, or of a list, from one column or all of them.

    Raises:
        InputError: the dataset has no rows, or rows lack the column.
    """
    for number, row in enumerate(_rows(dataset, text_column)):
        yield list(_texts_of(row, text_column, number))


def _rows(dataset: Any, text_column: str | None) -> Iterator[Any]:
    if isinstance(dataset, (str, bytes, Mapping)) and not hasattr(dataset, "values"):
        raise InputError("dataset", "must be rows or texts", type(dataset).__name__, "Pass a list or a dataset.")
    if isinstance(dataset, Mapping):  # splits
        for part in dataset.values():
            yield from _rows(part, text_column)
        return
    names = getattr(dataset, "column_names", None)
    if text_column is not None and isinstance(names, list):
        if text_column not in names:
            remedy = "Name one of them, or leave it out for all texts."
            raise InputError("text_column", f"must be a column ({', '.join(names)})", text_column, remedy)
        dataset = dataset.select_columns([text_column])
    yield from dataset


def _shown(rows: Iterable[Any], progress: bool) -> Iterator[Any]:
    from tqdm import tqdm

    # None: show it if stderr is a terminal.
    yield from tqdm(
        rows, desc="scanning", unit=" rows", disable=None if progress else True, file=sys.stderr, leave=False
    )


def _texts_of(row: Any, text_column: str | None, number: int) -> Iterator[str]:
    if text_column is not None and isinstance(row, Mapping):
        if text_column not in row:
            rule = "must be a column of every row"
            raise InputError("text_column", rule, f"another one at row {number}", "Leave it out for all texts.")
        row = row[text_column]
    return _texts(row)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)) and value and not isinstance(value[0], (int, float)):
        for item in value:
            yield from _texts(item)


def _from_a_word_on(before: str, most: int) -> str:
    """The text before a secret, without the rest of a cut word, which a tokenizer would encode differently."""
    if len(before) <= most:
        return before
    space = re.search(r"\s", before)
    return "" if space is None else before[space.start() + 1 :]


# The finders.


def _card_finder() -> Callable[[str], Iterator[Found]]:
    try:
        from stdnum import luhn
    except ImportError:
        raise MissingDependencyError(_EXTRA) from None

    def cards(text: str) -> Iterator[Found]:
        for match in _CARD.finditer(text):
            digits = re.sub(r"\D", "", match[0])
            if _ISSUERS.fullmatch(digits) and luhn.is_valid(digits):
                yield Found(SecretKind.CARD, *match.span())

    return cards


def _ssn_finder() -> Callable[[str], Iterator[Found]]:
    try:
        from stdnum.us import ssn
    except ImportError:
        raise MissingDependencyError(_EXTRA) from None

    def numbers(text: str) -> Iterator[Found]:
        places = chain((match.span() for match in _SSN.finditer(text)), (m.span(1) for m in _SSN_NAMED.finditer(text)))
        for start, stop in places:
            # Numbers that were printed in advertisements are included, since somebody wrote them into the data.
            if ssn.is_valid(re.sub(r"\D", "", text[start:stop])):
                yield Found(SecretKind.SSN, start, stop)

    return numbers


def _iban_finder() -> Callable[[str], Iterator[Found]]:
    try:
        from stdnum import iban
    except ImportError:
        raise MissingDependencyError(_EXTRA) from None

    def accounts(text: str) -> Iterator[Found]:
        for match in _IBAN.finditer(text):
            # A capitalized word after the number may look like a part of it.
            found = match[0]
            while found and not iban.is_valid(found):
                found = found.rpartition(" ")[0]
            if found:
                yield Found(SecretKind.IBAN, match.start(), match.start() + len(found), fixed=2)

    return accounts


def _phone_finder(region: str | None) -> Callable[[str], Iterator[Found]]:
    try:
        import phonenumbers
    except ImportError:
        raise MissingDependencyError(_EXTRA) from None
    if region is not None and region not in phonenumbers.SUPPORTED_REGIONS:
        raise InputError("region", "must be the two letters of a country", region, 'Write region="US", or None.')

    def phones(text: str) -> Iterator[Found]:
        if not _PHONE_LIKE.search(text):
            return
        for match in phonenumbers.PhoneNumberMatcher(text, region):
            written = match.raw_string
            # This is a parenthesis around the number, not around its first digits.
            start = match.start + (written.startswith("(") and ")" not in written)
            written = text[start : match.start + len(written)]
            # Digits in one or two groups may be any number, unless there is a hint that it is a phone's.
            is_marked = written.startswith("+") or _PHONE_CUE.search(text[max(0, start - 30) : start])
            groups = re.findall(r"\d+", written)
            # A single digit between dots or hyphens belongs to a version.
            if not is_marked and (len(groups) < 3 or min(map(len, groups[1:])) == 1 or _DATE.match(written)):
                continue
            code = f"+{match.number.country_code}"
            fixed = len(code) if written.startswith(code) else 0
            yield Found(SecretKind.PHONE, start, start + len(written), fixed)

    return phones


def _emails(text: str) -> Iterator[Found]:
    if "@" in text:
        for match in _EMAIL.finditer(text):
            if not _NOBODYS.search(match[0]) and ".." not in match[0]:
                yield Found(SecretKind.EMAIL, *match.span())


def _key_finder() -> Callable[[str], Iterator[Found]]:
    try:
        from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
        from detect_secrets.plugins.base import RegexBasedDetector
    except ImportError:
        raise MissingDependencyError(_EXTRA) from None
    detectors: Iterable[Any] = get_mapping_from_secret_type_to_class().values()
    forms: list[re.Pattern[str]] = [
        form
        for detector in detectors
        if issubclass(detector, RegexBasedDetector) and detector.__name__ not in _LEFT_OUT_DETECTORS
        for form in detector.denylist
    ]

    def keys(text: str) -> Iterator[Found]:
        if not _WORD_OF_A_KEY.search(text):
            return
        for form in forms:
            for match in form.finditer(text):
                start, stop = _key_in(match)
                key = text[start:stop]
                prefix = _KEY_PREFIX.match(key)
                is_named = prefix is not None and prefix[1] is None
                is_whole = not (text[start - 1 : start] + text[stop : stop + 1]).strip(" \t\n\r\"'`=:;,()[]{}<>|@.&?/")
                if len(key) >= _SHORTEST_KEY and is_whole and (is_named or _is_mixed(key)):
                    yield Found(SecretKind.API_KEY, start, stop, 0 if prefix is None else prefix.end())

    return keys


def _key_in(match: re.Match[str]) -> tuple[int, int]:
    """The position of the key: the last group that is long enough, else the whole match without its delimiters."""
    groups = [match.span(number) for number in range(1, (match.re.groups or 0) + 1) if match[number]]
    start, stop = next((span for span in reversed(groups) if span[1] - span[0] >= _SHORTEST_KEY), match.span())
    own = match.string[start:stop]
    return start + len(own) - len(own.lstrip(" \t\"'=:")), stop - len(own) + len(own.rstrip(" \t\"'"))


def _is_mixed(key: str) -> bool:
    """Keys are random, whereas words, versions and paths have no digits, or hardly anything else."""
    kinds = [any(one.isdigit() for one in key), any(one.isalpha() for one in key)]
    return all(kinds) and len(set(key)) >= 8


def _number_finder(cues: Sequence[str]) -> Callable[[str], Iterator[Found]]:
    # The longest come first, since one cue may begin with another; there must be no letters directly before or after a
    # word.
    listed = "|".join(_cue(cue) for cue in sorted(cues, key=len, reverse=True))
    pattern = re.compile(rf"(?i:{listed}){_BETWEEN}(?<![\d.])(\d{{6,12}})(?![\w]|[.\-/]\d)")

    def numbers(text: str) -> Iterator[Found]:
        if not _SIX_DIGITS.search(text):
            return
        for match in pattern.finditer(text):
            yield Found(SecretKind.NUMBER, *match.span(1))

    return numbers


def _cue(cue: str) -> str:
    own = r"\s+".join(re.escape(part) for part in cue.split()) or re.escape(cue)
    before = r"(?<![A-Za-z])" if cue[:1].isalnum() else ""
    return before + own + (r"(?![A-Za-z])" if cue[-1:].isalnum() else "")
