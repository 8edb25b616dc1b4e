"""Natural secrets are found as the libraries define them, counted by row, and have templates of their formats."""

from __future__ import annotations

import json
import random
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, IterableDataset

from hf_exposure import NaturalSecrets, scan
from hf_exposure.canaries.natural_secrets import SecretKind, secret_template
from hf_exposure.errors import CanaryFileError, InputError

pytest.importorskip("phonenumbers")
pytest.importorskip("detect_secrets")
pytest.importorskip("stdnum")

TOKEN = "ghp_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0dF3gH6"
FOUND: dict[str, list[tuple[str, str]]] = {
    "card": [
        ("paid with 4111 1111 1111 1111 today", "4111 1111 1111 1111"),
        ("name,5500000000000004,12/27", "5500000000000004"),
        ("3782-822463-10005", "3782-822463-10005"),
        ("4111111111111111 5500000000000004", "5500000000000004"),
    ],
    "ssn": [("his SSN is 536-90-4399.", "536-90-4399"), ("Social Security number: 536904399", "536904399")],
    "iban": [
        ("pay to DE89 3704 0044 0532 0130 00 Thanks", "DE89 3704 0044 0532 0130 00"),
        ("(GB29NWBK60161331926819)", "GB29NWBK60161331926819"),
    ],
    "phone": [
        ("call +49 30 901820 now", "+49 30 901820"),
        ("(650) 253-0000", "(650) 253-0000"),
        ("mobile: 6502530000", "6502530000"),
    ],
    "email": [("Write to ann.lee+x@sub.site.org.", "ann.lee+x@sub.site.org")],
    "api_key": [
        ("export AWS=AKIAQ3EGW5KZT7UXB2CD", "AKIAQ3EGW5KZT7UXB2CD"),
        (f"token={TOKEN};", TOKEN),
        ("https://bob:s3cretPassw0rd@host.org/", "s3cretPassw0rd"),
    ],
    "number": [
        ("My PIN is 482913.", "482913"),
        ("account number: 00123456", "00123456"),
        ("order #1234567 shipped", "1234567"),
        ("password 482913,next", "482913"),
    ],
}
NOTHING = [
    "4111 1111 1111 1112 and 4111111111111112",  # no checksum
    "0000000000000000",
    "000-12-3456 and 666-12-3456 and 900-12-3456 and 536-00-4399",  # never assigned
    "DE89 3704 0044 0532 0130 01",
    "x@example.com and git@github.com:me/it and a@b",
    "closes: #123456, 2024-01-02 12:30:45 +0100, 1.2.3.4, v2.13.90.0.18-1.1",
    "d41d8cd98f00b204e9800998ecf8427e",  # a digest is not a service's key
    "spinning 123456 and pinned 123456",  # no cue
    "account 12345 and account 1234567890123",  # too short, too long
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
]


@pytest.mark.parametrize("kind", FOUND)
def test_each_kind_is_found_with_what_is_around_it(kind: str) -> None:
    for text, secret in FOUND[kind]:
        found = {one.text: one for one in scan([text])}
        assert secret in found and found[secret].kind.value == kind, (text, [(s.kind, s.text) for s in found.values()])
        one = found[secret]
        assert one.before + one.text + one.after == text and one.template.contains(one.whole_text)
        assert (one.occurrences, one.examples) == (text.count(secret), 1)
        only = scan([text], kinds=[kind])
        assert secret in [other.text for other in only] and set(only.counts) == {SecretKind(kind)}


def test_what_only_looks_like_a_secret_is_none() -> None:
    for text in NOTHING:
        assert not list(scan([text])), (text, [(one.kind, one.text) for one in scan([text])])


def test_a_labeled_synthetic_set() -> None:
    """Random rows with one secret or one decoy each: all secrets are found, and few decoys are mistaken for one."""
    rng = random.Random(0)

    def digits(count: int) -> str:
        return "".join(rng.choice("0123456789") for _ in range(count))

    def luhn(prefix: str, length: int) -> str:
        body = prefix + digits(length - 1 - len(prefix))
        return next(body + last for last in "0123456789" if _luhn(body + last))

    secrets, decoys = [], []
    for _ in range(60):
        secrets += [
            ("card", f"card {luhn(rng.choice(['4', '51', '6011']), 16)} ok"),
            ("ssn", f"ssn {rng.randint(100, 600):03}-{rng.randint(1, 99):02}-{rng.randint(1, 9999):04}"),
            ("email", f"from {rng.choice(['jo', 'max.m', 'k_1'])}{digits(2)}@mail{digits(1)}.net to us"),
            ("api_key", f"id AKIA{''.join(rng.choice('ABCDEFGHJKMNPQ23456789') for _ in range(16))} end"),
            ("number", f"her {rng.choice(['PIN', 'account number', 'passport no.'])} {digits(8)}!"),
            ("phone", f"dial +1 650-253-{digits(4)} please"),
        ]
        wrong = luhn("4", 16)
        decoys += [
            wrong[:-1] + str((int(wrong[-1]) + rng.randint(1, 9)) % 10),
            f"commit {''.join(rng.choice('0123456789abcdef') for _ in range(40))}",
            f"version {rng.randint(1, 30)}.{digits(2)}.{digits(2)}.{digits(1)}-{digits(1)}.{digits(1)}",
            f"closes #{digits(6)} on 20{digits(2)}-01-{rng.randint(10, 28)}",
            f"{digits(3)} rows, {digits(7)} bytes, {digits(9)} ns",
        ]
    rows = [text for _, text in secrets] + decoys
    found = scan(rows)
    by_text = {one.text: one.kind.value for one in found}
    missed = [(kind, text) for kind, text in secrets if not any(s in text and k == kind for s, k in by_text.items())]
    assert not [one for one in missed if one[0] != "ssn"], missed  # 666, 00 and 0000 are never assigned
    assert len(missed) <= 2
    false = [text for text in decoys if any(secret in text for secret in by_text)]
    assert len(false) <= 3, false


def _luhn(number: str) -> bool:
    doubled = [int(one) * (1 + place % 2) for place, one in enumerate(reversed(number))]
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def test_occurrences_rows_and_the_first_context() -> None:
    data = ["the PIN is 482913", "PIN 482913 and PIN 482913", "none", "PIN: 482913!"]
    found = scan(data)
    [one] = found
    assert (one.occurrences, one.examples, found.rows, one.before) == (4, 3, 4, "the PIN is ")
    assert repr(found) == "NaturalSecrets(1 number in 4 rows)" and "482913" not in repr(one)
    canaries = one.canaries(controls=3, seed=0)
    assert canaries.inserted[0].repetitions == 4 and canaries.inserted[0].text == "the PIN is 482913"


def test_a_long_context_begins_with_a_word() -> None:
    text = "wordone wordtwo wordthree PIN 482913 and what follows"
    [one] = scan([text], context_characters=14)
    assert one.before == "wordthree PIN " and one.after == " and what foll"
    [short] = scan([text], context_characters=6)
    assert short.before == "PIN " and secret_template(SecretKind.NUMBER, "482913").contains("482913")


@pytest.mark.parametrize(
    ("kind", "text", "fixed", "size"),
    [
        ("card", "4111111111111111", 0, 10**15),
        ("card", "4111-1111-1111-1111", 0, 10**15),
        ("card", "3782 822463 10005", 0, 10**15),
        ("iban", "DE89370400440532013000", 2, 10**20),
        ("phone", "+1 650-253-0000", 2, 10**10),
        ("email", "abc@site.org", 0, 39**3),
        ("api_key", "AKIAQ3EGW5KZT7UXB2CD", 4, 36**16),
        ("api_key", "0123456789abcdef0123", 0, 16**20),
        ("number", "00482913", 0, 10**8),
        ("ssn", "536-90-4399", 0, 898 * 99 * 9999),
        ("ssn", "536904399", 0, 898 * 99 * 9999),
    ],
)
def test_the_space_is_that_of_the_format(kind: str, text: str, fixed: int, size: int) -> None:
    template = secret_template(SecretKind(kind), text, "its {number} is ", fixed)
    assert template.space_size == size and template.contains("its {number} is " + text)


def test_rows_of_every_kind_are_scanned() -> None:
    chat = {"messages": [{"role": "user", "content": "My PIN is 482913"}], "other": 3, "tags": ["PIN 771122"]}
    assert sorted(one.text for one in scan([chat])) == ["482913", "771122"]
    assert [one.text for one in scan([chat], "messages")] == ["482913"]
    data = Dataset.from_dict({"text": ["PIN 482913"] * 3, "mail": ["ann@site.org"] * 3})
    assert [one.text for one in scan(data, "text")] == ["482913"]
    assert scan({"train": data, "test": data}, "text").secrets[0].examples == 6

    def rows() -> Any:
        yield from ({"text": f"PIN {number:06}"} for number in range(50))

    stream = IterableDataset.from_generator(rows)
    found = scan(stream, "text", most=20)
    assert (len(found), found.left_out, found.rows) == (20, 30, 50)


def test_what_is_kept_does_not_grow_with_the_rows() -> None:
    def rows(count: int) -> Any:
        return (
            {"text": f"row {number} of many, the PIN is {number % 100:06}, call it a day"} for number in range(count)
        )

    peaks = []
    for count in (500, 5_000):
        tracemalloc.start()
        assert len(scan(rows(count), "text", kinds=["number", "card"])) == 100
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0], peaks


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"kinds": ["cards"]}, "kinds: must be one of card"),
        ({"kinds": "card"}, "must be words in a list"),
        ({"cues": "PIN"}, "must be words in a list"),
        ({"cues": [""]}, "no empty one"),
        ({"region": "Narnia"}, "region"),
        ({"context_characters": -1}, "context_characters"),
        ({"most": 0}, "most"),
        ({"text_column": "body"}, "another one at row 0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        scan([{"text": "PIN 482913"}], **arguments)
    with pytest.raises(InputError, match="must be a column"):
        scan(Dataset.from_dict({"text": ["a"]}), "body")


def test_a_sign_may_be_a_cue() -> None:
    assert [one.text for one in scan(["Closes: #123456, LP: #1234567"], kinds=["number"], cues=["#"])] == [
        "123456",
        "1234567",
    ]


def test_the_file_is_private_whole_and_notices_edits(tmp_path: Path) -> None:
    found = scan(text for texts in FOUND.values() for text, _ in texts)
    path = tmp_path / "secrets.json"
    found.save(path)
    assert path.stat().st_mode & 0o77 == 0
    again = NaturalSecrets.load(path)
    assert again == found and [one.template for one in again] == [one.template for one in found]
    values = json.loads(path.read_text())
    values["secrets"][0]["occurrences"] = 99
    path.write_text(json.dumps(values))
    with pytest.raises(CanaryFileError, match="edited by hand") as caught:
        NaturalSecrets.load(path)
    assert not re.search("|".join(re.escape(one.text) for one in found), str(caught.value))
    path.write_text("{")
    with pytest.raises(CanaryFileError, match="must be a file of format"):
        NaturalSecrets.load(path)
    with pytest.raises(InputError, match="that can be read"):
        NaturalSecrets.load(tmp_path / "none.json")
    with pytest.raises(InputError, match="folder that exists"):
        found.save(tmp_path / "no" / "secrets.json")
