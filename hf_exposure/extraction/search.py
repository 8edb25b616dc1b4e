"""The likeliest texts of a template, exactly: batched best-first search.

Nodes are expanded in order of cost, so a found text costs less than all texts that are found later. The paper's
batched search continues after its first answer. Here a batch only expands open nodes that cost less than the k-th best
text found, and the search ends when there are none, which keeps the guarantee for any batch size.

Texts are scored again, alone, before they are certified. A search feeds many texts at once, after a shared prefix and
with a cache. A model whose outputs depend on that may pass every check and still give a text of a search another cost
than when it is scored alone. The search is then repeated in calls of one text (`confirmed`).

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
"""The maximum number of a search's texts that are scored alone."""

_AGREEMENT = 20.0  # two costs of one text count as different if they differ by this many times the scorer's tolerance
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
    """Finds the `top_k` likeliest texts of `template` under `model`, most likely first, with a certificate.

    Log-perplexities are in bits, computed in float32 and summed in float64; the order of two texts closer than 1e-3
    bits may depend on the hardware. Equal costs are ordered by text.

    Args:
        model: a causal language model, or an encoder-decoder one with `source`; a masked model does not support
            search.
        tokenizer: its tokenizer: any fast one, or a slow one if it encodes the pieces of the template separately
            (bytes, characters, words) or the space has at most a million texts.
        template: the template to search.
        top_k: the number of texts to return; in a smaller space, all of them.
        batch_size: the maximum number of open nodes per call; batches grow up to it from 1, so an easy secret needs
            few rows.
        max_expansions: stop after this many expansions; None searches to the end.
        end_token: whether texts end with the tokenizer's end token.
        source: the input of an encoder-decoder model: one fixed text, without holes (`{{` is a literal brace).
        max_open_nodes: stop when about this many nodes are open, which limits the memory to 200 bytes each.
        unbatched: whether to expand one open node per call, as in the paper's own search, with the same result, for
            comparison.
        progress: True shows a progress bar, None shows one if stderr is a terminal.
        context: the prompt or chat before every text, which an attacker would type.

    Returns:
        `Extraction`. `certified` is False if `max_expansions`, `max_open_nodes` or Ctrl-C ended the search; the
        candidates are then the best texts found so far, possibly none. Texts of probability 0 are not candidates:
        `rest_is_impossible` is True if fewer than `top_k` others remain. It is also True if the text before the first
        hole has probability 0; candidates are then ordered by the text after it.

    Raises:
        InputError: `top_k`, `batch_size`, `max_expansions` or `max_open_nodes` is below 1; the tokenizer gives two
            texts the same tokens or fits no automaton; or one text of the template begins another, without
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
    """Like `extract`, for any scorer and any automaton."""
    whole_number("top_k", top_k, 1)
    limits = SearchLimits(max_expansions, batch_size, max_open_nodes)
    return confirmed(scorer, lambda: _search_likeliest(scorer, automaton, top_k, limits, progress))


def _search_likeliest(
    scorer: Scorer, automaton: TokenAutomaton, top_k: int, limits: SearchLimits, progress: SearchProgress | None
) -> tuple[Extraction, float]:
    """The result, and by how many bits the cost of a text in it changed when it was scored alone."""
    search = Search(scorer, automaton, limits, progress)
    prefix_bits = prefix_cost(scorer, automaton)
    best: list[tuple[float, str]] = []
    limit = math.inf
    # An open node that costs as much as the k-th best text cannot lead to a likelier one.
    while search.frontier.cheapest_bits < limit:
        # A text of n characters takes n successive calls, however wide they are. With a quarter of the rows fed so far
        # as the batch size, a memorized text takes about n rows, and not 2^n as with doubling. Forced tails count:
        # they are not expansions, and there may be a thousand after one.
        batch_size = min(limits.batch_size, max(1, search.spent.model_rows // 4))
        expansions = search.expand_next(batch_size, limit, best[0][0] if best else math.inf)
        if not expansions:
            break
        for expansion in expansions:
            for leaf in expansion.leaves:
                if leaf.cost_bits < math.inf:  # a text of probability 0 is not among the likeliest
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
    """Bits of the scored tokens of the automaton's prefix, with which every text begins."""
    return float(np.nansum(scorer.prefix_bits(automaton.prefix)))


def confirmed(scorer: Scorer, search: Callable[[], tuple[Found, float]]) -> Found:
    """The result of `search`; if the cost of a text changed or a batch failed, its result with every text scored
    alone.

    Args:
        scorer: the scorer that `search` uses.
        search: returns its result, and by how many bits the cost of a text in it changed.
    """
    began_in = scorer.mode
    found, moved = search()
    # Also if a batch was found wrong during the search, since earlier batches may be wrong as well.
    if (moved or scorer.lost_trust) and began_in != "alone":
        scorer.distrust_batches()
        found, _ = search()
    return found


def moved_bits(scorer: Scorer, texts: Sequence[str], costs_bits: Sequence[float], most: int = MOST_CONFIRMED) -> float:
    """The largest difference between a text's cost in the search and alone; 0.0 if all agree within rounding.

    Args:
        scorer: the scorer that the search used.
        texts, costs_bits: the texts it found with their full log-perplexities; if there are more than `most`, a spread
            over all is compared.
        most: the maximum number of texts to score alone.
    """
    if not len(texts):
        return 0.0
    chosen = np.unique(np.linspace(0, len(texts) - 1, num=min(most, len(texts))).astype(int)).tolist()
    alone = scorer.alone_bits(scorer.encode([texts[number] for number in chosen]))
    found = np.array([costs_bits[number] for number in chosen])
    differ = ~np.isclose(alone, found, rtol=0.0, atol=_AGREEMENT * scorer.tolerance_bits)
    return float(np.nan_to_num(np.abs(alone[differ] - found[differ]), nan=np.inf).max(initial=0.0))


def _why_moved(moved_bits: float) -> str:
    """Why the figures of a search are not certified."""
    return f"scored alone, a text found here costs {moved_bits:.3g} bits more or less" if moved_bits else ""


def _impossible(prefix_bits: float, certified: bool, found: int, top_k: int, automaton: TokenAutomaton) -> str:
    """Why all texts that are not candidates have probability 0; "" if that is unknown."""
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
            f"in this precision costs vary by {tolerance_bits} bits: the order of texts closer than that is uncertain"
        )
    return notes
