"""The likeliest texts of a template, exactly: batched best-first search.

Nodes are expanded in order of cost, so a text that comes out is cheaper than all that are still to come. The paper's
batched search runs on past its first answer; here a batch only ever expands open nodes that are cheaper than the k-th
best text found, and the search ends when none is, which keeps the guarantee whatever the batch.

What a certificate names is scored again, alone, before it is given. A search feeds many texts at once, after a shared
prefix and by a cache. A model whose answer depends on any of that may pass every check and still give one text of a
search another cost than a user gets who scores it alone. The search is then repeated in calls of one text
(`confirmed`).

Source: Carlini et al. 2019, "The Secret Sharer", Section 8.1 (a search after Dijkstra over prefixes).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from torch import nn

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.checks import flag, whole_number
from hf_exposure.context import CanaryContext, source_for
from hf_exposure.extraction.build import build_automaton, check_template
from hf_exposure.extraction.expansion import Search, SearchLimits, SearchProgress
from hf_exposure.extraction.frontier import MOST_OPEN_NODES
from hf_exposure.extraction.token_automaton import TokenAutomaton, why_audited
from hf_exposure.records import Candidate, Extraction
from hf_exposure.scoring import Scorer, make_scorer

Found = TypeVar("Found")

MOST_CONFIRMED = 64
"""How many of a search's texts are scored alone at most."""

_AGREEMENT = 20.0  # two costs of one text are different figures if they differ by this many times the scorer's noise
_NOTICEABLE_BITS = 1e-3


def extract(
    model: nn.Module,
    tokenizer: Any,
    template: CanaryTemplate,
    top_k: int = 1,
    batch_size: int = 256,
    max_expansions: int | None = None,
    *,
    end_token: bool = False,
    source: str | None = None,
    max_open_nodes: int = MOST_OPEN_NODES,
    unbatched: bool = False,
    progress: bool | None = False,
    context: CanaryContext | None = None,
) -> Extraction:
    """The `top_k` likeliest texts of `template` under `model`, cheapest first, with a certificate.

    Log-perplexities are in bits, computed in float32 and summed in float64; two texts closer than 1e-3 bits may
    change places with the hardware. Equal costs are ordered by text.

    Args:
        model: a causal language model, or an encoder-decoder one with `source`; a masked one allows no search.
        tokenizer: its tokenizer: any fast one; a slow one where it keeps the pieces of the template apart (bytes,
            characters, words), or for a space of at most a million texts.
        template: the texts to search.
        top_k: how many to return; all of them where the space is smaller.
        batch_size: most open nodes per call; the batch grows up to it from 1, so an easy secret costs few rows.
        max_expansions: stop after this many; None searches to the end.
        end_token: whether texts end with the tokenizer's end token.
        source: what an encoder-decoder model translates from: one fixed text, without holes (`{{` is a literal brace).
        max_open_nodes: stop when about this many are open, which bounds the memory: 200 bytes each at most.
        unbatched: one open node per call, the cheapest: the paper's own search, with the same answer, for comparison.
        progress: True shows a bar, None shows one where stderr is a terminal.
        context: the prompt or chat before every text: what an attacker would type.

    Returns:
        `Extraction`. `certified` is False when `max_expansions`, `max_open_nodes` or Ctrl-C ended the search; the
        candidates are then the best texts found so far, maybe none. Texts of probability 0 are no candidates:
        `rest_is_impossible` is True where fewer than `top_k` others are left. It is so too where the text before the
        first hole has probability 0: candidates are then ordered by what follows it.

    Raises:
        InputError: `top_k`, `batch_size`, `max_expansions` or `max_open_nodes` below 1; a tokenizer that gives two
            texts the same tokens, or that no automaton explains; a template in which one text begins another, without
            `end_token=True`.
        NonFiniteScoreError: the model returned NaN.

    Source: Carlini et al. 2019, Section 8.1.

    Example:
        >>> from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel
        >>> from hf_exposure import CanaryTemplate, Digits
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16))
        >>> found = extract(model, ByT5Tokenizer(), CanaryTemplate("pin {pin}", pin=Digits(3)), top_k=5)
        >>> len(found.candidates), found.certified
        (5, True)
    """
    check_template(template, end_token=end_token)
    whole_number("top_k", top_k, 1)
    limits = SearchLimits(max_expansions, batch_size, max_open_nodes)
    if flag("unbatched", unbatched):
        limits = replace(limits, batch_size=1)
    scorer = make_scorer(model, tokenizer, source=source_for(source, template), end_token=end_token, context=context)
    automaton = build_automaton(template, scorer.encoder)
    with SearchProgress(progress) as shown:
        return confirmed(scorer, lambda: _search_likeliest(scorer, automaton, top_k, limits, shown))


def search_likeliest(
    scorer: Scorer,
    automaton: TokenAutomaton,
    *,
    top_k: int = 1,
    batch_size: int = 256,
    max_expansions: int | None = None,
    max_open_nodes: int = MOST_OPEN_NODES,
    progress: SearchProgress | None = None,
) -> Extraction:
    """As `extract`, for any scorer and any automaton."""
    whole_number("top_k", top_k, 1)
    limits = SearchLimits(max_expansions, batch_size, max_open_nodes)
    return confirmed(scorer, lambda: _search_likeliest(scorer, automaton, top_k, limits, progress))


def _search_likeliest(
    scorer: Scorer, automaton: TokenAutomaton, top_k: int, limits: SearchLimits, progress: SearchProgress | None
) -> tuple[Extraction, float]:
    """What was found, and by how many bits a text of it moved when it was scored alone."""
    search = Search(scorer, automaton, limits, progress)
    prefix_bits = prefix_cost(scorer, automaton)
    best: list[tuple[float, str]] = []
    limit = math.inf
    # An open node that costs as much as the k-th best text cannot lead to a cheaper one.
    while search.frontier.cheapest_bits < limit:
        # A text of n characters takes n calls one after the other, however wide they are. A quarter of what was
        # fed so far is a batch that costs a memorized text n rows, and not 2^n as doubling does. Forced tails count:
        # they are no expansions, and there may be a thousand after one.
        batch_size = min(limits.batch_size, max(1, search.spent.model_rows // 4))
        expansions = search.expand_next(batch_size, limit, best[0][0] if best else math.inf)
        if not expansions:
            break
        for expansion in expansions:
            for leaf in expansion.leaves:
                if leaf.cost_bits < math.inf:  # a text of probability 0 is no answer to what is likeliest
                    bisect.insort(best, (leaf.cost_bits, leaf.text))
            del best[top_k:]
            limit = best[top_k - 1][0] if len(best) >= top_k else math.inf
            search.frontier.push_children(expansion.node, expansion.children_C, expansion.costs_C, limit)
    certified = search.frontier.cheapest_bits >= limit
    stop = "" if certified else f"{search.stopped_by}; a likelier text may be left"
    impossible = _impossible(prefix_bits, certified, len(best), top_k, automaton)
    costs_bits = [prefix_bits + cost for cost, _ in best]
    moved = moved_bits(scorer, [text for _, text in best], costs_bits)
    found = Extraction(
        candidates=tuple(
            Candidate(text=text, log_perplexity_bits=bits) for (_, text), bits in zip(best, costs_bits, strict=True)
        ),
        certified=certified and not moved,
        note="; ".join(_notes(scorer.tolerance_bits, [stop, _why_moved(moved), impossible, why_audited(automaton)])),
        rest_is_impossible=bool(impossible),
        **search.account(),
    )
    return found, moved


def prefix_cost(scorer: Scorer, automaton: TokenAutomaton) -> float:
    """Bits of the scored tokens of the automaton's prefix, which every text begins with."""
    return float(np.nansum(scorer.prefix_bits(automaton.prefix)))


def confirmed(scorer: Scorer, search: Callable[[], tuple[Found, float]]) -> Found:
    """What `search` finds; where a text of it moved or a batch failed, what it finds with every text read alone.

    Args:
        search: returns what it found, and by how many bits a text of it moved.
    """
    began_in = scorer.mode
    found, moved = search()
    # Or where a batch was found wrong on the way: what was read before it may be wrong as well.
    if (moved or scorer.lost_trust) and began_in != "alone":
        scorer.distrust_batches()
        found, _ = search()
    return found


def moved_bits(scorer: Scorer, texts: Sequence[str], costs_bits: Sequence[float], most: int = MOST_CONFIRMED) -> float:
    """The largest difference between a text's cost in the search and alone; 0.0 where all agree within rounding.

    Args:
        scorer: that the search used.
        texts, costs_bits: what it found, whole log-perplexities; of more than `most`, a spread over all is compared.
        most: how many are scored alone.
    """
    if not len(texts):
        return 0.0
    chosen = np.unique(np.linspace(0, len(texts) - 1, num=min(most, len(texts))).astype(int)).tolist()
    alone = scorer.alone_bits(scorer.encode([texts[number] for number in chosen]))
    found = np.array([costs_bits[number] for number in chosen])
    differ = ~np.isclose(alone, found, rtol=0.0, atol=_AGREEMENT * scorer.tolerance_bits)
    return float(np.nan_to_num(np.abs(alone[differ] - found[differ]), nan=np.inf).max(initial=0.0))


def _why_moved(moved_bits: float) -> str:
    """Why the figures of a search are no certificate."""
    return f"scored alone, a text found here costs {moved_bits:.3g} bits more or less" if moved_bits else ""


def _impossible(prefix_bits: float, certified: bool, found: int, top_k: int, automaton: TokenAutomaton) -> str:
    """Why what is not among the candidates has probability 0; "" where that is not known."""
    if prefix_bits == math.inf:
        return "the model gives the text before the first hole probability 0, and so every text of the template"
    if not certified or found >= min(top_k, automaton.count(automaton.root)):
        return ""
    texts = "all other texts" if found else "all texts"
    return f"only {found} of {top_k} texts have a positive probability: the model gives {texts} probability 0"


def _notes(tolerance_bits: float, reasons: list[str]) -> list[str]:
    """Notes on the order of the texts and on what limits the search."""
    notes = [reason for reason in reasons if reason]
    if tolerance_bits > _NOTICEABLE_BITS:
        notes.append(
            f"in this precision costs move by {tolerance_bits} bits: texts nearer than that may change places"
        )
    return notes
