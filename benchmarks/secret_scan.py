"""Measures false positives, false negatives and speed of `scan` on labeled rows and on the system's changelogs.

`OMP_NUM_THREADS=1 python -m benchmarks.secret_scan` needs the extra "scan". It uses Debian's changelogs
(`/usr/share/doc/*/changelog*.gz`) if they exist. Only counts are written, never texts.

The rules were written before the first run:

1. *Labeled rows.* 500 rows for each kind with one secret each, made by a seed: card numbers of four issuers with a
   valid checksum, social security numbers that can be given out, IBANs of four countries with valid check digits,
   telephone numbers of five countries as phonenumbers prints examples of them with other last digits that it calls
   valid, addresses, keys of four services, and six to twelve digits behind a cue word, in ten sentences each. And 500
   rows for each of ten decoys: numbers with a wrong check digit, digests, versions, dates, bug numbers, byte counts,
   UUIDs, decimal numbers, prices and paths. Recall: secrets found, of their kind. False alarms: decoys in which
   anything is found. (A first run showed misses behind a comma and in parentheses, keys without a digit, and dates
   that were taken for phone numbers; the finder was mended, and the seed below was not looked at before.)
2. *Changelogs.* All lines of every eighth file. There should be no card, social security or account numbers, phone
   numbers or keys; what is found of these kinds counts as a false alarm without being looked at. Addresses are real:
   maintainers sign. And with "#" as the cue, bug numbers are the natural secrets: how many distinct ones, and how many
   in one line alone.
3. *Speed.* Rows per second on 10^6 rows of about 100 characters, of which one in a hundred holds a secret, as a stream
   of a generator; and the peak of Python's memory at 10^4 and 10^5 rows, which must not differ by more than a tenth.
"""

from __future__ import annotations

import glob
import gzip
import random
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import phonenumbers
from stdnum import iban, luhn
from stdnum.us import ssn

from benchmarks.record import write_result
from hf_exposure import scan

ROWS = 500
SENTENCES = (
    "Please use {} from now on.", "{}", "I wrote down {}, as you said", "field1,{},field3", "({})",
    "> On Monday you sent {}.", "name: x\nvalue: {}\n", '"{}"', "it was {}; thanks", "see {} !",
)  # fmt: skip
COUNTRIES = ("US", "GB", "DE", "FR", "IN")


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def _pick(rng: random.Random, letters: str, count: int) -> str:
    return "".join(rng.choice(letters) for _ in range(count))


def _card(rng: random.Random) -> str:
    prefix, length = rng.choice([("4", 16), ("51", 16), ("6011", 16), ("37", 15)])
    body = prefix + _digits(rng, length - 1 - len(prefix))
    whole = body + luhn.calc_check_digit(body)
    separator = rng.choice(["", " ", "-"]) if length == 16 else ""
    return separator.join(whole[at : at + 4] for at in range(0, 16, 4)) if separator else whole


def _ssn(rng: random.Random) -> str:
    while True:
        number = f"{_digits(rng, 3)}-{_digits(rng, 2)}-{_digits(rng, 4)}"
        if ssn.is_valid(number):
            return number


def _iban(rng: random.Random) -> str:
    country, form = rng.choice([("DE", "d18"), ("GB", "w4d14"), ("FR", "d10d11d2"), ("NL", "w4d10")])
    while True:
        parts = [(form[at], int("".join(c for c in form[at + 1 : at + 3] if c.isdigit()))) for at in
                 (place for place, one in enumerate(form) if one in "dw")]  # fmt: skip
        bban = "".join(_digits(rng, n) if kind == "d" else _pick(rng, "ABCDEFGHIJ", n) for kind, n in parts)
        whole = country + iban.calc_check_digits(country + "00" + bban) + bban
        if iban.is_valid(whole):
            return iban.format(whole) if rng.random() < 0.5 else whole


def _phone(rng: random.Random) -> str:
    while True:
        country = rng.choice(COUNTRIES)
        number = phonenumbers.example_number(country)
        national = str(number.national_number)
        number.national_number = int(national[:-4] + _digits(rng, 4))
        if phonenumbers.is_valid_number(number):
            form = phonenumbers.PhoneNumberFormat
            is_home = country == "US" and rng.random() < 0.5
            return str(phonenumbers.format_number(number, form.NATIONAL if is_home else form.INTERNATIONAL))


def _email(rng: random.Random) -> str:
    names = ("ann.lee", "bob_k", "c-day", "d.e.f", "x+news")
    return f"{rng.choice(names)}{_digits(rng, 3)}@{_pick(rng, 'abcdefgh', 6)}.{rng.choice(['org', 'co.uk', 'io'])}"


def _key(rng: random.Random) -> str:
    letters = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
    return rng.choice(
        [
            "AKIA" + _pick(rng, "ABCDEFGHJKLMNPQRSTUVWXYZ234567", 16),
            "ghp_" + _pick(rng, letters, 36),
            "sk_live_" + _pick(rng, letters, 24),
            "glpat-" + _pick(rng, letters, 20),
        ]
    )


def _number(rng: random.Random) -> str:
    cue = rng.choice(["PIN", "account number", "passport no.", "customer", "my password is", "Order #", "policy:"])
    return f"{cue}{'' if cue.endswith('#') else ' '}{_digits(rng, rng.randint(6, 12))}"


SECRETS: dict[str, Callable[[random.Random], str]] = {
    "card": _card, "ssn": _ssn, "iban": _iban, "phone": _phone, "email": _email, "api_key": _key, "number": _number
}  # fmt: skip


def _wrong_card(rng: random.Random) -> str:
    right = "4" + _digits(rng, 14)
    return right + str((int(luhn.calc_check_digit(right)) + rng.randint(1, 9)) % 10)


DECOYS: dict[str, Callable[[random.Random], str]] = {
    "wrong_card": _wrong_card,
    "digest": lambda rng: _pick(rng, "0123456789abcdef", rng.choice([32, 40, 64])),
    "version": lambda rng: f"{rng.randint(0, 30)}.{rng.randint(0, 99)}.{rng.randint(0, 9999)}-{rng.randint(0, 9)}",
    "date": lambda rng: (
        f"20{_digits(rng, 2)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02} 12:{rng.randint(10, 59)} +0200"
    ),
    "bug": lambda rng: f"Closes: #{_digits(rng, 6)}",
    "bytes": lambda rng: f"{rng.randint(10**6, 10**12)} bytes",
    "uuid": lambda rng: "-".join(_pick(rng, "0123456789abcdef", n) for n in (8, 4, 4, 4, 12)),
    "decimal": lambda rng: f"{rng.random():.12f}",
    "price": lambda rng: f"${rng.randint(1, 999)},{_digits(rng, 3)},{_digits(rng, 3)}.{_digits(rng, 2)}",
    "path": lambda rng: f"/var/lib/{_pick(rng, 'abcdefgh0123', 18)}/file_{_digits(rng, 3)}.bin",
}


def labeled() -> dict[str, Any]:
    """Recall by kind of secret, and false alarms by kind of decoy."""
    rng = random.Random(20_261)
    recall, alarms = {}, {}
    for kind, make in SECRETS.items():
        hits = others = 0
        for number in range(ROWS):
            secret = make(rng)
            found = list(scan([SENTENCES[number % len(SENTENCES)].format(secret)]))
            own = [one for one in found if one.kind.value == kind and one.text in secret]
            whole = secret if kind != "number" else None
            hits += any(whole in (None, one.text) for one in own)
            others += len(found) > len(own)
        recall[kind] = {"rows": ROWS, "found": hits, "with_another_kind": others}
    for name, make in DECOYS.items():
        false: Counter[str] = Counter()
        for number in range(ROWS):
            found = list(scan([SENTENCES[number % len(SENTENCES)].format(make(rng))]))
            false.update({one.kind.value for one in found})
        alarms[name] = {"rows": ROWS, "false_alarms": dict(false)}
    return {"secrets": recall, "decoys": alarms}


def lines() -> Iterator[str]:
    """All lines of every eighth changelog."""
    for file in sorted(glob.glob("/usr/share/doc/*/changelog*.gz"))[::8]:
        with gzip.open(file, "rt", errors="replace") as opened:
            yield from opened


def changelogs() -> dict[str, Any]:
    """Counts by kind of secret, and counts of bug numbers."""
    started = time.process_time()
    found = scan(lines())
    seconds = time.process_time() - started
    bugs = scan(lines(), kinds=["number"], cues=["#"])
    return {
        "lines": found.rows,
        "processor_seconds": seconds,
        "distinct": {kind.value: count for kind, count in found.counts.items()},
        "occurrences": dict(sum((Counter({one.kind.value: one.occurrences}) for one in found), Counter())),
        "bug_numbers": {
            "distinct": len(bugs),
            "left_out": bugs.left_out,
            "in_one_line": sum(one.examples == 1 for one in bugs),
            "six_digits": sum(len(one.text) == 6 for one in bugs),
        },
    }


def rows(count: int) -> Iterator[dict[str, str]]:
    """Rows of about 100 characters, one in a hundred with one of a hundred secrets."""
    words = "the quick brown fox jumps over the lazy dog while nobody looks at row"
    for number in range(count):
        tail = f"my PIN is {number // 100 % 100 + 100_000}" if number % 100 == 0 else f"at 12:30, {number} times"
        yield {"text": f"{words} {number} and so on, {tail}."}


def speed() -> dict[str, Any]:
    """Rows per second, and peaks of memory."""
    started = time.process_time()
    found = scan(rows(10**6), "text")
    seconds = time.process_time() - started
    peaks = {}
    for count in (10**4, 10**5):
        tracemalloc.start()
        scan(rows(count), "text", kinds=["card", "number"])
        peaks[str(count)] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return {
        "rows": found.rows, "secrets": len(found), "processor_seconds": seconds, "rows_per_second": 10**6 / seconds,
        "peak_bytes": peaks,
    }  # fmt: skip


def main() -> None:
    figures: dict[str, Any] = {"labeled": labeled()}
    print(figures, flush=True)
    figures["speed"] = speed()
    print(figures["speed"], flush=True)
    figures["changelogs"] = changelogs() if glob.glob("/usr/share/doc/*/changelog*.gz") else None
    print(figures["changelogs"], flush=True)
    write_result("secret_scan", figures)


if __name__ == "__main__":
    main()
