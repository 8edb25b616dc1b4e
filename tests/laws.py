"""Assertions that any scorer must pass, and any search over it: a new `Scorer` is tested by calling them.

Expected figures come from `brute_force_bits`: one text at a time through the bare model; no cache, padding or tree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from hf_exposure.extraction import TokenAutomaton, search_likeliest, search_ranks
from hf_exposure.scoring import PathQuery, Scorer

TOLERANCE_BITS = 1e-3
TIE_BITS = 2e-4
"""Texts closer than this may count as ties."""


def brute_force_bits(model: nn.Module, ids: Sequence[int], first_scored: int) -> float:
    """`sum_i -log2 p(ids[i] | ids[:i])` from `first_scored` on, in float64."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(ids)])).logits[0].double()
    log_probabilities = torch.log_softmax(logits, dim=-1)
    total = 0.0
    for position in range(first_scored, len(ids)):
        total -= log_probabilities[position - 1, ids[position]].item() / math.log(2.0)
    return total


def check_scorer(scorer: Scorer, texts: Sequence[str], *, tolerance: float = TOLERANCE_BITS) -> None:
    """All the laws of a scorer, on at least two texts."""
    check_company(scorer, texts, tolerance)
    check_token_sums(scorer, texts, tolerance)
    check_paths(scorer, texts, tolerance)
    check_chain_rule(scorer, texts, tolerance)


def check_company(scorer: Scorer, texts: Sequence[str], tolerance: float) -> None:
    """Neither the other texts of a batch, nor their order, number or length, change a text's figure."""
    together = _score(scorer, texts)
    close(together, [_score(scorer, [text])[0] for text in texts], tolerance)
    order = np.random.default_rng(0).permutation(len(texts))
    close(_score(scorer, [texts[i] for i in order]), together[order], tolerance)
    close(_score(scorer, texts[: len(texts) // 2]), together[: len(texts) // 2], tolerance)
    longer = max(texts, key=len) + texts[0] + texts[-1]  # all others are padded to its length
    close(_score(scorer, [longer, *texts])[1:], together, tolerance)
    doubled = _score(scorer, [*texts, *texts])
    assert (doubled[: len(texts)] == doubled[len(texts) :]).all(), "equal texts must get equal figures"
    close(doubled[: len(texts)], together, tolerance)


def check_token_sums(scorer: Scorer, texts: Sequence[str], tolerance: float) -> None:
    """Token scores sum to the sequence score; context is NaN, and nothing else is."""
    encoded = scorer.encode(texts)
    for ids, total in zip(encoded.ids, scorer.sequence_bits(encoded), strict=True):
        bits = scorer.prefix_bits(ids)
        assert bits.shape == (len(ids),)
        assert np.isnan(bits[: encoded.first_scored]).all() and (bits[encoded.first_scored :] >= 0).all()
        close(math.fsum(bits[encoded.first_scored :]), total, tolerance)


def check_paths(scorer: Scorer, texts: Sequence[str], tolerance: float) -> None:
    """Path scores are differences of sequence scores, in whatever company a path is asked."""
    encoded = scorer.encode(texts)
    totals = scorer.sequence_bits(encoded)
    prefix = encoded.ids[0][: _shared_length(encoded.ids)]
    before = float(np.nansum(scorer.prefix_bits(prefix)))
    bodies = [ids[len(prefix) :] for ids in encoded.ids]
    nothing = np.zeros(0, dtype=np.int64)
    whole = scorer.path_bits(prefix, [PathQuery(body, len(body), nothing) for body in bodies])
    close([before + answer.run_bits for answer in whole], totals, tolerance)
    read = scorer.path_bits(prefix, [PathQuery(body[:-1], 0, np.array(body[-1:])) for body in bodies])
    fed = scorer.path_bits(prefix, [PathQuery(body, 1, nothing) for body in bodies])
    for body, total, first, second in zip(bodies, totals, read, fed, strict=True):
        assert first.run_bits == 0.0 and len(second.children_bits) == 0
        close(first.children_bits[0], second.run_bits, tolerance)
        inner = scorer.path_bits(prefix, [PathQuery(body[:-1], len(body) - 1, nothing)])[0].run_bits
        close(before + inner + first.children_bits[0], total, tolerance)


def check_chain_rule(scorer: Scorer, texts: Sequence[str], tolerance: float) -> None:
    """Runs add up at any cut, and the children's probabilities, never renormalised, to at most 1."""
    encoded = scorer.encode(texts)
    ids = max(encoded.ids, key=len)
    prefix, body = ids[:1], ids[1:]
    known = np.array(sorted({token for text_ids in encoded.ids for token in text_ids}))
    queries = [PathQuery(body[:cut], 1 if cut else 0, known) for cut in range(len(body) + 1)]
    answers = scorer.path_bits(prefix, queries)
    whole = scorer.path_bits(prefix, [PathQuery(body, len(body), known)])[0]
    close(math.fsum(answer.run_bits for answer in answers), whole.run_bits, tolerance)
    for token, answer, following in zip(body, answers, answers[1:], strict=False):
        close(answer.children_bits[known == token], [following.run_bits], tolerance)
        assert (answer.children_bits >= 0).all() and (2.0**-answer.children_bits).sum() <= 1 + tolerance


def check_search(
    scorer: Scorer,
    automaton: TokenAutomaton,
    texts: Sequence[str],
    costs: Sequence[float] | np.ndarray,
    *,
    budgets: Sequence[int] = (1, 2, 3, 5, 8, 13, 21),
    tolerance: float = TOLERANCE_BITS,
) -> None:
    """The laws of search on a whole space: `texts`, and their `costs` found in some other way."""
    costs_N = np.asarray(costs, dtype=np.float64)
    for top_k in (1, min(10, len(texts)), len(texts) + 5):
        check_likeliest(scorer, automaton, texts, costs_N, top_k, tolerance)
    order = np.argsort(costs_N, kind="stable")
    for place in sorted({0, min(9, len(texts) - 1), min(99, len(texts) - 1), len(texts) - 1}):
        check_rank(scorer, automaton, texts, costs_N, int(order[place]), budgets)


def check_likeliest(
    scorer: Scorer, automaton: TokenAutomaton, texts: Sequence[str], costs: np.ndarray, top_k: int, tolerance: float
) -> None:
    """Best-first = brute force: the k smallest costs, each with a text that has it."""
    cost_of = dict(zip(texts, costs, strict=True))
    found = search_likeliest(scorer, automaton, top_k=top_k)
    assert found.certified and found.note == ""
    names = [candidate.text for candidate in found.candidates]
    assert len(set(names)) == len(names) == min(top_k, len(texts))
    figures = [candidate.log_perplexity_bits for candidate in found.candidates]
    assert figures == sorted(figures)
    close(figures, np.sort(costs)[:top_k], tolerance)
    close(figures, [cost_of[name] for name in names], tolerance)


def check_rank(
    scorer: Scorer,
    automaton: TokenAutomaton,
    texts: Sequence[str],
    costs: np.ndarray,
    own: int,
    budgets: Sequence[int],
) -> None:
    """Bounded rank = brute-force rank, and at every budget the bounds hold it."""
    low, high = brute_force_rank(costs, own)
    exact = search_ranks(scorer, automaton, [texts[own]])[0]
    assert exact.certified and exact.note == ""
    assert low <= exact.low <= exact.high <= high
    close(exact.log_perplexity_bits, costs[own], TOLERANCE_BITS)
    for budget in budgets:
        partial = search_ranks(scorer, automaton, [texts[own]], max_expansions=budget, batch_size=4)[0]
        assert partial.expansions <= budget
        assert 1 <= partial.low <= high and low <= partial.high <= len(texts), (budget, partial, low, high)
        assert partial.certified == (budget >= exact.expansions), (budget, partial, exact)
        assert partial.certified or f"max_expansions={budget}" in partial.note


def brute_force_rank(costs: np.ndarray, own: int) -> tuple[int, int]:
    """1 + how many other texts cost at most as much, counting none and all of those within `TIE_BITS`."""
    others = np.delete(costs, own)
    return 1 + int((others < costs[own] - TIE_BITS).sum()), 1 + int((others <= costs[own] + TIE_BITS).sum())


def close(found: object, expected: object, tolerance: float) -> None:
    np.testing.assert_allclose(
        np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64), rtol=0.0, atol=tolerance
    )


def _score(scorer: Scorer, texts: Sequence[str]) -> np.ndarray:
    bits = scorer.sequence_bits(scorer.encode(texts))
    assert bits.dtype == np.float64 and bits.shape == (len(texts),)
    return bits


def _shared_length(sequences: Sequence[Sequence[int]]) -> int:
    """How many first tokens all share, leaving at least one to each."""
    shared = 0
    while shared < min(map(len, sequences)) - 1 and len({ids[shared] for ids in sequences}) == 1:
        shared += 1
    return shared
