"""Every law can fail: for each, a scorer, a space or an automaton breaks it and is caught."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from table_scorer import TableScorer, random_bits
from transformers import ByT5Tokenizer

from hf_exposure import CanaryTemplate, Choice, Digits
from hf_exposure.extraction import build_automaton
from hf_exposure.scoring import EncodedTexts, PathBits, PathQuery, SampleReader
from hf_exposure.testing import (
    assert_close,
    brute_force_rank,
    check_alone,
    check_automaton,
    check_batch_independence,
    check_chain_rule,
    check_likeliest,
    check_paths,
    check_rank,
    check_samples,
    check_scorer,
    check_search,
    check_space,
    check_token_sums,
)

SAYS_WHAT = r"\w"  # without pytest's rewriting, a bare `assert` has no message
TEXTS = ["pin 123", "pin 129", "pin 5!", "pin one two", "pin 777"]


class ReadsPadding(TableScorer):
    def sequence_bits(self, encoded: EncodedTexts) -> np.ndarray:
        return super().sequence_bits(encoded) + 0.01 * encoded.matrix_NL.shape[1]


class ReadsItsPlace(TableScorer):
    def sequence_bits(self, encoded: EncodedTexts) -> np.ndarray:
        return super().sequence_bits(encoded) + 0.01 * np.arange(len(encoded))


class EqualTextsDiffer(TableScorer):
    def sequence_bits(self, encoded: EncodedTexts) -> np.ndarray:
        return super().sequence_bits(encoded) + 1e-12 * np.arange(len(encoded))


class SinglePrecision(TableScorer):
    def sequence_bits(self, encoded: EncodedTexts) -> np.ndarray:
        return super().sequence_bits(encoded).astype(np.float32)


class OtherwiseAlone(TableScorer):
    def alone_bits(self, encoded: EncodedTexts) -> np.ndarray:
        return self.sequence_bits(encoded) + 0.01


class ScoresContext(TableScorer):
    def prefix_bits(self, prefix: Sequence[int]) -> np.ndarray:
        return self.along(prefix)


class ForgetsTheLastToken(TableScorer):
    def prefix_bits(self, prefix: Sequence[int]) -> np.ndarray:
        bits_P = super().prefix_bits(prefix)
        bits_P[-1:] = np.nan
        return bits_P


class MeanOverTokens(TableScorer):
    def sequence_bits(self, encoded: EncodedTexts) -> np.ndarray:
        return super().sequence_bits(encoded) / [len(ids) for ids in encoded.ids]


class RunWithoutItsFirst(TableScorer):
    def answer(self, ids: Sequence[int], query: PathQuery) -> PathBits:
        return super().answer(ids, dataclasses.replace(query, run=max(0, query.run - 1)))


class RunGivenUnasked(TableScorer):
    def answer(self, ids: Sequence[int], query: PathQuery) -> PathBits:
        return super().answer(ids, dataclasses.replace(query, run=max(1, query.run)))


class ChildrenShifted(TableScorer):
    def answer(self, ids: Sequence[int], query: PathQuery) -> PathBits:
        found = super().answer(ids, query)
        return PathBits(found.run_bits, found.children_bits + 0.01)


class RenormalizedChildren(TableScorer):
    def answer(self, ids: Sequence[int], query: PathQuery) -> PathBits:
        found = super().answer(ids, query)
        return PathBits(found.run_bits, found.children_bits + np.logaddexp2.reduce(-found.children_bits))


class CheaperInCompany(TableScorer):
    def path_bits(self, prefix: Sequence[int], queries: Sequence[PathQuery]) -> list[PathBits]:
        answers = super().path_bits(prefix, queries)
        return [PathBits(each.run_bits * (1 - 0.01 * (len(answers) > 1)), each.children_bits) for each in answers]


def improbable(bits_VV: np.ndarray) -> np.ndarray:
    """Probabilities that sum to far more than 1."""
    return bits_VV / 100


class MisreadCaches(TableScorer):
    """A reader that is right for two steps, and then reads the slot of another sample."""

    def sample_reader(self, prefix: Sequence[int], samples: int, length: int) -> SampleReader:
        class Reader:
            paths = [tuple(prefix)] * samples
            steps = 0

            def step(reader, sample_A, tokens_AT, run_A, children_AC):  # type: ignore[no-untyped-def]
                reader.steps += 1
                for sample, tokens in zip(sample_A.tolist(), tokens_AT.tolist(), strict=True):
                    reader.paths[sample] += tuple(token for token in tokens if token >= 0)
                read = np.roll(sample_A, 1 if reader.steps > 2 else 0).tolist()
                bits = [
                    self.bits_VV[reader.paths[sample][-1], row] for sample, row in zip(read, children_AC, strict=True)
                ]
                return np.zeros(len(sample_A)), np.array(bits)

        return Reader()


class NoRoomForSamples(TableScorer):
    def samples_at_once(self, samples: int, length: int) -> int:
        return 0


BROKEN = [
    (check_batch_independence, ReadsPadding),
    (check_batch_independence, ReadsItsPlace),
    (check_batch_independence, EqualTextsDiffer),
    (check_batch_independence, SinglePrecision),
    (check_alone, OtherwiseAlone),
    (check_token_sums, ScoresContext),
    (check_token_sums, ForgetsTheLastToken),
    (check_token_sums, MeanOverTokens),
    (check_paths, RunWithoutItsFirst),
    (check_paths, RunGivenUnasked),
    (check_paths, ChildrenShifted),
    (check_paths, CheaperInCompany),
    (check_chain_rule, RunWithoutItsFirst),
    (check_chain_rule, RenormalizedChildren),
    (check_samples, MisreadCaches),
    (check_samples, NoRoomForSamples),
]


@pytest.mark.parametrize(("law", "kind"), BROKEN, ids=lambda each: each.__name__)
def test_a_scorer_that_breaks_a_law_is_caught(law: Callable[..., None], kind: type[TableScorer]) -> None:
    law(TableScorer(ByT5Tokenizer(), random_bits()), TEXTS, 1e-9)
    broken = kind(ByT5Tokenizer(), random_bits())
    with pytest.raises(AssertionError, match=SAYS_WHAT):
        law(broken, TEXTS, 1e-9)
    with pytest.raises(AssertionError, match=SAYS_WHAT):
        check_scorer(broken, TEXTS, tolerance=1e-9)


def test_probabilities_that_sum_to_more_than_one_are_caught() -> None:
    with pytest.raises(AssertionError, match=SAYS_WHAT):
        check_chain_rule(TableScorer(ByT5Tokenizer(), improbable(random_bits())), TEXTS, 1e-9)
    with pytest.raises(AssertionError, match=SAYS_WHAT):
        check_token_sums(TableScorer(ByT5Tokenizer(), -random_bits()), TEXTS, 1e-9)


TEMPLATE = CanaryTemplate("pin {pin}.", pin=Choice(["1", "12", "2", "212"]))
SPACE = [TEMPLATE.text_at(index) for index in range(4)]


class Altered:
    """An automaton with some methods replaced."""

    def __init__(self, automaton: Any, **methods: Any) -> None:
        self._automaton = automaton
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._automaton, name)


def cut(after: Any, first: int) -> Any:
    return dataclasses.replace(
        after, tokens_C=after.tokens_C[first:], pieces=after.pieces[first:], states=after.states[first:]
    )


def altered_automata(automaton: Any) -> dict[str, Any]:
    root = automaton.root
    return {
        "a child is missing": Altered(
            automaton,
            transitions=lambda state: cut(automaton.transitions(state), int(len(automaton.transitions(state)) > 1)),
        ),
        "a text is spelled wrong": Altered(automaton, prefix_text="pin_"),
        "no text has the prefix": Altered(automaton, prefix=(*automaton.prefix, 9)),
        "the root counts one too many": Altered(
            automaton, count=lambda state: automaton.count(state) + (state == root)
        ),
        "every count is 1": Altered(automaton, count=lambda state: 1),
        "all states are ends": Altered(automaton, is_leaf=lambda state: True),
        "nothing is canonical": Altered(automaton, canonical=lambda paths, texts, ends: [False] * len(paths)),
        "no beginning is canonical": Altered(automaton, canonical=lambda paths, texts, ends: list(ends)),
        "nothing can follow": Altered(automaton, forced_tokens=lambda paths, texts, states: [None] * len(paths)),
    }


def test_an_automaton_that_breaks_a_law_is_caught() -> None:
    scorer = TableScorer(ByT5Tokenizer(), random_bits())
    automaton = build_automaton(TEMPLATE, scorer.encoder)
    check_automaton(automaton, TEMPLATE, scorer.encoder)
    for name, broken in altered_automata(automaton).items():
        with pytest.raises(AssertionError, match=SAYS_WHAT):
            check_automaton(broken, TEMPLATE, scorer.encoder)
            pytest.fail(f"not caught: {name}", pytrace=False)


def test_search_that_is_not_brute_force_is_caught() -> None:
    right = TableScorer(ByT5Tokenizer(), random_bits())
    costs = right.sequence_bits(right.encode(SPACE))
    automaton = build_automaton(TEMPLATE, right.encoder)
    check_search(right, automaton, SPACE, costs)
    order = np.argsort(costs)
    laws: list[Callable[..., None]] = [
        lambda scorer, graph, costs_N: check_likeliest(scorer, graph, SPACE, costs_N, 3),
        lambda scorer, graph, costs_N: check_rank(scorer, graph, SPACE, costs_N, int(order[-1]), (1, 3)),
        lambda scorer, graph, costs_N: check_search(scorer, graph, SPACE, costs_N),
    ]
    others = costs[order[::-1]][np.argsort(order)]  # the likeliest text is made the least likely
    likeliest = SPACE[order[0]]
    without = Altered(automaton, canonical=lambda paths, texts, ends: [text != likeliest for text in texts])
    for law in laws:
        law(right, automaton, costs)
        with pytest.raises(AssertionError, match=SAYS_WHAT):
            law(right, automaton, others)
        with pytest.raises(AssertionError, match=SAYS_WHAT):
            law(ChildrenShifted(ByT5Tokenizer(), random_bits()), automaton, costs)
        with pytest.raises(AssertionError, match=SAYS_WHAT):
            law(right, without, costs)


DIGITS = [f"{number:02}" for number in range(100)]
MOVES, COUNT = Digits.moves, Digits.count


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("size", property(lambda self: 99)),
        ("text_at", lambda self, index: DIGITS[99 - index]),
        ("index_of", lambda self, text: 99 - int(text)),
        ("count", lambda self, state: COUNT(self, state) + (state != self.start)),
        ("is_end", lambda self, state: state != self.start),
        ("moves", lambda self, state: dict(reversed(MOVES(self, state).items()))),
        ("contains", lambda self, text: text.startswith("1")),
        ("lengths_at", lambda self, text, position: [1, 2]),
        ("alphabet", property(lambda self: frozenset("012345678"))),
        ("fixed_length", property(lambda self: None)),
        ("continuations", property(lambda self: frozenset("x"))),
        ("to_dict", lambda self: {"kind": {1}}),
        ("__hash__", lambda self: id(self)),
        ("__eq__", lambda self, other: self is other),
    ],
)
def test_a_space_that_breaks_a_law_is_caught(name: str, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    check_space(Digits(2), DIGITS)
    monkeypatch.setattr(Digits, name, change)
    with pytest.raises((AssertionError, TypeError)):
        check_space(Digits(2), DIGITS)


def test_a_list_that_is_not_the_space_is_caught() -> None:
    for listed in (DIGITS[1:], [*DIGITS, "100"], [*DIGITS[1:], "01"]):
        with pytest.raises(AssertionError, match=SAYS_WHAT):
            check_space(Digits(2), listed)


def test_ranks_by_hand() -> None:
    costs_N = np.array([5.0, 1.0, 2.0, 2.00001, 7.0])
    assert [brute_force_rank(costs_N, own) for own in range(5)] == [(4, 4), (1, 1), (2, 3), (2, 3), (5, 5)]
    assert brute_force_rank(costs_N, 3, tie_bits=0.0) == (3, 3)


def test_figures_are_close_by_their_difference_alone() -> None:
    assert_close(1e9 + 1e-4, 1e9, 1e-3)
    for found, expected in ((1e9 + 1.0, 1e9), ([1.0], [1.0, 1.0]), (np.nan, 1.0)):
        with pytest.raises(AssertionError, match=SAYS_WHAT):
            assert_close(found, expected, 1e-3)


def test_pytest_is_not_needed() -> None:
    code = "import sys, hf_exposure.testing; assert 'pytest' not in sys.modules and '_pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
