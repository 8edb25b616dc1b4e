"""Search under every style of tokenizer against scoring every text of a space with the bare model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from token_models import bare_costs, model_for
from tokenizer_styles import STYLES, tokenizer_in_style

from hf_exposure import CanaryTemplate, Choice, Digits, Letters, LuhnDigits, Pattern, Words, extract, rank_bounds
from hf_exposure.extraction import build_automaton, search_ranks
from hf_exposure.extraction.encoding_trie import trie_automaton
from hf_exposure.extraction.sampled_encodings import SampledEncodings
from hf_exposure.extraction.token_automaton import TokenAutomaton, follow_tokens, why_audited
from hf_exposure.extraction.vocabulary_automaton import vocabulary_automaton
from hf_exposure.scoring import CausalScorer
from hf_exposure.testing import check_likeliest, check_rank

WORDS = ["code", "number", "red", "reddish", "the", "list"]
TINY = {
    "several": CanaryTemplate("code {a} and {c}.", a=Digits(2), c=Choice(["red", "reddish"])),
    "luhn": CanaryTemplate("card {a}", a=LuhnDigits(3)),
}
SMALL = {
    "prefix": CanaryTemplate("the number is {a}", a=Digits(3)),
    "suffix": CanaryTemplate("pin {a} it", a=Digits(3)),
    "joined": CanaryTemplate("pin{a}it", a=Digits(3)),
    "hole first": CanaryTemplate("{a} is", a=Digits(3)),
    "several": CanaryTemplate("code {a}-{b} and {c}.", a=Digits(2), b=Digits(1), c=Choice(["red", "reddish"])),
    "words": CanaryTemplate("say {a}!", a=Words(3, words=WORDS)),
    "luhn": CanaryTemplate("card {a}", a=LuhnDigits(4)),
    "luhn groups": CanaryTemplate("card {a}", a=LuhnDigits(6, prefix="421", separator=" ")),
    "pattern": CanaryTemplate("id {a} ok", a=Pattern(r"[a-c]{1,2}\d{1,2}")),
}
LARGE = {
    "prefix": CanaryTemplate("the number is {a}", a=Digits(4)),
    "infix": CanaryTemplate("code {a}-{b} ok", a=Digits(2), b=Digits(2)),
    "hole first": CanaryTemplate("{a} is the number", a=Digits(4)),
    "several": CanaryTemplate(
        "{c} the {a}, {b}.", c=Choice(["red", "reddish"]), a=Letters(2, "abcdefghij"), b=Digits(2)
    ),
    "words": CanaryTemplate("say {a}!", a=Words(5, words=WORDS)),
    "luhn": CanaryTemplate("card {a} it", a=LuhnDigits(5)),
}


def whole_space(style: str, family: str, template: CanaryTemplate) -> tuple[CausalScorer, list[str], np.ndarray]:
    """A scorer, all texts, and their costs by the bare model on the tokenizer's own encodings."""
    tokenizer, model = tokenizer_in_style(style), model_for(style, family)
    texts = [template.text_at(index) for index in range(template.space_size)]
    scorer = CausalScorer(model, tokenizer)
    ids = tokenizer(texts)["input_ids"]
    after = {"bytes": 1, "unigram": 1, "wordpiece uncased": 1, "wordpiece cased": 1}.get(style, 0)  # end tokens
    before = 1 if style in ("sentencepiece", "wordpiece uncased", "wordpiece cased") else 0
    return scorer, texts, bare_costs(model, [row[: len(row) - after] for row in ids], max(before, 1))


def check_ranks_and_top(
    scorer: CausalScorer, automaton: TokenAutomaton, texts: list[str], costs: np.ndarray, budgets: tuple[int, ...]
) -> None:
    order = np.argsort(costs, kind="stable")
    check_likeliest(scorer, automaton, texts, costs, 10, 1e-3)
    for rank in (1, 10, 100, 1000):
        if rank <= len(texts):
            check_rank(scorer, automaton, texts, costs, int(order[rank - 1]), budgets)


def walked(scorer: CausalScorer, template: CanaryTemplate) -> Any:
    automaton, missed = vocabulary_automaton(template, scorer.encoder, SampledEncodings.of(template, scorer.encoder))
    assert missed is None
    return automaton


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", TINY)
def test_tiny_spaces(style: str, name: str) -> None:
    """The chosen automaton, the trie and (except for bytes) the walk over the vocabulary give the same answer."""
    template = TINY[name]
    scorer, texts, costs = whole_space(style, "bag", template)
    automata = [build_automaton(template, scorer.encoder)]
    assert automata[0].exactness == "proven"
    if style != "bytes":
        automata.append(walked(scorer, template))
    for automaton in automata:
        assert automaton.count(automaton.root) == template.space_size
        check_ranks_and_top(scorer, automaton, texts, costs, (7,))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama", "lstm"])
@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("style", STYLES)
def test_every_text_of_large_spaces(style: str, name: str, family: str) -> None:
    template = LARGE[name]
    scorer, texts, costs = whole_space(style, family, template)
    check_ranks_and_top(scorer, build_automaton(template, scorer.encoder), texts, costs, (5,))
    if style != "bytes" and family == "gpt2":
        check_ranks_and_top(scorer, walked(scorer, template), texts, costs, (5,))


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("style", STYLES)
def test_all_backends_on_all_small_templates(style: str, name: str) -> None:
    template = SMALL[name]
    scorer, texts, costs = whole_space(style, "bag", template)
    automata = [build_automaton(template, scorer.encoder), trie_automaton(template, scorer.encoder)]
    for automaton in automata + ([] if style == "bytes" else [walked(scorer, template)]):
        check_ranks_and_top(scorer, automaton, texts, costs, (1, 2, 3, 5, 8, 13, 21, 34))


@pytest.mark.parametrize(
    "style, name, backend",
    [
        ("bytes", "luhn", "characters"),
        ("qwen", "luhn", "characters"),
        ("gpt2", "words", "slots"),
        ("llama3", "prefix", "slots"),
        ("wordpiece cased", "words", "slots"),
        ("sentencepiece", "words", "trie"),
    ],
)
def test_the_backend_is_named(style: str, name: str, backend: str) -> None:
    tokenizer, template = tokenizer_in_style(style), SMALL[name]
    found = extract(model_for(style, "bag"), tokenizer, template, top_k=2)
    assert (found.backend, found.exactness, found.certified) == (backend, "proven", True)
    bounds = rank_bounds(model_for(style, "bag"), tokenizer, found.candidates[1].text, template)
    assert (bounds.low, bounds.backend, bounds.exactness) == (2, backend, "proven")


@pytest.mark.parametrize(
    "style, template, backend, exactness",
    [
        ("gpt2", CanaryTemplate("the number is {a}", a=Digits(9)), "vocabulary", "proven"),
        ("llama3", CanaryTemplate("the number is {a}", a=Digits(10)), "slots", "proven"),
        ("from the right", CanaryTemplate("the number is {a}", a=Digits(10)), "slots", "audited"),
        ("wordpiece uncased", CanaryTemplate("card {a}", a=LuhnDigits(9)), "vocabulary", "proven"),
        ("gpt2", CanaryTemplate("call {a}-{b}", a=Digits(3), b=Digits(4)), "slots", "proven"),
        ("qwen", CanaryTemplate("the number is {a}", a=Digits(9)), "characters", "proven"),
        ("bytes", CanaryTemplate("the number is {a}", a=Digits(9)), "characters", "proven"),
    ],
)
def test_large_spaces_are_proven_or_audited(
    style: str, template: CanaryTemplate, backend: str, exactness: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_exposure.extraction.sampled_encodings.AUDITED_ENCODINGS", 300)
    monkeypatch.setattr("hf_exposure.extraction.build._SMALL_TRIE", 300)
    tokenizer = tokenizer_in_style(style)
    scorer = CausalScorer(model_for(style, "bag"), tokenizer)
    automaton = build_automaton(template, scorer.encoder)
    assert (automaton.name, automaton.exactness) == (backend, exactness)
    assert bool(why_audited(automaton)) == (exactness == "audited")
    assert automaton.count(automaton.root) == template.space_size
    for index in np.random.default_rng(0).integers(template.space_size, size=50).tolist():
        text = template.text_at(index)
        path = scorer.encoder.encode([text]).ids[0]
        assert path[: len(automaton.prefix)] == automaton.prefix
        below = path[len(automaton.prefix) :]
        assert follow_tokens(automaton, below) == text
        assert automaton.canonical([below, below[:-1]], [text, text], [True, True]) == [True, backend != "vocabulary"]


def test_groups_from_the_right_turn_pruning_off() -> None:
    """`1234` is `1 234` there, and its beginning `12` one token: the beginning `1 2` is not canonical."""
    template = CanaryTemplate("card {a}", a=LuhnDigits(4))
    for style, name in (("from the right", "vocabulary, judging leaves only"), ("gpt2", "vocabulary")):
        scorer, texts, costs = whole_space(style, "bag", template)
        automaton = walked(scorer, template)
        assert automaton.name == name
        check_rank(scorer, automaton, texts, costs, int(np.argsort(costs)[9]), (3, 40))
        check_likeliest(scorer, automaton, texts, costs, 10, 1e-3)


def test_the_words_of_a_long_list_are_encoded_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """3,000^4 texts: the size of the automaton grows with the words, not with the texts."""
    monkeypatch.setattr("hf_exposure.extraction.sampled_encodings.AUDITED_ENCODINGS", 300)
    words = [f"w{number}x" for number in range(3000)]
    template = CanaryTemplate("say {words}", words=Words(4, words=words, separator=" "))
    style = "gpt2"
    scorer = CausalScorer(model_for(style, "bag"), tokenizer_in_style(style), end_token=True)
    automaton = build_automaton(template, scorer.encoder)
    assert automaton.name == "slots" and automaton.count(automaton.root) == 3000**4
    text = "say w0x w17x w1700x w2999x"
    (path,) = scorer.encode([text]).ids
    assert follow_tokens(automaton, path[len(automaton.prefix) :]) == text


@pytest.mark.slow
def test_a_quarter_of_a_million_words_four_times() -> None:
    words = [f"{number:x}" for number in range(2**17, 2**17 + 267_735)]
    template = CanaryTemplate("say {words}!", words=Words(4, words=words))
    scorer = CausalScorer(model_for("gpt2", "bag"), tokenizer_in_style("gpt2"))
    automaton = build_automaton(template, scorer.encoder)
    assert automaton.name == "slots" and automaton.count(automaton.root) == 267_735**4


@pytest.mark.slow
def test_a_trie_of_a_million_texts_is_small() -> None:
    template = CanaryTemplate("the number is {a}", a=Digits(6))
    tokenizer = tokenizer_in_style("gpt2")
    scorer = CausalScorer(model_for("gpt2", "bag"), tokenizer)
    automaton = trie_automaton(template, scorer.encoder)
    (trie,) = automaton._slots
    assert trie.rows_NL.nbytes + trie.order_N.nbytes < 50e6
    assert automaton.count(automaton.root) == 10**6


@st.composite
def templates(draw: st.DrawFn) -> CanaryTemplate:
    """Up to two holes between fixed texts of words, numbers and spaces."""
    fixed = st.sampled_from(["", " ", "the ", "is", " and ", "pin: ", "-", "7", " 1", ", ", "x=", " é "])
    spaces = st.sampled_from(
        [
            Digits(1),
            Digits(2),
            Choice(["red", "reddish"]),
            Letters(2, "ab1"),
            LuhnDigits(3),
            Choice(["1", "12", "x 1"]),
        ]
    )
    holes = draw(st.lists(spaces, min_size=1, max_size=2))
    text = "".join(f"{draw(fixed)}{{h{number}}}" for number in range(len(holes))) + draw(
        st.sampled_from(["!", " ok", "."])
    )
    return CanaryTemplate("n" + text, **{f"h{number}": space for number, space in enumerate(holes)})


MERGING = st.sampled_from([style for style in STYLES if style not in ("bytes", "characters")])


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), style=MERGING)
def test_random_templates(data: st.DataObject, style: str) -> None:
    check_random_template(data, style)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), style=MERGING)
def test_many_random_templates(data: st.DataObject, style: str) -> None:
    check_random_template(data, style)


def check_random_template(data: st.DataObject, style: str) -> None:
    try:
        template = data.draw(templates())
    except ValueError:  # ambiguous: two fillings render one text
        return
    tokenizer = tokenizer_in_style(style)
    texts = [template.text_at(index) for index in range(template.space_size)]
    ids = [tuple(row) for row in tokenizer(texts)["input_ids"]]
    model = model_for(style, "bag")
    scorer = CausalScorer(model, tokenizer)
    if len(set(ids)) < len(ids) or tokenizer.unk_token_id in {token for row in ids for token in row}:
        with pytest.raises(ValueError, match="^(tokenizer|template): must"):
            build_automaton(template, scorer.encoder)
        return
    encoded = scorer.encode(texts)
    costs = bare_costs(model, encoded.ids, encoded.first_scored)
    own = data.draw(st.integers(0, len(texts) - 1))
    try:
        automaton = build_automaton(template, scorer.encoder)
    except ValueError as error:
        assert any(
            len(one) < len(other) and other[: len(one)] == one for one in encoded.ids for other in encoded.ids
        ), error
        return
    automata = [automaton]
    found, missed = vocabulary_automaton(template, scorer.encoder, SampledEncodings.of(template, scorer.encoder))
    if missed is None:  # else it refuses, and is not chosen
        automata.append(found)
    for automaton in automata:
        check_likeliest(scorer, automaton, texts, costs, 5, 1e-3)
        check_rank(scorer, automaton, texts, costs, own, (2,))


@pytest.mark.parametrize("style", ["gpt2", "unigram", "wordpiece cased", "sentencepiece"])
def test_an_end_token_and_texts_that_do_not_compete(style: str) -> None:
    """Some fillings begin others, and the end token tells them apart; two of lower cost are excluded from the rank."""
    template = CanaryTemplate("the {a}", a=Choice(["red", "reddish", "re", "1", "12", "123", "1234", "list 1"]))
    tokenizer, model = tokenizer_in_style(style), model_for(style, "bag")
    scorer = CausalScorer(model, tokenizer, end_token=True)
    texts = [template.text_at(index) for index in range(template.space_size)]
    encoded = scorer.encode(texts)
    assert {ids[-1] for ids in encoded.ids} == {scorer.encoder.ending[0]}
    costs = bare_costs(model, encoded.ids, encoded.first_scored)
    order = np.argsort(costs)
    for automaton in (build_automaton(template, scorer.encoder), walked(scorer, template)):
        check_likeliest(scorer, automaton, texts, costs, 8, 1e-3)
        check_rank(scorer, automaton, texts, costs, int(order[4]), (1, 2, 3))
        exclude = [texts[place] for place in (*order[:2], order[7])]
        for budget in (1, 2, 3, 100):
            (bounds,) = search_ranks(scorer, automaton, [texts[order[4]]], exclude=exclude, max_expansions=budget)
            assert bounds.low <= 3 <= bounds.high <= 5
        assert bounds.certified and bounds.low == bounds.high == 3
