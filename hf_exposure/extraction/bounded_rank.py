"""The rank of one text among all texts of its template, without scoring them all.

A prefix that already costs more than the text rules out all its completions at once. What is left at the leaves is
the rank; what is still open when the budget ends is bounded, since a node of cost c has at most 2^(C - c) texts within
C bits: their probabilities sum to at most 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.errors import InputError
from hf_exposure.extraction.character_automaton import build_automaton
from hf_exposure.extraction.expansion import SearchCost, expand
from hf_exposure.extraction.frontier import Frontier, Node
from hf_exposure.extraction.token_automaton import TokenAutomaton
from hf_exposure.records import RankBounds
from hf_exposure.scoring import CausalScorer, Scorer

__all__ = ["TIE_TOLERANCE_BITS", "hole_bits", "rank_bounds", "search_ranks"]

# Two computations of one text's bits in different batches agree within this in float32; closer costs count as ties.
TIE_TOLERANCE_BITS = 1e-4


def rank_bounds(
    model: nn.Module,
    tokenizer: Any,
    text: str,
    template: CanaryTemplate,
    max_expansions: int = 100_000,
    exclude: Iterable[str] = (),
    *,
    end_token: bool = False,
    batch_size: int = 256,
) -> RankBounds:
    """Certified bounds on the rank of `text` among all texts of `template`: exact when the search closes.

    `rank = 1 + |{other texts with log-perplexity <= that of text}|`: ties count against the text.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer; it must encode each character of the template's holes by itself.
        text: a text of the template.
        template: the texts to rank among.
        max_expansions: budget; one expansion is one state with more than one child.
        exclude: texts that do not compete (the other inserted canaries).
        end_token: whether texts end with the tokenizer's end token.
        batch_size: most open nodes per call.

    Returns:
        `RankBounds`: `low <= rank <= high` at any budget. When `certified`, `low < high` only for texts that cost the
        same within 1e-4 bits. A text of b bits after the template's prefix needs at most (characters in the holes) x
        2^b expansions.

    Raises:
        InputError: `text` is not of the template; `max_expansions` or `batch_size` below 1; a tokenizer that merges
            the holes' characters.
        NonFiniteScoreError: the model returned NaN.

    Source: ours; the rank is Carlini et al. 2019, Definition 2.

    Example:
        >>> from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel
        >>> from hf_exposure import CanaryTemplate, Digits
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16))
        >>> bounds = rank_bounds(model, ByT5Tokenizer(), "pin 123", CanaryTemplate("pin {pin}", pin=Digits(3)))
        >>> bounds.certified, 1 <= bounds.low <= bounds.high <= 1000
        (True, True)
    """
    scorer = CausalScorer(model, tokenizer, end_token=end_token)
    template.parse(text)
    return search_ranks(
        scorer,
        build_automaton(template, scorer.encoder),
        [text],
        max_expansions=max_expansions,
        exclude=exclude,
        batch_size=batch_size,
    )[0]


def hole_bits(scorer: Scorer, automaton: TokenAutomaton, log_perplexity_bits: float) -> float:
    """b: what of a text's bits lies after the automaton's prefix. Its rank is at most 2^b."""
    return log_perplexity_bits - float(np.nansum(scorer.prefix_bits(automaton.prefix)))


def search_ranks(
    scorer: Scorer,
    automaton: TokenAutomaton,
    texts: Sequence[str],
    *,
    max_expansions: int = 100_000,
    exclude: Iterable[str] = (),
    batch_size: int = 256,
) -> list[RankBounds]:
    """As `rank_bounds`, for any scorer and automaton, and for many texts in one search.

    The cheapest node is always expanded first, so the search for a dear text goes through that for each cheaper one:
    together they cost what the dearest costs alone, and each text gets the bounds that it would get alone.
    """
    for name, value in (("max_expansions", max_expansions), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(name, "must be at least 1", value, f"Pass {name}=1 or more.")
    started = time.perf_counter()
    log_perplexities = scorer.sequence_bits(scorer.encode(texts))
    costs = np.array([hole_bits(scorer, automaton, float(bits)) for bits in log_perplexities])
    limit = float(costs.max()) + TIE_TOLERANCE_BITS
    silent, wanted = set(exclude), set(texts)
    spent = SearchCost()
    frontier = Frontier(Node(0.0, (), automaton.prefix_text, automaton.root))
    rivals: list[float] = []
    own: dict[str, float] = {}
    while frontier and frontier.cheapest_bits <= limit and spent.expansions < max_expansions:
        nodes = frontier.pop(min(batch_size, max_expansions - spent.expansions), limit)
        for expansion in expand(scorer, automaton, nodes, spent):
            for leaf in expansion.leaves:
                if leaf.text in wanted:
                    own[leaf.text] = leaf.cost_bits
                if leaf.text not in silent:
                    rivals.append(leaf.cost_bits)
            frontier.push_children(expansion.node, expansion.moves, expansion.costs_bits, limit)
    counts = _Counts(np.sort(rivals), {text: bits for text, bits in own.items() if text not in silent}, frontier)
    seconds = time.perf_counter() - started
    return [
        counts.bounds(automaton, text, float(cost), float(bits), spent, max_expansions, seconds)
        for text, cost, bits in zip(texts, costs, log_perplexities, strict=True)
    ]


@dataclass(frozen=True)
class _Counts:
    """What a search found: costs of the competing leaves, ascending; those of the texts themselves; what is open."""

    rivals: np.ndarray
    own: dict[str, float]
    frontier: Frontier

    def bounds(
        self,
        automaton: TokenAutomaton,
        text: str,
        cost: float,
        log_perplexity_bits: float,
        spent: SearchCost,
        max_expansions: int,
        seconds: float,
    ) -> RankBounds:
        limit = cost + TIE_TOLERANCE_BITS
        certified = self.frontier.cheapest_bits > limit
        itself = self.own.get(text, math.inf)
        low = int(np.searchsorted(self.rivals, cost - TIE_TOLERANCE_BITS, side="right"))
        high = int(np.searchsorted(self.rivals, limit, side="right"))
        still_open = 0 if certified else _texts_within(self.frontier, automaton, limit)
        return RankBounds(
            low=1 + low - (itself <= cost - TIE_TOLERANCE_BITS),
            high=1 + high - (itself <= limit) + still_open,
            certified=certified,
            expansions=spent.expansions,
            forward_passes=spent.forward_passes,
            model_rows=spent.model_rows,
            seconds=seconds,
            log_perplexity_bits=log_perplexity_bits,
            note="" if certified else f"stopped at max_expansions={max_expansions}; low and high hold all the same",
        )


def _texts_within(frontier: Frontier, automaton: TokenAutomaton, limit_bits: float) -> int:
    """Most texts below the open nodes that can cost at most `limit_bits`."""
    total = 0
    for node in frontier.open_nodes():
        slack = limit_bits - node.cost_bits
        if slack >= 0.0:
            below = automaton.count(node.state)
            # 2^slack is a float: beyond 1,000 bits only the exact count can be the smaller.
            total += below if slack > 1000 else min(below, math.floor(2.0**slack))
    return total
