"""Templates against brute-force listings of their texts."""

from __future__ import annotations

import itertools
import json
import pickle

import pytest

from hf_exposure.canaries import (
    CanaryTemplate,
    Choice,
    Digits,
    Letters,
    LuhnDigits,
    Words,
    draw_canaries,
    presets,
)
from hf_exposure.errors import InputError

TEMPLATES = {
    "one_hole": CanaryTemplate("no {n}", n=Digits(2)),
    "suffix": CanaryTemplate("{{{n}}}!", n=Digits(2)),
    "two_holes": CanaryTemplate("a{x}-{y}z", x=Letters(2, alphabet="ab"), y=Digits(1)),
    "adjacent_fixed": CanaryTemplate("{x}{y}", x=Digits(1), y=Letters(1, alphabet="12")),
    "adjacent_variable": CanaryTemplate("{x}{y}", x=Digits(1), y=Choice(["1", "11", "2"])),
    "variable_then_literal": CanaryTemplate("{x} end", x=Words(2, words=["is", "isn", "a"])),
    "two_positions": CanaryTemplate("{x}ab", x=Choice(["x", "xa", "xab"])),
    "two_positions_in_two_holes": CanaryTemplate("{x}{y}", x=Choice(["a", "ab"]), y=Choice(["b1", "2"])),
}


def texts_of(template: CanaryTemplate) -> dict[str, dict[str, str]]:
    """Every text with its filling, from the product of the holes' listings and str.format."""
    lists = {name: [space.text_at(i) for i in range(space.size)] for name, space in template.spaces.items()}
    fillings = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    return {template.text.format(**filling): filling for filling in fillings}


@pytest.fixture(params=TEMPLATES, ids=str)
def template(request: pytest.FixtureRequest) -> CanaryTemplate:
    return TEMPLATES[request.param]


def test_size_render_parse_and_ranks(template: CanaryTemplate) -> None:
    texts = texts_of(template)
    assert template.space_size == len(texts)
    for text, filling in texts.items():
        assert template.render(**filling) == text
        assert template.parse(text) == filling
        assert template.contains(text)
        assert template.text_at(template.index_of(text)) == text
        assert text.startswith(template.prefix) and text.endswith(template.suffix)
        for wrong in (text + "\n", text[1:], text.upper() + "?"):
            assert template.contains(wrong) == (wrong in texts)
    assert [template.text_at(index) for index in range(template.space_size)] == list(texts)


def test_the_automaton_counts_the_listed_texts(template: CanaryTemplate) -> None:
    texts = list(texts_of(template))

    def walk(state: object, read: str) -> None:
        assert template.count(state) == sum(text.startswith(read) for text in texts) > 0
        assert template.is_end(state) == (read in texts)
        moves = template.moves(state)
        assert list(moves) == sorted({text[len(read)] for text in texts if text.startswith(read) and text != read})
        hash(state)
        for character, following in moves.items():
            walk(following, read + character)

    walk(template.start, "")


def test_equal_after_pickle_and_json(template: CanaryTemplate) -> None:
    template.count(template.start)
    for copy in (
        pickle.loads(pickle.dumps(template)),
        CanaryTemplate.from_dict(json.loads(json.dumps(template.to_dict()))),
    ):
        assert copy == template and hash(copy) == hash(template) and copy.count(copy.start) == template.space_size
    assert template != CanaryTemplate("no {n}", n=Digits(3))


def test_parts_of_a_template() -> None:
    template = CanaryTemplate("a {x}, {{b}} {y}", x=Digits(2), y=Words(1, words=["is", "a"]))
    assert template.segments == ("a ", ("x", Digits(2)), ", {b} ", ("y", Words(1, words=["a", "is"])))
    assert (template.prefix, template.suffix) == ("a ", "")
    assert template.ends_in_variable_length
    assert not CanaryTemplate("{x}", x=Digits(2)).ends_in_variable_length
    assert not CanaryTemplate("{x}.", x=Words(2)).ends_in_variable_length
    assert list(template.spaces) == ["x", "y"]
    swapped = CanaryTemplate("a {x}, {{b}} {y}", y=Words(1, words=["is", "a"]), x=Digits(2))
    assert swapped == template
    assert repr(TEMPLATES["one_hole"]) == "CanaryTemplate('no {n}', n=Digits(length=2))"
    with pytest.raises(AttributeError):
        template.text = "other"  # type: ignore[misc]


def test_a_hole_may_have_any_name() -> None:
    template = CanaryTemplate("{text} {self}", text=Digits(1), self=Digits(1))
    assert template.render(text="1", self="2") == "1 2"


def test_sizes_are_exact() -> None:
    template = CanaryTemplate("{a} {b}", a=LuhnDigits(16), b=Digits(30))
    assert template.space_size == 10**45
    assert template.log2_space_size == pytest.approx(149.486764, abs=1e-6)  # 45 * 3.321928
    assert template.index_of(template.text_at(10**44 + 7)) == 10**44 + 7


AMBIGUOUS = [
    ("{a}{b}", {"a": Choice(["1", "11"]), "b": Choice(["1", "11"])}),
    ("{a}1{b}", {"a": Choice(["1", "11"]), "b": Choice(["1", "11"])}),
    ("{a} is {b}", {"a": Choice(["x", "x is y"]), "b": Choice(["y is z", "z"])}),
    ("{a}{b}{c}", {"a": Choice(["a", "ab"]), "b": Choice(["b", "bc"]), "c": Choice(["c", "cc"])}),
    ("{a}.{b}", {"a": Choice(["x", "x."]), "b": Choice([".y", "y"])}),
]


@pytest.mark.parametrize(("text", "spaces"), AMBIGUOUS)
def test_two_fillings_of_one_text_are_refused_with_that_text(text: str, spaces: dict[str, Choice]) -> None:
    with pytest.raises(InputError, match="text: must not render the same text from two different fillings") as caught:
        CanaryTemplate(text, **spaces)
    shown = str(caught.value).split("fillings, as '")[1].split("'")[0]
    products = itertools.product(*[space.options for space in spaces.values()])
    renderings = [text.format(**dict(zip(spaces, values, strict=True))) for values in products]
    assert renderings.count(shown) >= 2


def test_the_check_decides_as_brute_force_does() -> None:
    pieces = ["a", "b", "ab", "ba", "aa"]
    pairs = [list(pair) for size in (1, 2, 3) for pair in itertools.combinations(pieces, size)]
    refused = 0
    for left, right in itertools.product(pairs, repeat=2):
        renderings = [a + b for a in left for b in right]
        ambiguous = len(set(renderings)) < len(renderings)
        refused += ambiguous
        try:
            CanaryTemplate("{a}{b}", a=Choice(left), b=Choice(right))
            accepted = True
        except InputError:
            accepted = False
        assert accepted != ambiguous, (left, right)
    assert 20 < refused < 600


def test_a_check_that_would_take_too_long_says_so() -> None:
    words = Words(3, words=[f"w{number}" for number in range(40_000)])
    with pytest.raises(InputError, match="text: must have holes whose ends can be told within 50000 steps"):
        CanaryTemplate("{a}0{b}", a=words, b=Digits(1))


@pytest.mark.parametrize(
    ("text", "spaces", "message"),
    [
        ("{a}", {}, "text: must have a space for each hole: a, got '{a}'. Add a=Digits(9)."),
        ("{a}", {"a": Digits(1), "b": Digits(1)}, "spaces: must each have a hole in '{a}', got ['b']. Add {b} to the"),
        ("{a} {a}", {"a": Digits(1)}, "text: must name each hole once: a, got '{a} {a}'. Write {a} and {a_2}."),
        ("{}", {}, "text: must name its holes, unlike {}, got '{}'"),
        ("{0}", {}, "text: must name its holes, unlike {0}"),
        ("{a.b}", {"a": Digits(1)}, "text: must name its holes, unlike {a.b}"),
        (
            "{a:3}",
            {"a": Digits(1)},
            "text: must have holes without a format or conversion: a, got '{a:3}'. Write {a}.",
        ),
        ("{a!r}", {"a": Digits(1)}, "text: must have holes without a format or conversion: a"),
        ("nothing", {}, "text: must have at least one hole, got 'a text of 7 characters'. Write CanaryTemplate("),
        ("", {}, "text: must have at least one hole, got ''"),
        ("{a", {"a": Digits(1)}, "text: must have matching braces (expected '}' before end of string), got '{a'"),
        ("\ud800{a}", {"a": Digits(1)}, "text: must be text that UTF-8 can encode"),
        (3, {}, "text: must be a string, got 'int'"),
        ("{a}", {"a": "digits"}, "a: must be a space, got 'digits'. Write a=Digits(9)"),
    ],
)
def test_errors_name_argument_rule_and_value(text: str, spaces: dict[str, Digits], message: str) -> None:
    with pytest.raises(InputError) as caught:
        CanaryTemplate(text, **spaces)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_errors_of_render_and_parse() -> None:
    template = TEMPLATES["two_holes"]
    with pytest.raises(
        InputError, match=r"fillings: must be given for x, y, got \['x'\]. Write render\(x=..., y=...\)"
    ):
        template.render(x="ab")
    with pytest.raises(
        InputError,
        match=r"y: must be a filling of Digits\(length=1\), got 'a text of 2 characters'. A possible filling is '0'",
    ):
        template.render(x="ab", y="12")
    with pytest.raises(
        InputError,
        match="text: must be a text of the template 'a{x}-{y}z', got 'a text of 1 characters'. A text of it is",
    ):
        template.parse("b")
    with pytest.raises(InputError, match="index: must be from 0 to 39, got 40"):
        template.text_at(40)


def test_anchors_are_random_words_that_the_template_gives_away() -> None:
    listed = ["red", "green", "blue", "{x}"]
    seven, five = presets.anchored_words(words=listed, seed=1), presets.anchored_words(1, words=listed, seed=1)
    assert (seven.space_size, five.space_size) == (4**3, 4)
    for template, length in ((seven, 7), (five, 5)):
        texts = [template.text_at(index).split(" ") for index in range(template.space_size)]
        assert {len(text) for text in texts} == {length}
        assert len({(*text[:2], *text[-2:]) for text in texts}) == 1, "the two words at each end are known"
        assert all(word in listed for text in texts for word in text)
    assert presets.anchored_words(words=listed, seed=1).text == seven.text
    drawn = {presets.anchored_words(words=listed, seed=seed).text for seed in range(20)}
    assert len(drawn) > 10, "other seeds draw other anchors"
    assert presets.anchored_words(anchors=1, words=["a"]).text == "a {words} a"


def test_the_same_secrets_in_another_template() -> None:
    inserted = CanaryTemplate("id {a}-{b}, thanks", a=Digits(2), b=Digits(3))
    canaries = draw_canaries(inserted, {1: 2, 4: 1}, controls=2, seed=3)
    bare = CanaryTemplate("{b} then {a}", b=Digits(3), a=Digits(2))
    moved = canaries.in_template(bare)
    for old, new in zip(canaries, moved, strict=True):
        assert new.id == old.id and new.repetitions == old.repetitions
        a, b = old.text.removeprefix("id ").removesuffix(", thanks").split("-")
        assert new.text == f"{b} then {a}"
    assert moved.seed is None and len(moved.controls) == 2
    with pytest.raises(InputError, match="template: must have the holes and spaces"):
        canaries.in_template(CanaryTemplate("{a}-{b}", a=Digits(2), b=Digits(4)))


def test_presets_render_the_papers_formats() -> None:
    assert presets.random_number(3).text_at(42) == "The random number is 042"
    ssn = presets.social_security_number()
    assert ssn.space_size == 10**9
    assert ssn.parse("My social security number is 078-05-1120") == {"area": "078", "group": "05", "serial": "1120"}
    card = presets.credit_card()
    assert card.space_size == 10**15
    assert not card.contains("My credit card number is 4111111111111112")
    words = presets.random_words(3, ending=" {x}.")
    assert words.suffix == " {x}." and len(words.text_at(0).split()) == 4
    compose = presets.smart_compose(first="{please}  send", last="to me")
    text = compose.text_at(12345)
    assert text.startswith("{please} send ") and text.endswith(" to me") and len(text.split(" ")) == 7
    assert len(presets.smart_compose(number=1).text_at(7).split(" ")) == 5
    with pytest.raises(InputError, match="first: must be two words, got 'please'"):
        presets.smart_compose(first="please")
    with pytest.raises(InputError, match="ending: must not be empty"):
        presets.random_words(ending="")
