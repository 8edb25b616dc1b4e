"""The scanner's results in a text, and the content of the synthetic mailbox."""

from __future__ import annotations

import re

import pytest

from examples.secret_sharer.mailbox import make_mailbox
from examples.secret_sharer.natural_secrets import canary_sets, find_secrets
from hf_exposure.errors import InputError

SENTENCES = ["The minutes of the meeting are attached.", "Braces {like these} are no holes of a template."]


def test_numbers_in_every_way_of_writing_and_nothing_that_looks_alike() -> None:
    rows = [
        "Visa 4111 1111 1111 1111, then again: 4111111111111111",
        "Master: 5500-0000-0000-0004",
        "SSN: 536-90-4399",
        "not valid: 4111 1111 1111 1112, 666-12-3456, 000-12-3456, 536-00-4399",
        "part of something longer: 94111111111111111, 1-536-90-4399, 536-90-43990, 4111 1111-1111 1111",
    ]
    found = {(one.kind, one.written): (one.occurrences, one.in_context, one.context) for one in find_secrets(rows)}
    assert found == {
        ("card", "4111 1111 1111 1111"): (2, 1, "Visa "),
        ("card", "5500-0000-0000-0004"): (1, 1, "Master: "),
        ("social security", "536-90-4399"): (1, 1, "SSN: "),
    }


def test_the_context_is_the_commonest_of_its_own_line_at_most_32_characters() -> None:
    rows = [
        "HR\nmine: 536-90-4399",
        "HR\nmine: 536-90-4399",
        "x" * 50 + " 536-90-4399",
        "yours:\n219-12-0001",
    ]
    first, second = find_secrets(rows)
    assert (first.context, first.occurrences, first.in_context) == ("mine: ", 3, 2)
    assert second.context == "yours:\n"  # nothing on its own line
    (alone,) = find_secrets(["y" * 50 + "536-90-4399"])
    assert alone.context == "y" * 32


def test_a_secret_is_a_text_of_its_template_among_all_that_could_stand_there() -> None:
    rows = ["{me} 4111-1111-1111-1111", "SSN 536-90-4399", "SSN 536-90-4398"]
    card, one, other = find_secrets(rows)
    assert card.template.contains("{me} 4111-1111-1111-1111") and card.template.space_size == 10**15
    assert one.template == other.template and one.template.space_size == 10**9
    sets = canary_sets([card, one, other], controls=3)
    # Two secrets of one template do not compete with each other.
    assert [[canary.text for canary in canaries.inserted] for canaries in sets] == [
        ["{me} 4111-1111-1111-1111"],
        ["SSN 536-90-4399", "SSN 536-90-4398"],
    ]
    assert all(len(canaries.controls) == 3 for canaries in sets)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_scanner_finds_what_was_planted_in_a_mailbox_and_nothing_else(seed: int) -> None:
    mailbox = make_mailbox(SENTENCES, messages=200, seed=seed)
    assert len(mailbox.messages) == 200 and mailbox == make_mailbox(SENTENCES, messages=200, seed=seed)
    everything = "\n".join(mailbox.messages)
    assert {one.number: one.times for one in mailbox.planted} == {
        one.number: everything.count(one.number) for one in mailbox.planted
    }
    # There are decoys: more texts look like a secret than are one.
    shaped = set(re.findall(r"\d{3}-\d{2}-\d{4}|\d{4}[ -]?\d{4}[ -]?\d{4}[ -]?\d{4}", everything))
    assert len(shaped) > len(mailbox.planted) + 5
    assert {(one.written, one.occurrences) for one in find_secrets(mailbox.messages)} == {
        (one.number, one.times) for one in mailbox.planted
    }


def test_no_secret_shows_in_what_is_printed() -> None:
    (found,) = find_secrets(["SSN: 536-90-4399"])
    assert "4399" not in repr(found)
    mailbox = make_mailbox(SENTENCES, messages=120)
    assert not any(one.number in repr(mailbox) for one in mailbox.planted)
    with pytest.raises(InputError):
        canary_sets([found], controls=10**9)  # more controls than there are other numbers
