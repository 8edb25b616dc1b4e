"""The rank of one text among all texts of its template, without scoring them all.

A prefix that already costs more than the text rules out all its completions at once. Counting the remaining leaves
gives the rank. `FrontierBounds` bounds the nodes that are still open when the budget ends, so that the rank lies
between `low` and `high` at any budget.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.checks import list_of_texts, whole_number
from hf_exposure.context import CanaryContext, source_for
from hf_exposure.errors import RowInputError, rows_named
from hf_exposure.extraction.build import build_automaton, check_template
from hf_exposure.extraction.expansion import Search, SearchLimits, SearchProgress
from hf_exposure.extraction.frontier import MOST_OPEN_NODES, FrontierBounds
from hf_exposure.extraction.search import confirmed, moved_bits, prefix_cost
from hf_exposure.extraction.token_automaton import Path, TokenAutomaton, follow_tokens, why_audited
from hf_exposure.records import RankBounds
from hf_exposure.scoring import PathQuery, Scorer, make_scorer

_CONFIRMED_COMPETITORS = 8  # this many of the counted texts are also scored alone


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
    source: str | None = None,
    max_open_nodes: int = MOST_OPEN_NODES,
    progress: bool | None = False,
    context: CanaryContext | None = None,
) -> RankBounds:
    """Certified bounds on the rank of `text` among all texts of `template`; exact if the search is completed.

    `rank = 1 + |{other texts with log-perplexity <= that of text}|`: ties count against the text. A text of
    probability 0 ties with all others of probability 0.

    Args:
        model: a causal language model, or an encoder-decoder one with `source`; a masked model does not support
            search.
        tokenizer: its tokenizer: any fast one, or a slow one if it encodes the pieces of the template separately
            (bytes, characters, words) or the space has at most a million texts.
        text: a text of the template.
        template: the template whose texts are ranked.
        max_expansions: the budget; one expansion is one state with more than one child.
        exclude: texts that do not compete (the other inserted canaries).
        end_token: whether texts end with the tokenizer's end token.
        batch_size: the maximum number of open nodes per call.
        source: the input of an encoder-decoder model: one fixed text, without holes (`{{` is a literal brace).
        max_open_nodes: stop when about this many nodes are open, which limits the memory to 200 bytes each.
        progress: True shows a progress bar, None shows one if stderr is a terminal. Ctrl-C ends the search with the
            bounds found so far.
        context: the prompt or chat before every text, which an attacker would type.

    Returns:
        `RankBounds`: `low <= rank <= high` at any budget. If `certified`, `low < high` only for texts that cost the
        same within 1e-4 bits (0.1 if the model computes in bfloat16, 0.02 in float16). A text of b bits after the
        template's prefix needs at most (characters in the holes) x 2^b expansions.

    Raises:
        InputError: `text` is not a text of the template; `max_expansions`, `batch_size` or `max_open_nodes` is below
            1; or the tokenizer gives two texts the same tokens or fits no automaton.
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
    check_template(template, end_token=end_token)
    limits = _limits(max_expansions, batch_size, max_open_nodes)
    exclude = tuple(list_of_texts("exclude", exclude, "Write [text]."))
    scorer = make_scorer(model, tokenizer, source=source_for(source, template), end_token=end_token, context=context)
    for other in (text, *exclude):
        template.parse(other)
    automaton = build_automaton(template, scorer.encoder, also=(text, *exclude))
    with SearchProgress(progress) as shown:
        return confirmed(scorer, lambda: _search_ranks(scorer, automaton, [text], exclude, limits, shown))[0]


def search_ranks(
    scorer: Scorer,
    automaton: TokenAutomaton,
    texts: Sequence[str],
    *,
    max_expansions: int = 100_000,
    exclude: Iterable[str] = (),
    batch_size: int = 256,
    max_open_nodes: int = MOST_OPEN_NODES,
    progress: SearchProgress | None = None,
    only_exact: bool = False,
) -> list[RankBounds]:
    """Like `rank_bounds`, for any scorer and automaton, and for many texts in one search.

    Nodes are expanded in order of cost, so a search up to one text covers all likelier texts too: together they take
    as long as the text with the highest cost alone, and each gets the same bounds as alone.

    With `only_exact` the search ends when its budget cannot certify another rank, as far as `Search.lacks_budget` can
    tell; the bounds of the other ranks are then wider.
    """
    limits, excluded = _limits(max_expansions, batch_size, max_open_nodes), tuple(exclude)
    return confirmed(scorer, lambda: _search_ranks(scorer, automaton, texts, excluded, limits, progress, only_exact))


def _limits(max_expansions: int, batch_size: int, max_open_nodes: int) -> SearchLimits:
    """`SearchLimits` with a required budget, since a rank without one may need all texts of a template."""
    whole_number("max_expansions", max_expansions, 1)
    # All nodes within the limit are expanded in the end; with a small budget, the nodes with the lowest cost give the
    # tightest bounds.
    limits = SearchLimits(max_expansions, batch_size, max_open_nodes)
    return replace(limits, batch_size=min(batch_size, max(1, max_expansions // 16)))


def _search_ranks(
    scorer: Scorer,
    automaton: TokenAutomaton,
    texts: Sequence[str],
    exclude: Sequence[str],
    limits: SearchLimits,
    progress: SearchProgress | None,
    only_exact: bool = False,
) -> tuple[list[RankBounds], float]:
    """The bounds, and by how many bits the cost of a text changed when it was scored alone."""
    search = Search(scorer, automaton, limits, progress)
    paths = [_required_path(automaton, scorer, text, row) for row, text in enumerate(texts)]
    excluded = {path for path in _paths(automaton, scorer, exclude) if path is not None}
    prefix_bits = prefix_cost(scorer, automaton)
    # Scored along the same path as the search, so that the rounding over a long prefix cancels.
    queries = [PathQuery(path, len(path), np.zeros(0, dtype=np.int64)) for path in paths]
    costs = [answer.run_bits for answer in scorer.path_bits(automaton.prefix, queries)]
    limits_bits = sorted(cost + scorer.tolerance_bits for cost in costs)
    first_look = limits.max_expansions // 16 if only_exact and limits.max_expansions else math.inf
    leaves = _leaves_within(search, limits_bits, limits.batch_size, first_look)
    met = [(text, leaves[path]) for path in _spread(leaves) if (text := follow_tokens(automaton, path)) is not None]
    met.extend(zip(texts, costs, strict=True))
    moved = moved_bits(scorer, [text for text, _ in met], [prefix_bits + cost for _, cost in met], len(met))
    counts = _Counts(
        competitor_costs=np.sort([cost for path, cost in leaves.items() if path not in excluded]),
        leaves=leaves,
        excluded=excluded,
        still_open=FrontierBounds.of(search.frontier, automaton, paths, excluded),
        competitors=automaton.count(automaton.root) - len(excluded),
        tolerance_bits=scorer.tolerance_bits,
        moved_bits=moved,
        all_impossible=prefix_bits == math.inf,
        stopped_by=search.stopped_by,
    )
    bounds = [counts.bounds(path, cost) for path, cost in zip(paths, costs, strict=True)]
    account = search.account()
    found = [
        RankBounds(
            low=low,
            high=high,
            certified=certified,
            log_perplexity_bits=prefix_bits + cost,
            note="; ".join(filter(None, [note, _why_last(prefix_bits + cost), why_audited(automaton)])),
            **account,
        )
        for (low, high, certified, note), cost in zip(bounds, costs, strict=True)
    ]
    return found, moved


def _why_last(cost_bits: float) -> str:
    impossible = "the model gives this text probability 0: every text of the template is at least as likely"
    return impossible if cost_bits == math.inf else ""


def _leaves_within(
    search: Search, limits_bits: Sequence[float], batch_size: int, first_look: float
) -> dict[Path, float]:
    """The texts that cost at most the last of the ascending limits, with their costs, within the budget.

    From `first_look` expansions on, and again at each doubling, the search ends if its budget is too small to find all
    texts within the next limit.
    """
    leaves: dict[Path, float] = {}
    best, limit_bits = math.inf, max(limits_bits, default=-math.inf)
    while search.frontier.cheapest_bits <= limit_bits:
        if search.spent.expansions >= first_look:
            first_look = 2 * search.spent.expansions
            if search.lacks_budget(next(limit for limit in limits_bits if limit >= search.frontier.cheapest_bits)):
                break
        expansions = search.expand_next(batch_size, limit_bits, best)
        if not expansions:
            break
        for expansion in expansions:
            found = {leaf.path: leaf.cost_bits for leaf in expansion.leaves if leaf.cost_bits <= limit_bits}
            leaves |= found
            best = min(best, *found.values(), math.inf)
            search.frontier.push_children(expansion.node, expansion.children_C, expansion.costs_C, limit_bits)
    return leaves


@dataclass(frozen=True)
class _Counts:
    """The findings of a search, and the nodes that it left open.

    Attributes:
        competitor_costs: costs of the competing leaves, ascending.
        leaves: the cost of every leaf by its path.
        excluded: paths that do not compete.
        competitors: the number of texts of the space that compete.
        moved_bits: by how much the cost of a text changes when it is scored alone.
        all_impossible: the text before the first hole has probability 0, so all texts tie.
        stopped_by: the limit that ended the search, if any.
    """

    competitor_costs: np.ndarray
    leaves: dict[Path, float]
    excluded: set[Path]
    still_open: FrontierBounds
    competitors: int
    tolerance_bits: float
    moved_bits: float
    all_impossible: bool
    stopped_by: str

    def bounds(self, path: Path, cost: float) -> tuple[int, int, bool, str]:
        """(low, high, certified, note) of the rank of one text; the note says why it is not certified."""
        limit, sure = cost + self.tolerance_bits, cost - self.tolerance_bits
        competes = path not in self.excluded
        if self.moved_bits:
            note = f"scored alone, a text of this search costs {self.moved_bits:.3g} bits more or less: no bounds"
            return 1, self.competitors + (not competes), False, note
        if self.all_impossible:
            return self.competitors + (not competes), self.competitors + (not competes), True, ""
        itself = self.leaves.get(path, math.inf) if competes else math.inf
        low = 1 + int(np.searchsorted(self.competitor_costs, sure, side="left")) - (itself < sure)
        if not self.still_open.is_closed(limit):
            met = int(np.searchsorted(self.competitor_costs, limit, side="right")) - (competes and path in self.leaves)
            below = self.still_open.most_texts(limit, path if competes else None)
            # If several paths spell one text, it may be counted below several open nodes.
            high = min(1 + met + below, self.competitors + (not competes))
            return low, high, False, f"{self.stopped_by}; low and high are still valid"
        if path not in self.leaves:
            note = f"figures moved by more than {self.tolerance_bits} bits between batches: load the model in float32"
            return low, self.competitors + (not competes), False, note
        met = int(np.searchsorted(self.competitor_costs, limit, side="right")) - competes
        return low, 1 + met, True, ""


def _spread(leaves: dict[Path, float]) -> list[Path]:
    """A few of the leaves, from the lowest to the highest cost."""
    by_cost = sorted(leaves, key=leaves.__getitem__)
    numbers = np.linspace(0, len(by_cost) - 1, num=min(_CONFIRMED_COMPETITORS, len(by_cost))).astype(int)
    return [by_cost[number] for number in np.unique(numbers).tolist()]


def _paths(automaton: TokenAutomaton, scorer: Scorer, texts: Sequence[str]) -> list[Path | None]:
    """The tokens of each text after the automaton's prefix; None if it is no text of the template."""
    length = len(automaton.prefix)
    return [
        ids[length:] if ids[:length] == automaton.prefix and follow_tokens(automaton, ids[length:]) == text else None
        for text, ids in zip(texts, scorer.encode(texts).ids, strict=True)
    ]


def _required_path(automaton: TokenAutomaton, scorer: Scorer, text: str, row: int) -> Path:
    (path,) = rows_named(lambda _: f"text {row}", lambda: _paths(automaton, scorer, [text]))
    if path is None:
        rule = f"must be a text of the template whose encoding the automaton ({automaton.name}) holds"
        raise RowInputError("text", rule, row, "Build the automaton with also=[text].")
    return path
