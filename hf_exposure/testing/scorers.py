"""Laws of scorers, of search over them, of spaces and of token automata.

Shapes: N texts, P prefix tokens, C children.
"""

from __future__ import annotations

import json
import math
import pickle
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from hf_exposure.canaries import CanaryTemplate, Space
from hf_exposure.extraction import TokenAutomaton, search_likeliest, search_ranks
from hf_exposure.extraction.encoding_trie import shared_lead
from hf_exposure.scoring import Encoder, LockstepSampler, PathBits, PathQuery, Scorer

TOLERANCE_BITS = 1e-3
"""Two computations of the same text's bits in float32 agree within this tolerance."""
TIE_BITS = 2e-4
"""Texts closer than this may count as ties."""


def brute_force_bits(model: nn.Module, ids: Sequence[int], first_scored: int) -> float:
    """`sum_i -log2 p(ids[i] | ids[:i])` from `first_scored` on, by one plain forward pass over one text and float64
    sums.

    Args:
        model: maps `input_ids` (1, L) to `.logits`, in evaluation mode.
        ids: the L tokens of a text, including special tokens.
        first_scored: the position of the first scored token, at least 1.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16)).eval()
        >>> _ = nn.init.zeros_(model.lm_head.weight)        # every token equally likely: log2(384) = 8.585 bits
        >>> round(brute_force_bits(model, [100, 101, 102], first_scored=1), 3)
        17.17
    """
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(ids)])).logits[0].double()
    log_probabilities = torch.log_softmax(logits, dim=-1)
    total = 0.0
    for position in range(first_scored, len(ids)):
        total -= log_probabilities[position - 1, ids[position]].item() / math.log(2.0)
    return total


def brute_force_rank(costs_N: np.ndarray, own: int, tie_bits: float = TIE_BITS) -> tuple[int, int]:
    """1 + the number of other texts that cost at most as much as text `own`, without and with those within `tie_bits`
    of it.

    Example:
        >>> brute_force_rank(np.array([3.0, 1.0, 2.0, 2.0]), own=2)
        (2, 3)
    """
    others = np.delete(costs_N, own)
    low = 1 + int((others < costs_N[own] - tie_bits).sum())
    return low, 1 + int((others <= costs_N[own] + tie_bits).sum())


def assert_close(found: object, expected: object, tolerance: float) -> None:
    """Raises an `AssertionError` unless the shapes are equal and all figures agree within `tolerance`, whatever their
    size.

    Example:
        >>> assert_close([1.0, 2.0], [1.0, 2.0005], 1e-3)
    """
    np.testing.assert_allclose(
        np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64), rtol=0.0, atol=tolerance
    )


def check_scorer(scorer: Scorer, texts: Sequence[str], *, tolerance: float = TOLERANCE_BITS) -> None:
    """Checks all laws of a scorer that supports search.

    Args:
        scorer: the scorer to check.
        texts: at least two texts that begin with a common token and have at least two tokens after it.
        tolerance: the bits within which two computations of one figure agree.

    Raises:
        AssertionError: a law is broken.

    Example:
        >>> from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel
        >>> from hf_exposure.scoring import CausalScorer
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16))
        >>> check_scorer(CausalScorer(model, ByT5Tokenizer()), ["pin 123", "pin 129", "pin 5", "pin one"])
    """
    check_batch_independence(scorer, texts, tolerance)
    check_alone(scorer, texts, tolerance)
    check_token_sums(scorer, texts, tolerance)
    check_paths(scorer, texts, tolerance)
    check_chain_rule(scorer, texts, tolerance)
    check_samples(scorer, texts, tolerance)


def check_batch_independence(scorer: Scorer, texts: Sequence[str], tolerance: float = TOLERANCE_BITS) -> None:
    """Neither the other texts of a batch, nor their order, number or length, change a text's figure.

    There is one float64 figure for each text, and equal texts get equal figures. This law holds for scorers without
    search too.
    """
    together = _score(scorer, texts)
    assert_close(together, [_score(scorer, [text])[0] for text in texts], tolerance)
    order = np.random.default_rng(0).permutation(len(texts))
    assert_close(_score(scorer, [texts[i] for i in order]), together[order], tolerance)
    assert_close(_score(scorer, texts[: len(texts) // 2]), together[: len(texts) // 2], tolerance)
    longer = max(texts, key=len) + texts[0] + texts[-1]  # all others are padded to its length
    assert_close(_score(scorer, [longer, *texts])[1:], together, tolerance)
    doubled = _score(scorer, [*texts, *texts])
    assert (doubled[: len(texts)] == doubled[len(texts) :]).all(), "equal texts must get equal figures"
    assert_close(doubled[: len(texts)], together, tolerance)


def check_alone(scorer: Scorer, texts: Sequence[str], tolerance: float = TOLERANCE_BITS) -> None:
    """A text that is scored alone costs the same as in a batch."""
    encoded = scorer.encode(texts)
    assert_close(scorer.alone_bits(encoded), scorer.sequence_bits(encoded), tolerance)


def check_token_sums(scorer: Scorer, texts: Sequence[str], tolerance: float = TOLERANCE_BITS) -> None:
    """Token scores are at least 0 and sum to the sequence score; exactly the context is NaN."""
    encoded = scorer.encode(texts)
    for ids, total in zip(encoded.ids, scorer.sequence_bits(encoded), strict=True):
        bits_P = scorer.prefix_bits(ids)
        context, scored = bits_P[: encoded.first_scored], bits_P[encoded.first_scored :]
        assert bits_P.shape == (len(ids),), f"prefix_bits must give {len(ids)} figures, got shape {bits_P.shape}"
        assert np.isnan(context).all(), f"prefix_bits must be NaN for the {len(context)} tokens of context: {bits_P}"
        assert (scored >= 0).all(), f"prefix_bits must be at least 0 after the context, and not NaN: {bits_P}"
        assert_close(math.fsum(scored), total, tolerance)


def check_paths(scorer: Scorer, texts: Sequence[str], tolerance: float = TOLERANCE_BITS) -> None:
    """Path scores are differences of sequence scores, whatever other paths are requested with them.

    A child costs the same as when it is the last token of a run.
    """
    encoded = scorer.encode(texts)
    totals = scorer.sequence_bits(encoded)
    prefix = shared_lead(encoded.ids)
    before = float(np.nansum(scorer.prefix_bits(prefix)))
    bodies = [ids[len(prefix) :] for ids in encoded.ids]
    nothing = np.zeros(0, dtype=np.int64)
    whole = scorer.path_bits(prefix, [PathQuery(body, len(body), nothing) for body in bodies])
    assert_close([before + answer.run_bits for answer in whole], totals, tolerance)
    read = scorer.path_bits(prefix, [PathQuery(body[:-1], 0, np.array(body[-1:])) for body in bodies])
    fed = scorer.path_bits(prefix, [PathQuery(body, 1, nothing) for body in bodies])
    for body, total, first, second in zip(bodies, totals, read, fed, strict=True):
        assert first.run_bits == 0.0, f"a run of no tokens must have 0 bits, got {first.run_bits}"
        assert len(second.children_bits) == 0, f"no children were requested, got {second.children_bits}"
        assert_close(first.children_bits[0], second.run_bits, tolerance)
        inner = scorer.path_bits(prefix, [PathQuery(body[:-1], len(body) - 1, nothing)])[0].run_bits
        assert_close(before + inner + first.children_bits[0], total, tolerance)


def check_chain_rule(scorer: Scorer, texts: Sequence[str], tolerance: float = TOLERANCE_BITS) -> None:
    """The bits of runs add up at any cut, and the children's probabilities, which are not renormalized, sum to at
    most 1.
    """
    encoded = scorer.encode(texts)
    ids = max(encoded.ids, key=len)
    prefix, body = ids[:1], ids[1:]
    known = np.array(sorted({token for text_ids in encoded.ids for token in text_ids}))
    queries = [PathQuery(body[:cut], 1 if cut else 0, known) for cut in range(len(body) + 1)]
    answers = scorer.path_bits(prefix, queries)
    whole = scorer.path_bits(prefix, [PathQuery(body, len(body), known)])[0]
    assert_close(math.fsum(answer.run_bits for answer in answers), whole.run_bits, tolerance)
    for token, answer, following in zip(body, answers, answers[1:], strict=False):
        assert_close(answer.children_bits[known == token], [following.run_bits], tolerance)
        share = (2.0**-answer.children_bits).sum()
        assert (answer.children_bits >= 0).all(), f"children must have at least 0 bits: {answer.children_bits}"
        assert share <= 1 + tolerance, f"probabilities of some children must sum to at most 1, got {share}"


def check_samples(scorer: Scorer, texts: Sequence[str], tolerance: float = TOLERANCE_BITS) -> None:
    """Samples that grow step by step, with the scorer's own reader if it has one, get the figures of whole paths."""
    at_once = scorer.samples_at_once(len(texts), 8)
    assert 1 <= at_once <= len(texts), f"samples_at_once must lie from 1 to {len(texts)}, got {at_once}"
    encoded = scorer.encode(texts)
    prefix = shared_lead(encoded.ids)
    bodies = [ids[len(prefix) :] for ids in encoded.ids]
    known_C = np.array(sorted({token for body in bodies for token in body}))
    sampler = LockstepSampler(scorer, prefix, len(texts), max(map(len, bodies)))
    for length in range(1, max(map(len, bodies)) + 1):
        active = [number for number, body in enumerate(bodies) if len(body) >= length]
        paths = [bodies[number][:length] for number in active]
        children_AC, no_run_A = np.tile(known_C, (len(paths), 1)), np.zeros(len(paths), dtype=np.int64)
        run_bits_A, children_bits_AC = sampler.step(np.array(active), paths, no_run_A, children_AC)
        expected: list[PathBits] = scorer.path_bits(prefix, [PathQuery(path, 0, known_C) for path in paths])
        assert_close(run_bits_A, no_run_A, 0.0)
        assert_close(children_bits_AC, [answer.children_bits for answer in expected], tolerance)


def check_search(
    scorer: Scorer,
    automaton: TokenAutomaton,
    texts: Sequence[str],
    costs: Sequence[float] | np.ndarray,
    *,
    budgets: Sequence[int] = (1, 2, 3, 5, 8, 13, 21),
    tolerance: float = TOLERANCE_BITS,
) -> None:
    """Checks the laws of search on a whole space: the k likeliest texts, and ranks at every budget.

    Args:
        scorer, automaton: the objects to check.
        texts: all N texts of the space.
        costs: (N,) their log-perplexities in bits, computed in another way.
        budgets: values of `max_expansions` at which the bounds of a rank are checked.
        tolerance: the bits within which two computations of one figure agree.

    Raises:
        AssertionError: a law is broken.

    Example:
        >>> from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel
        >>> from hf_exposure import Digits
        >>> from hf_exposure.extraction import build_automaton
        >>> from hf_exposure.scoring import CausalScorer
        >>> config = GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16, initializer_range=0.5)
        >>> model, template = GPT2LMHeadModel(config).eval(), CanaryTemplate("pin {pin}", pin=Digits(1))
        >>> scorer = CausalScorer(model, ByT5Tokenizer())
        >>> texts = [f"pin {digit}" for digit in range(10)]
        >>> costs = [brute_force_bits(model, scorer.encode([text]).ids[0], first_scored=1) for text in texts]
        >>> check_search(scorer, build_automaton(template, scorer.encoder), texts, costs)
    """
    costs_N = np.asarray(costs, dtype=np.float64)
    for top_k in (1, min(10, len(texts)), len(texts) + 5):
        check_likeliest(scorer, automaton, texts, costs_N, top_k, tolerance)
    order = np.argsort(costs_N, kind="stable")
    for place in sorted({0, min(9, len(texts) - 1), min(99, len(texts) - 1), len(texts) - 1}):
        check_rank(scorer, automaton, texts, costs_N, int(order[place]), budgets)


def check_likeliest(
    scorer: Scorer,
    automaton: TokenAutomaton,
    texts: Sequence[str],
    costs_N: np.ndarray,
    top_k: int,
    tolerance: float = TOLERANCE_BITS,
) -> None:
    """Best-first search finds what brute force does: the k smallest costs, each with a text of that cost."""
    cost_of = dict(zip(texts, costs_N, strict=True))
    found = search_likeliest(scorer, automaton, top_k=top_k)
    assert found.certified, f"a completed search must be certified: {found}"
    assert found.exactness == automaton.exactness, f"its exactness must be the automaton's: {found}"
    names = [candidate.text for candidate in found.candidates]
    expected = min(top_k, len(texts))
    assert len(set(names)) == len(names) == expected, f"{expected} different texts must be found, got {names}"
    figures = [candidate.log_perplexity_bits for candidate in found.candidates]
    assert figures == sorted(figures), f"candidates must be in ascending order of bits, got {figures}"
    assert_close(figures, np.sort(costs_N)[:top_k], tolerance)
    assert_close(figures, [cost_of[name] for name in names], tolerance)


def check_rank(
    scorer: Scorer,
    automaton: TokenAutomaton,
    texts: Sequence[str],
    costs_N: np.ndarray,
    own: int,
    budgets: Sequence[int],
) -> None:
    """The bounded rank equals the brute-force rank, and at every budget the bounds contain it."""
    low, high = brute_force_rank(costs_N, own)
    exact = search_ranks(scorer, automaton, [texts[own]])[0]
    assert exact.certified, f"a completed search must be certified: {exact}"
    assert exact.exactness == automaton.exactness, f"its exactness must be the automaton's: {exact}"
    assert low <= exact.low <= exact.high <= high, f"the rank must lie from {low} to {high}: {exact}"
    assert_close(exact.log_perplexity_bits, costs_N[own], TOLERANCE_BITS)
    for budget in budgets:
        partial = search_ranks(scorer, automaton, [texts[own]], max_expansions=budget, batch_size=4)[0]
        assert partial.expansions <= budget, (budget, partial)
        assert 1 <= partial.low <= high and low <= partial.high <= len(texts), (budget, partial, low, high)
        assert partial.certified == (budget >= exact.expansions), (budget, partial, exact)
        assert partial.certified or f"max_expansions={budget}" in partial.note, (budget, partial)


def check_space(space: Space, texts: Sequence[str]) -> None:
    """Checks the laws of a space: size, order, ranks, counts and membership are those of a list of its fillings.

    Args:
        space: the space to check.
        texts: all its fillings, in any order, listed in another way.

    Raises:
        AssertionError: a law is broken.

    Example:
        >>> from hf_exposure import Digits
        >>> check_space(Digits(2), [f"{number:02}" for number in range(100)])
    """
    listed = sorted(texts)
    assert listed and len(listed) == len(set(listed)), "there must be at least one text, and no text twice"
    assert "" not in listed, "no text may be empty"
    _equal("size", space.size, len(listed))
    _equal("text_at of all numbers", [space.text_at(index) for index in range(space.size)], listed)
    _equal("index_of all texts, sorted", [space.index_of(text) for text in listed], list(range(len(listed))))
    _check_states(space, space.start, "", listed)
    for text in listed[:50]:
        around = f"#{text} is 7"
        expected = [length for length in range(1, len(around)) if around[1 : 1 + length] in listed]
        _equal(f"lengths_at({around!r}, 1)", space.lengths_at(around, 1), expected)
        for other in (text, text + "#", "#" + text):
            _equal(f"contains({other!r})", space.contains(other), other in listed)
    _equal("contains('')", space.contains(""), False)
    lengths = {len(text) for text in listed}
    longer = {other[len(text)] for text in listed for other in listed if other.startswith(text) and other != text}
    _equal("alphabet", space.alphabet, frozenset("".join(listed)))
    _equal("fixed_length", space.fixed_length, lengths.pop() if len(lengths) == 1 else None)
    assert longer <= space.continuations <= space.alphabet, f"continuations must have {longer}: {space.continuations}"
    copy = pickle.loads(pickle.dumps(space))
    assert copy == space and hash(copy) == hash(space), "a pickled copy must be equal, with an equal hash"
    _equal("a pickled copy's last text", copy.text_at(space.size - 1), listed[-1])
    _equal("to_dict through JSON", json.loads(json.dumps(space.to_dict())), space.to_dict())


def _check_states(space: Space, state: Hashable, read: str, completions: Sequence[str]) -> None:
    """Checks the state after the characters `read`, with which all of `completions` begin, and the states after it."""
    _equal(f"count after {read!r}", space.count(state), len(completions))
    _equal(f"is_end after {read!r}", space.is_end(state), read in completions)
    moves = space.moves(state)
    _equal(f"moves after {read!r}", list(moves), sorted({text[len(read)] for text in completions if text != read}))
    hash(state)
    for character, following in moves.items():
        after = read + character
        _check_states(space, following, after, [text for text in completions if text.startswith(after)])


def check_automaton(automaton: TokenAutomaton, template: CanaryTemplate, encoder: Encoder) -> None:
    """Checks the laws of a token automaton, on a template that is small enough to visit every path.

    The paths to leaves that `canonical` accepts are the encodings of the template's texts, one each, and spell them.
    So are the paths that `runs` leads to. No beginning of an encoding is rejected, and no count is too small.

    Raises:
        AssertionError: a law is broken.

    Example:
        >>> from transformers import ByT5Tokenizer
        >>> from hf_exposure import Digits
        >>> from hf_exposure.extraction import build_automaton
        >>> template, encoder = CanaryTemplate("pin {pin}", pin=Digits(2)), Encoder.of(ByT5Tokenizer())
        >>> check_automaton(build_automaton(template, encoder), template, encoder)
    """
    texts = [template.text_at(index) for index in range(template.space_size)]
    encodings = encoder.encode(texts).ids
    length = len(automaton.prefix)
    assert all(ids[:length] == automaton.prefix for ids in encodings), "every text must begin with the prefix"
    text_of = {ids[length:]: text for ids, text in zip(encodings, texts, strict=True)}
    below = Counter(path[:depth] for path in text_of for depth in range(len(path) + 1))
    leaves: dict[tuple[int, ...], str] = {}
    for path, text, state in _walk(automaton):
        is_leaf = automaton.is_leaf(state)
        _equal(f"is_leaf after {text!r}", is_leaf, len(automaton.transitions(state)) == 0)
        count, fewest = automaton.count(state), 1 if is_leaf else below[path]
        assert count == 1 or not is_leaf, f"a leaf must have count 1, got {count} after {text!r}"
        assert count >= fewest, f"count must be at least {fewest} after {text!r}, got {count}"
        if not is_leaf and below[path]:
            assert automaton.canonical([path], [text], [False]) == [True], (
                "a beginning of an encoding must not be rejected"
            )
        if is_leaf and automaton.canonical([path], [text], [True])[0]:
            leaves[path] = text
    _equal("texts by the paths that canonical accepts", leaves, text_of)
    _equal("count of the root", automaton.count(automaton.root), len(texts))
    forced = {path: text for path, text in _leaves_by_forced_tokens(automaton) if path in text_of}
    _equal("texts by the paths of forced tokens", forced, text_of)


def _walk(automaton: TokenAutomaton) -> Iterator[tuple[tuple[int, ...], str, Hashable]]:
    """Yields every path from the root: its tokens after the prefix, the text that it spells, and its state."""
    waiting: list[tuple[tuple[int, ...], str, Hashable]] = [((), automaton.prefix_text, automaton.root)]
    while waiting:
        path, text, state = waiting.pop()
        yield path, text, state
        transitions = automaton.transitions(state)
        tokens = transitions.tokens_C.tolist()
        assert tokens == sorted(set(tokens)), "children must be in ascending order of tokens, each once"
        pieces, states = len(transitions.pieces), len(transitions.states)
        assert len(tokens) == pieces == states, f"{len(tokens)} tokens must have as many pieces and states"
        for token, piece, child in zip(tokens, transitions.pieces, transitions.states, strict=True):
            waiting.append(((*path, token), text + piece, child))


def _leaves_by_forced_tokens(automaton: TokenAutomaton) -> Iterator[tuple[tuple[int, ...], str]]:
    """Visits the leaves as a search does: through the forced tokens, then to each child."""
    waiting: list[tuple[tuple[int, ...], str, Hashable]] = [((), automaton.prefix_text, automaton.root)]
    while waiting:
        path, text, state = waiting.pop()
        (forced,) = automaton.forced_tokens([path], [text], [state])
        if forced is None:
            continue
        path, text, after = path + forced.tokens, text + forced.text, forced.transitions
        if not len(after):
            yield path, text
        for token, piece, child in zip(after.tokens_C.tolist(), after.pieces, after.states, strict=True):
            waiting.append(((*path, token), text + piece, child))


def _equal(what: str, found: object, expected: object) -> None:
    assert found == expected, f"{what} must be {expected!r}, got {found!r}"


def _score(scorer: Scorer, texts: Sequence[str]) -> np.ndarray:
    bits_N = scorer.sequence_bits(scorer.encode(texts))
    found = f"{bits_N.dtype} of shape {bits_N.shape}"
    assert bits_N.dtype == np.float64, f"sequence_bits must be float64, got {found}"
    assert bits_N.shape == (len(texts),), (
        f"sequence_bits must be one figure for each of {len(texts)} texts, got {found}"
    )
    return bits_N
