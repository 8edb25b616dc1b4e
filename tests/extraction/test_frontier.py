"""The open nodes of a search: their order, their memory, and what is certain when they grow too many."""

from __future__ import annotations

import gc
import math
import tracemalloc
from collections.abc import Sequence
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hf_exposure.errors import InputError
from hf_exposure.extraction import search_likeliest, search_ranks
from hf_exposure.extraction.frontier import Frontier, Node, most_texts_within
from hf_exposure.extraction.token_automaton import NO_TRANSITIONS, Exactness, OnePathPerText, Transitions
from hf_exposure.scoring import EncodedTexts, PathBits, PathQuery
from hf_exposure.testing import brute_force_rank


class Numbers(OnePathPerText):
    """All numbers of `digits` digits in a base, one token per digit; a state is the number of digits read."""

    name, prefix, prefix_text, root = "numbers", (0,), "", 0
    exactness: Exactness = "proven"

    def __init__(self, digits: int, base: int = 10) -> None:
        self.digits, self.base = digits, base
        tokens, pieces = np.arange(base, dtype=np.int64), tuple(chr(48 + digit) for digit in range(base))
        self._transitions = [Transitions(tokens, pieces, (depth + 1,) * base, self) for depth in range(digits)]

    def transitions(self, state: Any) -> Transitions:
        return self._transitions[state] if state < self.digits else NO_TRANSITIONS

    def count(self, state: Any) -> int:
        return int(self.base ** (self.digits - state))


class HashedCosts:
    """A scorer without a model: the bits of a digit depend on all digits before it."""

    tolerance_bits = 1e-9
    mode = None
    lost_trust = False
    why_no_search = ""

    def __init__(self, spread: float = 1.0, base: int = 10) -> None:
        self.spread, self.base = spread, base

    def digit_bits(self, path: Sequence[int]) -> np.ndarray:
        weights = np.random.default_rng([*path, len(path)]).random(self.base) ** self.spread + 1e-6
        return -np.log2(weights / weights.sum())

    def cost(self, path: Sequence[int]) -> float:
        return float(sum(self.digit_bits(path[:depth])[token] for depth, token in enumerate(path)))

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        rows = [[0, *(ord(character) - 48 for character in text)] for text in texts]
        return EncodedTexts(
            tuple(texts), np.array(rows, dtype=np.int32).reshape(len(texts), len(rows[0]) if rows else 1), 1
        )

    def sequence_bits(self, encoded: EncodedTexts) -> np.ndarray:
        return np.array([self.cost(ids[1:]) for ids in encoded.ids])

    def alone_bits(self, encoded: EncodedTexts) -> np.ndarray:
        return self.sequence_bits(encoded)

    def distrust_batches(self) -> None:
        raise AssertionError("a scorer without a model has nothing to distrust")

    def prefix_bits(self, prefix: Sequence[int]) -> np.ndarray:
        return np.full(len(prefix), np.nan)

    def path_bits(self, prefix: Sequence[int], queries: Sequence[PathQuery]) -> list[PathBits]:
        return [
            PathBits(
                self.cost(query.tokens) - self.cost(query.tokens[: len(query.tokens) - query.run]),
                self.digit_bits(query.tokens)[query.children],
            )
            for query in queries
        ]


@pytest.mark.parametrize("heap", [1, 4, 64, 2**17])
def test_nodes_come_by_cost_and_then_by_discovery(heap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared with a plain sorted list, whatever part of the nodes is in the heap; many costs are equal."""
    monkeypatch.setattr("hf_exposure.extraction.frontier._LARGEST_HEAP", heap)
    automaton, draw = Numbers(9), np.random.default_rng(0)
    frontier = Frontier(automaton)
    expected = [(0.0, 0, ())]
    found = 1
    while expected and found < 3000:
        assert len(frontier) == len(expected) and frontier.cheapest_bits == min(expected)[0]
        most, limit = int(draw.integers(1, 6)), float(draw.integers(3, 30))
        nodes = frontier.pop(most, limit)
        chosen = [one for one in sorted(expected)[:most] if one[0] <= limit]
        assert [(node.cost_bits, node.path) for node in nodes] == [(cost, path) for cost, _, path in chosen]
        expected = [one for one in expected if one not in chosen]
        for node in nodes:
            assert node.text == "".join(map(str, node.path)) and node.state == len(node.path)
            if len(node.path) < 7:
                run = tuple(draw.integers(0, 10, size=draw.integers(0, 2)).tolist())
                path = (*node.path, *run)
                reached = Node(node.cost_bits, path, "".join(map(str, path)), len(path), node.parent)
                children = np.flatnonzero(draw.random(10) < 0.7)
                costs = node.cost_bits + draw.integers(0, 6, size=len(children))
                limit = node.cost_bits + 4
                frontier.push_children(reached, children, costs, limit)
                for child, cost in zip(children.tolist(), costs.tolist(), strict=True):
                    if cost <= limit:
                        expected.append((float(cost), found, (*path, child)))
                        found += 1
    left = frontier.open_nodes()
    assert sorted(left.costs_M.tolist()) == sorted(cost for cost, _, _ in expected)
    paths = {
        (*frontier.path_of(parent), child) if parent >= 0 else ()
        for parent, child in zip(left.parents_M.tolist(), left.children_M.tolist(), strict=True)
    }
    assert paths == {path for _, _, path in expected}


def test_what_is_not_open_is_not_looked_at() -> None:
    frontier = Frontier(Numbers(3))
    (root,) = frontier.pop(5, 0.0)
    assert frontier.peek(math.inf) is None and frontier.pop(5, math.inf) == [] and frontier.cheapest_bits == math.inf
    frontier.push_children(root, np.arange(10), np.full(10, 3.0), math.inf)
    assert frontier.peek(2.0) is None
    found = frontier.peek(3.0)
    assert found is not None and found.path == (0,) and len(frontier) == 10


def grow(frontier: Frontier, costs: np.random.Generator, open_nodes: int, children: int) -> None:
    """Grows the frontier until `open_nodes` are open, with `children` per parent."""
    everything, places = float("inf"), np.arange(children)

    def expand_some() -> None:
        for node in frontier.pop(256, everything):
            frontier.push_children(node, places, node.cost_bits + costs.random(children), everything)

    while len(frontier) < open_nodes:
        expand_some()
    gc.collect()  # Python keeps the memory of some thousand freed tuples until then


@pytest.mark.parametrize("children, most_bytes", [(2, 150), (10, 60)])
def test_an_open_node_takes_few_bytes(children: int, most_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """This is on top of a heap of bounded size, with 150 bytes per entry."""
    monkeypatch.setattr("hf_exposure.extraction.frontier._LARGEST_HEAP", 256)
    automaton, costs = Numbers(60, base=children), np.random.default_rng(0)
    tracemalloc.start()
    frontier = Frontier(automaton)
    grow(frontier, costs, 4000 * children, children)
    each = tracemalloc.get_traced_memory()[0] / len(frontier)
    tracemalloc.stop()
    assert len(frontier) >= 4000 * children and each < most_bytes, each


@pytest.mark.slow
def test_ten_million_open_nodes_take_less_than_two_gigabytes() -> None:
    """Memory of the whole process, since tracing every allocation would take ten times as long."""
    frontier, before = Frontier(Numbers(60, base=10)), psutil.Process().memory_info().rss
    grow(frontier, np.random.default_rng(0), 10**7, 10)
    assert len(frontier) >= 10**7 and psutil.Process().memory_info().rss - before < 2e9
    assert len(frontier.pop(1000, float("inf"))) == 1000


def test_too_many_open_nodes_end_a_search_with_what_is_certain() -> None:
    automaton, scorer = Numbers(4), HashedCosts()
    texts = [f"{number:04d}" for number in range(10_000)]
    costs = scorer.sequence_bits(scorer.encode(texts))
    order = np.argsort(costs)
    whole = search_likeliest(scorer, automaton, top_k=20)
    assert whole.certified and [one.text for one in whole.candidates] == [texts[place] for place in order[:20]]
    for most in (1, 10, 100, 1000):
        found = search_likeliest(scorer, automaton, top_k=20, max_open_nodes=most)
        if not found.certified:
            assert found.note == f"stopped at max_open_nodes={most}; a likelier text may be left"
        for place in (0, 50, 5000, 9999):
            own = int(order[place])
            (bounds,) = search_ranks(scorer, automaton, [texts[own]], max_open_nodes=most)
            low, high = brute_force_rank(costs, own)
            assert bounds.low <= low <= high <= bounds.high
            assert bounds.certified or f"stopped at max_open_nodes={most}; low and high are still valid" in bounds.note
    assert not search_likeliest(scorer, automaton, top_k=20, max_open_nodes=1).certified
    assert not search_ranks(scorer, automaton, [texts[order[9999]]], max_open_nodes=100)[0].certified
    for search in (search_likeliest, lambda *args, **more: search_ranks(*args, [texts[0]], **more)):
        with pytest.raises(InputError, match="^max_open_nodes: must be a whole number of at least 1, got 0"):
            search(scorer, automaton, max_open_nodes=0)


def test_bounds_of_very_large_spaces_are_exact_integers() -> None:
    """10^30 texts: above 2^62 counts do not fit a machine word."""
    automaton, scorer = Numbers(30), HashedCosts(spread=0.0)  # all digits are equally likely: every text ties
    (bounds,) = search_ranks(scorer, automaton, ["1" * 30], max_expansions=5)
    assert (bounds.low, bounds.high, bounds.certified) == (1, 10**30, False)


class _TwoDigits(HashedCosts):
    """The digit 0 costs 1 bit, any other digit 20."""

    def digit_bits(self, path: Sequence[int]) -> np.ndarray:
        return np.array([1.0] + [20.0] * 9)


@pytest.mark.parametrize(
    ("exclude", "high"),
    [
        # Within the 21 bits of 01, ten texts may lie below 0 (1 bit) and two below each other digit (20 bits): 28.
        # One of them is 01 itself, so 27 others may come before it.
        ((), 28),
        # Two of the ten below 0 do not compete.
        (("00", "05"), 26),
        # Among the 9 other texts below 3 there may still be two.
        (("33",), 28),
        # 01 does not compete with itself, and is not counted below 0.
        (("01",), 28),
    ],
)
def test_the_bounds_of_a_stopped_search_are_as_tight_as_its_open_nodes(exclude: tuple[str, ...], high: int) -> None:
    (bounds,) = search_ranks(_TwoDigits(), Numbers(2), ["01"], max_expansions=1, exclude=exclude)
    assert (bounds.expansions, bounds.certified) == (1, False)
    assert (bounds.low, bounds.high) == (1, high)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10**25), st.floats(-5, 130) | st.just(math.inf)), min_size=1, max_size=12),
)
@example([(5_665_713_650_754_775, 52.33117911202337)])  # where libraries round the power to different integers
def test_the_texts_below_several_nodes_are_added_in_exact_integers(nodes: list[tuple[int, float]]) -> None:
    """Compared with powers in 60 digits, for counts and powers below and above the range of 64 bits."""
    distinct = sorted({count for count, _ in nodes})
    which = np.array([distinct.index(count) for count, _ in nodes])
    slack = np.array([bits for _, bits in nodes])

    def texts(widening: Decimal) -> int:
        with localcontext(prec=60):
            return sum(
                count if bits >= 62 else min(count, int(2 ** Decimal(bits) * widening)) for count, bits in nodes
            )

    assert texts(Decimal(1)) <= most_texts_within(slack, which, distinct) <= texts(1 + Decimal(2) ** -49)


def test_a_sum_that_is_larger_than_64_bits() -> None:
    counts, which = [2**61 + 1], np.zeros(64, dtype=np.int64)
    assert most_texts_within(np.full(64, 61.9), which, counts) == 64 * (2**61 + 1)
