"""Regular expressions as spaces: their texts are compared with those that `re` matches among all short texts."""

from __future__ import annotations

import itertools
import pickle
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_exposure import CanaryTemplate, Digits, Pattern
from hf_exposure.canaries import parse_space, space_from_dict
from hf_exposure.errors import InputError

LONGEST = 5


def matches(regex: str, alphabet: str, longest: int = LONGEST) -> list[str]:
    texts = ("".join(chosen) for n in range(1, longest + 1) for chosen in itertools.product(alphabet, repeat=n))
    return sorted(text for text in texts if re.fullmatch(regex, text))


def check(regex: str, expected: list[str]) -> None:
    space = Pattern(regex)
    assert space.size == len(expected)
    assert [space.text_at(index) for index in range(space.size)] == expected
    assert [space.index_of(text) for text in expected] == list(range(space.size))
    lengths = {len(text) for text in expected}
    assert space.fixed_length == (lengths.pop() if len(lengths) == 1 else None)
    assert space.alphabet == set("".join(expected))
    longer = {text[len(one) :][0] for one in expected for text in expected if text != one and text.startswith(one)}
    assert space.continuations == longer


@pytest.mark.parametrize(
    "regex",
    [
        "ab", "a|ab|a(b|c)", "[abc]{2}", "[a-c]{1,3}", "a?b", "(a|b)?c", "(?:ab|a)(?:bc|c)", "[^b]{2}a?",
        "a{0,2}b{1,2}", "(a|ab)(c|bc)", "a{2}?b", "(?P<x>a)b", "((a|b){1,2}c){1,2}", "a|", "[ab][bc]|[bc][ab]",
        "a{3}", "(|a)(|b)c",
    ],
)  # fmt: skip
def test_small_expressions_hold_what_re_matches(regex: str) -> None:
    alphabet = "abc"
    if re.fullmatch(regex, ""):
        with pytest.raises(InputError, match=r"^pattern: must have no empty text, got"):
            Pattern(regex)
    elif "^" in regex:
        space = Pattern(regex)
        assert all(space.contains(text) for text in matches(regex, alphabet)) and not space.contains("ab")
        assert space.size == 94**2 * 2
    else:
        check(regex, matches(regex, alphabet, 6 if "{1,2}c" in regex else LONGEST))


ATOMS = st.sampled_from(["a", "b", "c", "[ab]", "[a-c]"])
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["?", "{2}", "{0,1}", "{1,2}"])).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    ),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(EXPRESSIONS)
def test_random_expressions_hold_what_re_matches(regex: str) -> None:
    if re.fullmatch(regex, "") or re._parser.parse(regex).getwidth()[1] > LONGEST:  # type: ignore[attr-defined]
        return
    check(regex, matches(regex, "abc"))


def test_counts_of_large_spaces_are_exact() -> None:
    assert Pattern(r"[A-Z]{2}\d{6}").size == 26**2 * 10**6
    assert Pattern(r"\w{40}").size == 63**40
    assert Pattern(r"4\d{3}(?:-\d{4}){3}").size == 10**15
    assert Pattern(r"\d{1,30}").size == sum(10**n for n in range(1, 31))
    assert Pattern(".").size == 95 and Pattern(r"\D").size == 85


@pytest.mark.parametrize(
    "regex, rule",
    [
        (r"a+", r"bounded repetitions, .*Write \{1,8\} instead"),
        (r"a*", "bounded repetitions"),
        (r"^a$", "no anchors"),
        (r"a\b", "no anchors"),
        (r"(a)\1", "no backreferences"),
        (r"a(?=b)b", "no look-arounds"),
        (r"(?i)a", "no flags"),
        (r"(?i:a)", "no flags"),
        (r"\s", r"no class but \\d"),
        (r"a?", "no empty text"),
        (r"[^ -~]", "at least one printable ASCII character"),
        (r"(a{300}){400}", "at most 100000 states"),
    ],
)
def test_what_cannot_be_counted_is_refused(regex: str, rule: str) -> None:
    with pytest.raises(InputError, match=rf"^pattern: must have {rule}"):
        Pattern(regex)


def test_what_is_no_expression_is_refused() -> None:
    with pytest.raises(InputError, match=r"^pattern: must be a regular expression \(.*unterminated.*\), got '\(a'"):
        Pattern("(a")


def test_it_is_a_value() -> None:
    space = Pattern(r"[ab]{2}\d")
    assert space == Pattern(r"[ab]{2}\d") != Pattern(r"[ab]{2}") and hash(space) == hash(Pattern(r"[ab]{2}\d"))
    assert space_from_dict(space.to_dict()) == space == pickle.loads(pickle.dumps(space))
    assert parse_space(r"pattern:[ab]{2}\d") == space and repr(space) == r"Pattern('[ab]{2}\\d')"
    template = CanaryTemplate("id {code} {pin}", code=space, pin=Digits(1))
    assert template.space_size == 400 and CanaryTemplate.from_dict(template.to_dict()) == template
