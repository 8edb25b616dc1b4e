"""Token trees, rows and sums against naive recursion over the sequences themselves."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_exposure.scoring.forward import ModelShape, Rows, chain_rows, choose_row_width, packed_rows
from hf_exposure.scoring.probe import probe_for
from hf_exposure.scoring.token_tree import PathQuery, PathTree, SequenceTree, TokenTree

few = settings(max_examples=50, deadline=None, derandomize=True)
SEQUENCES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6).map(tuple), min_size=1, max_size=20)


def path_of(tree: TokenTree, vertex: int) -> tuple[int, ...]:
    """The tokens from the top to a fed vertex, prefix included."""
    tokens: list[int] = []
    while vertex >= 0:
        tokens.append(int(tree.token_M[vertex]))
        vertex = int(tree.parent_M[vertex])
    return (*tree.prefix_P.tolist(), *tokens[::-1])


def prefixes(sequences: list[tuple[int, ...]]) -> set[tuple[int, ...]]:
    return {sequence[:length] for sequence in sequences for length in range(1, len(sequence) + 1)}


@few
@given(SEQUENCES)
def test_every_distinct_beginning_that_goes_on_is_fed_once(sequences: list[tuple[int, ...]]) -> None:
    tree = SequenceTree.of(sequences, 1).tree
    fed = [path_of(tree, vertex) for vertex in range(tree.size)]
    goes_on = {beginning[:-1] for beginning in prefixes(sequences)}
    shared = tuple(tree.prefix_P.tolist())
    assert all(sequence[: len(shared)] == shared for sequence in sequences)
    assert sorted(fed) == sorted(beginning for beginning in goes_on if len(beginning) > len(shared))
    assert fed == sorted(fed), "preorder, siblings by token"
    read = [
        (*(shared if parent < 0 else fed[parent]), token)
        for parent, token in zip(tree.edge_parent_E.tolist(), tree.edge_token_E.tolist(), strict=True)
    ]
    assert sorted(read) == sorted(beginning for beginning in prefixes(sequences) if len(beginning) > len(shared))
    for vertex, end in enumerate(tree.end_M.tolist()):
        below = [other for other in range(tree.size) if fed[other][: len(fed[vertex])] == fed[vertex]]
        assert below == list(range(vertex, end))


@few
@given(SEQUENCES, st.integers(1, 4))
def test_totals_by_adding_along_each_sequence(sequences: list[tuple[int, ...]], first_scored: int) -> None:
    def bits(beginning: tuple[int, ...]) -> float:
        return float(random.Random(str(beginning)).randrange(1, 1000))

    arranged = SequenceTree.of(sequences, first_scored)
    tree, shared = arranged.tree, tuple(arranged.tree.prefix_P.tolist())
    read = zip(tree.edge_parent_E.tolist(), tree.edge_token_E.tolist(), strict=True)
    edges = [bits((*(shared if parent < 0 else path_of(tree, parent)), token)) for parent, token in read]
    prefix_bits = np.array([bits(shared[: place + 1]) if place else np.nan for place in range(len(shared))])
    expected = [
        sum(bits(sequence[: place + 1]) for place in range(first_scored, len(sequence))) for sequence in sequences
    ]
    assert arranged.totals(np.array(edges), prefix_bits).tolist() == expected


@few
@given(SEQUENCES, st.integers(1, 9), st.integers(1, 5))
def test_every_fed_vertex_is_own_in_one_row_with_its_ancestors(
    sequences: list[tuple[int, ...]], width: int, batch: int
) -> None:
    tree = SequenceTree.of(sequences, 1).tree
    for rows in (packed_rows(tree, width), chain_rows(tree)):
        owned = [
            vertex for start, stop in zip(rows.start_R, rows.stop_R, strict=True) for vertex in range(start, stop)
        ]
        assert owned == list(range(tree.size))
        for first in range(0, len(rows), batch):
            check_slots(tree, rows, first, min(first + batch, len(rows)))


def check_slots(tree: TokenTree, rows: Rows, first: int, last: int) -> None:
    slots = rows.slots(tree, np.arange(first, last), int(rows.width_R.max()))
    for row, line in zip(range(first, last), slots.tolist(), strict=True):
        held = [vertex for vertex in line if vertex < tree.size]
        assert len(held) == len(set(held)) == rows.width_R[row] and line[: len(held)] == held, (
            "padding is on the right"
        )
        for vertex in held:
            parent = int(tree.parent_M[vertex])
            assert parent < 0 or held.index(parent) < held.index(vertex)


@few
@given(SEQUENCES)
def test_chain_rows_are_chains(sequences: list[tuple[int, ...]]) -> None:
    tree = SequenceTree.of(sequences, 1).tree
    rows = chain_rows(tree)
    for line in rows.slots(tree, np.arange(len(rows)), int(rows.width_R.max())).tolist() if len(rows) else []:
        held = [vertex for vertex in line if vertex < tree.size]
        assert [int(tree.parent_M[vertex]) for vertex in held] == [-1, *held[:-1]]


@few
@given(SEQUENCES, st.integers(8, 40))
def test_rows_are_no_wider_than_asked_unless_a_path_is(sequences: list[tuple[int, ...]], width: int) -> None:
    tree = SequenceTree.of(sequences, 1).tree
    assert packed_rows(tree, width).width_R.max(initial=0) <= width
    if tree.size:
        chosen = choose_row_width(tree, ModelShape(parameters=1000, layers=1, hidden=8, heads=2))
        assert chosen >= tree.depth_M.max()


@pytest.mark.parametrize("digits, inner", [(1, 0), (2, 10), (3, 110), (4, 1110)])
def test_inner_nodes_of_a_digit_space(digits: int, inner: int) -> None:
    """1 + 10 + 100 inner nodes for three digits; the first of them is the end of the shared prefix."""
    sequences = [(7, 7, *number) for number in itertools.product(range(10), repeat=digits)]
    tree = SequenceTree.of(sequences, 1).tree
    assert tree.prefix_P.tolist() == [7, 7] and tree.size == inner
    assert len(tree.edge_token_E) == sum(10**depth for depth in range(1, digits + 1))


@few
@given(SEQUENCES)
def test_paths_by_adding_along_each_query(sequences: list[tuple[int, ...]]) -> None:
    def bits(beginning: tuple[int, ...]) -> float:
        return float(random.Random(str(beginning)).randrange(1, 1000))

    prefix = (9, 9)
    queries = [
        PathQuery(tokens, random.Random(str(tokens)).randint(0, len(tokens)), np.arange(place % 4))
        for place, tokens in enumerate(sequences)
    ]
    asked = PathTree.of(prefix, queries)
    edges = []
    for parent, token in zip(asked.tree.edge_parent_E.tolist(), asked.tree.edge_token_E.tolist(), strict=True):
        edges.append(bits((*(prefix if parent < 0 else path_of(asked.tree, parent)), token)))
    for query, answer in zip(queries, asked.answers(np.array(edges)), strict=True):
        path, known = (*prefix, *query.tokens), len(prefix) + len(query.tokens) - query.run
        assert answer.run_bits == sum(bits(path[: place + 1]) for place in range(known, len(path)))
        assert answer.children_bits.tolist() == [bits((*path, child)) for child in query.children.tolist()]


@few
@given(SEQUENCES, st.integers(0, 40))
def test_the_tree_that_a_model_is_tried_on_can_fail(sequences: list[tuple[int, ...]], spare: int) -> None:
    """It branches at the prefix and below it, and is exactly as long as requested."""
    tree = SequenceTree.of(sequences, 1).tree
    length = max(2, len(tree.prefix_P) + int(tree.depth_M.max(initial=0)) + spare)
    tried = probe_for(tree, length, length).tree.tree
    assert len(tried.prefix_P) + tried.depth_M.max() == length
    assert (tried.depth_M == 1).sum() >= 2, "siblings see each other where a mask is ignored"
    assert packed_rows(tried, 1024).width_R.max() > tried.depth_M.max()
