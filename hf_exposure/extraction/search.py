"""The likeliest texts of a template, exactly: batched best-first search.

Source: Carlini et al. 2019, "The Secret Sharer", Section 8.2 and Algorithm 1 (Dijkstra's search over prefixes). The
paper's batched search runs on past its first answer; here a batch only ever expands open nodes that are cheaper than
the k-th best text found, and the search ends when none is, which keeps the guarantee whatever the batch.
"""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from torch import nn

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.checks import flag
from hf_exposure.context import CanaryContext
from hf_exposure.extraction.build import build_automaton, check_template
from hf_exposure.extraction.expansion import SearchCost, SearchWatch, check_limits, expand, next_nodes, stopped_at
from hf_exposure.extraction.frontier import MOST_OPEN_NODES, Frontier
from hf_exposure.extraction.token_automaton import TokenAutomaton, why_audited
from hf_exposure.records import Candidate, Extraction
from hf_exposure.scoring import Scorer, make_scorer, source_for

# What a certificate names is scored again alone before it is given.
#
# A search feeds many texts at once, after a shared prefix and by a cache. A model whose answer depends on any of that
# may pass every check and still give one text of a search another cost than a user gets who scores it alone. Then the
# search is made again, in calls of one text.

Found = TypeVar("Found")

MOST_CONFIRMED = 64
"""How many of a search's texts are scored alone at most."""
# As many times the scorer's noise are another figure.
_AGREEMENT = 20.0


def moved_bits(scorer: Scorer, texts: Sequence[str], costs_bits: Sequence[float], most: int = MOST_CONFIRMED) -> float:
    """The largest difference between a text's cost in the search and alone; 0.0 where all agree within rounding.

    Args:
        scorer: that the search used.
        texts, costs_bits: what it found, whole log-perplexities; of more than `most`, a spread over all is compared.
    """
    if not len(texts):
        return 0.0
    chosen = np.unique(np.linspace(0, len(texts) - 1, num=min(most, len(texts))).astype(int)).tolist()
    alone = scorer.alone_bits(scorer.encode([texts[number] for number in chosen]))
    found = np.array([costs_bits[number] for number in chosen])
    differ = ~np.isclose(alone, found, rtol=0.0, atol=_AGREEMENT * scorer.noise_bits)
    return float(np.nan_to_num(np.abs(alone[differ] - found[differ]), nan=np.inf).max(initial=0.0))


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
        context: what stands before every text, a prompt or a chat: what a stranger would type.

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

    Source: Carlini et al. 2019, Section 8.2.

    Example:
        >>> from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel
        >>> from hf_exposure import CanaryTemplate, Digits
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16))
        >>> found = extract(model, ByT5Tokenizer(), CanaryTemplate("pin {pin}", pin=Digits(3)), top_k=5)
        >>> len(found.candidates), found.certified
        (5, True)
    """
    check_template(template, end_token=end_token)
    check_limits(top_k=top_k, batch_size=batch_size, max_open_nodes=max_open_nodes)
    if max_expansions is not None:
        check_limits(max_expansions=max_expansions)
    flag("unbatched", unbatched)
    scorer = make_scorer(model, tokenizer, source=source_for(source, template), end_token=end_token, context=context)
    automaton = build_automaton(template, scorer.encoder)
    with SearchWatch(progress) as watch:
        return search_likeliest(
            scorer,
            automaton,
            top_k=top_k,
            batch_size=1 if unbatched else batch_size,
            max_expansions=max_expansions,
            max_open_nodes=max_open_nodes,
            watch=watch,
        )


def search_likeliest(
    scorer: Scorer,
    automaton: TokenAutomaton,
    *,
    top_k: int = 1,
    batch_size: int = 256,
    max_expansions: int | None = None,
    max_open_nodes: int = MOST_OPEN_NODES,
    watch: SearchWatch | None = None,
) -> Extraction:
    """As `extract`, for any scorer and any automaton."""
    search = partial(
        _search_likeliest,
        scorer,
        automaton,
        top_k=top_k,
        batch_size=batch_size,
        max_expansions=max_expansions,
        max_open_nodes=max_open_nodes,
        watch=watch,
    )
    return confirmed(scorer, search)


def _search_likeliest(
    scorer: Scorer,
    automaton: TokenAutomaton,
    *,
    top_k: int,
    batch_size: int,
    max_expansions: int | None,
    max_open_nodes: int,
    watch: SearchWatch | None,
) -> tuple[Extraction, float]:
    """What was found, and by how many bits a text of it moved when it was scored alone."""
    check_limits(top_k=top_k, batch_size=batch_size, max_open_nodes=max_open_nodes)
    if max_expansions is not None:
        check_limits(max_expansions=max_expansions)
    started = time.perf_counter()
    spent = SearchCost()
    prefix_bits = float(np.nansum(scorer.prefix_bits(automaton.prefix)))
    frontier = Frontier(automaton)
    best: list[tuple[float, str]] = []
    budget = float("inf") if max_expansions is None else max_expansions
    limit = float("inf")
    # An open node that costs as much as the k-th best text cannot lead to a cheaper one.
    while frontier.cheapest_bits < limit and len(frontier) <= max_open_nodes:
        cheapest = best[0][0] if best else float("inf")
        if watch and not watch.goes_on(spent.expansions, len(frontier), cheapest, frontier.cheapest_bits):
            break
        # A text of n characters takes n calls one after the other, however wide they are. A quarter of what was
        # expanded so far is a batch that costs a memorised text n expansions, and not 2^n as doubling does.
        batch = min(batch_size, max(1, spent.expansions // 4))
        nodes = next_nodes(frontier, automaton, batch, limit, budget - spent.expansions)
        if not nodes:
            break
        for expansion in expand(scorer, automaton, nodes, spent):
            for leaf in expansion.leaves:
                if leaf.cost_bits == math.inf:
                    continue  # of probability 0: no answer to what is likeliest
                bisect.insort(best, (leaf.cost_bits, leaf.text))
            del best[top_k:]
            limit = best[top_k - 1][0] if len(best) >= top_k else float("inf")
            frontier.push_children(expansion.node, expansion.children, expansion.costs_bits, limit)
    certified = frontier.cheapest_bits >= limit
    ended = "" if certified else stopped_at(frontier, max_open_nodes, max_expansions, watch)
    stop = f"{ended}; a likelier text may be left" if ended else ""
    impossible = _impossible(prefix_bits, certified, len(best), top_k, automaton)
    costs_bits = [prefix_bits + cost for cost, _ in best]
    moved = moved_bits(scorer, [text for _, text in best], costs_bits)
    found = Extraction(
        candidates=tuple(
            Candidate(text=text, log_perplexity_bits=bits) for (_, text), bits in zip(best, costs_bits, strict=True)
        ),
        certified=certified and not moved,
        expansions=spent.expansions,
        forward_passes=spent.forward_passes,
        model_rows=spent.model_rows,
        seconds=time.perf_counter() - started,
        backend=automaton.name,
        exactness=automaton.exactness,
        mode=scorer.mode or "",
        note="; ".join(_notes(scorer.noise_bits, [stop, _why_moved(moved), impossible, why_audited(automaton)])),
        rest_is_impossible=bool(impossible),
    )
    return found, moved


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


def _notes(noise_bits: float, reasons: list[str]) -> list[str]:
    """What a reader must know of the order, and of what limits the search."""
    notes = [reason for reason in reasons if reason]
    if noise_bits > _NOTICEABLE_BITS:
        notes.append(f"in this precision costs move by {noise_bits} bits: texts nearer than that may change places")
    return notes
