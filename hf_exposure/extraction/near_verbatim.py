"""Lower and upper bounds on the probability that a sample *nearly* matches a secret.

Verbatim extraction misses a model that generates the secret with one wrong digit, and counting near matches among
samples cannot distinguish 10^-6 from 0. Here the tree of all texts that the model may generate after the prompt is
searched, likeliest beginnings first, as a product with the Levenshtein automaton of the secret (`levenshtein.py`). A
beginning within the distance counts with all its continuations; one that can no longer come near is ruled out with all
its continuations. The found texts bound the probability from below, and those ruled out from above; everything else
lies between, so the bounds are valid wherever the search ends.

    prompt "pin"     "1" 0.7  -> "12" 0.6  accepted           low   0.6 + 0.05 + ...
                              -> "1x" 0.05 accepted           high  1 - 0.2 - ...
                     "8" 0.2  -> "89" 0.2  ruled out

All segmentations of a text count, unlike in a rank, since a sample may be any of them. Lower bounds on each token's
probability (`least_probability.py`) are used both for found texts and for those ruled out.

Shapes: V vocabulary entries.

Sources: Ippolito et al. 2023, "Preventing Verbatim Memorization in Language Models Gives a False Sense of Privacy";
Kuchnik et al. 2023, "Validating Large Language Models with ReLM" (queries as automata, Levenshtein among them).
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.checks import encodable_text, flag, real_number, whole_number
from hf_exposure.errors import InputError, RowInputError
from hf_exposure.extraction.build import check_template
from hf_exposure.extraction.discoverable import prompt_and_continuations
from hf_exposure.extraction.levenshtein import ACCEPTED, DEAD, OPEN, UNKNOWN, LevenshteinTokens
from hf_exposure.extraction.token_automaton import Path
from hf_exposure.records import Candidate, NearExtraction
from hf_exposure.runtime.model_state import evaluating, model_device
from hf_exposure.scoring import PathQuery, Scorer, make_scorer
from hf_exposure.scoring.arguments import check_length, check_vocabulary, context_length, vocabulary_entries
from hf_exposure.scoring.decoding import Sampling
from hf_exposure.scoring.least_probability import least_probabilities

_SHOWN = 20
_MOST_PASSES = 10**6
# The error of sums of millions of terms is smaller than this, and bounds are not needed more precisely.
_ROUNDING = 1e-9
_WORTH_SAYING = 1e-6


def near_extraction(
    model: nn.Module,
    tokenizer: Any,
    template: CanaryTemplate,
    text: str,
    *,
    edits: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    greedy: bool = False,
    passes: int = 20,
    width: float = 0.01,
) -> NearExtraction:
    """Bounds the probability that a sample after the template's prefix begins within `edits` of a text.

    The prompt and the secret are those of `discoverable_extraction`. Characters are compared, whatever the tokens; a
    sample that ends before it is within the distance does not count.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        template: a template that begins with fixed text.
        text: a text of the template, such as a canary's.
        edits: the maximum number of characters to insert, delete or replace; fewer than the secret has.
        temperature, top_k, top_p: the attacker's sampling scheme, in this order, as in `transformers`.
        greedy: whether the attacker uses greedy decoding instead; the probability is then 0 or 1.
        passes: the budget: as many tokens as this many passes over the whole text.
        width: stop when the bounds differ by at most this.

    Returns:
        `NearExtraction`, whose `low` and `high` are valid for any budget, and for the model's probabilities within its
        tolerance (`Scorer.tolerance_bits`). Tokens that do not spell whole characters, such as single bytes of one,
        are not followed and count as undecided.

    Raises:
        InputError: the text is not of the template or longer than the model's context; the template has no prefix; the
            model is not causal; the tokenizer belongs to another model, or its tokens' spellings depend on other
            tokens; or a number is out of range.
        NonFiniteScoreError: the model returned NaN.

    Example:
        >>> from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel
        >>> from hf_exposure import CanaryTemplate, Digits
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16))
        >>> template = CanaryTemplate("pin {pin}", pin=Digits(3))
        >>> found = near_extraction(model, ByT5Tokenizer(), template, "pin 123", edits=1, passes=5)
        >>> 0 <= found.low <= found.high <= 1
        True
    """
    started = time.perf_counter()
    flag("greedy", greedy)
    sampling = None if greedy else Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    if greedy and (temperature, top_k, top_p) != (1.0, None, None):
        rule = "goes without temperature, top_k and top_p"
        raise InputError("greedy", rule, True, "Leave out those, or greedy.")
    whole_number("edits", edits, 0)
    whole_number("passes", passes, 1, _MOST_PASSES)
    width = real_number("width", width, "must be from 0 to 1", "Use 0.01.", at_least=0.0, at_most=1.0)
    check_template(template, end_token=True)
    if not template.prefix.strip():
        remedy = "There is no prompt for the model: use extract."
        raise InputError("template", "must begin with fixed text", template.text, remedy)
    text = encodable_text("text", text)
    if not template.contains(text):
        raise RowInputError("text", "must be a text of the template", 0, "Check it with template.contains(text).")
    scorer = make_scorer(model, tokenizer)
    (prompt, (canonical,)), longest = prompt_and_continuations(scorer, template, [text]), context_length(model)
    check_length(longest, len(prompt) + len(canonical), 0)
    check_vocabulary(vocabulary_entries(model), max(*prompt, *canonical))
    spelling = _Spelling(tokenizer, prompt)
    secret = spelling.of(canonical)
    if edits >= len(secret):
        rule = f"must be fewer than the {len(secret)} characters of the secret, or anything is near"
        raise InputError("edits", rule, edits, "Use edits=1.")
    pieces = spelling.pieces(_logits_size(model, prompt))
    spelling.check(pieces, [canonical])
    search = _Search(
        scorer=scorer,
        prompt=prompt,
        automaton=LevenshteinTokens(secret, edits, pieces),
        sampling=sampling,
        deepest=math.inf if longest is None else longest - len(prompt) - 1,
        most_tokens=passes * (len(prompt) + len(canonical)),
    )
    search.run(canonical, width)
    found = heapq.nlargest(_SHOWN, search.found)
    spelling.check(pieces, [path for _, path in found])
    low, high = search.bounds
    return NearExtraction(
        text=text,
        edits=edits,
        low=low,
        high=high,
        found=tuple(Candidate(text=spelling.of(path), log_perplexity_bits=-math.log2(p)) for p, path in found),
        tokens=search.tokens,
        forward_passes=search.calls,
        expansions=search.expansions,
        seconds=time.perf_counter() - started,
        note="" if high - low <= width else search.why_open,
    )


@dataclass
class _Search:
    """The explored part of the tree of texts that the model may generate.

    Attributes:
        low, ruled_out: lower bounds on the probability of texts within the distance, and of those that cannot be.
        unspelled, blurred: the probability of texts given up: after tokens that spell no whole characters or beyond
            the model's context, and within the model's tolerance.
        found: the texts within the distance, with lower bounds on their probabilities.
        tokens, calls, expansions: the cost of the search.
    """

    scorer: Scorer
    prompt: Path
    automaton: LevenshteinTokens
    sampling: Sampling | None
    deepest: float
    most_tokens: int
    low: float = 0.0
    ruled_out: float = 0.0
    unspelled: float = 0.0
    blurred: float = 0.0
    found: list[tuple[float, Path]] = field(default_factory=list)
    tokens: int = 0
    calls: int = 0
    expansions: int = 0
    _open: list[_Open] = field(default_factory=list)
    _known: dict[Path, npt.NDArray[np.float64]] = field(default_factory=dict)
    _number: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def bounds(self) -> tuple[float, float]:
        """The bounds, rounded outwards."""
        return max(0.0, self.low * (1 - _ROUNDING)), min(1.0, 1 - self.ruled_out * (1 - _ROUNDING))

    @property
    def why_open(self) -> str:
        """The reason why the bounds differ."""
        rest = 1 - self.low - self.ruled_out - self.unspelled - self.blurred
        reasons = {
            "were not examined within the budget": rest,
            "begin with tokens that spell no whole characters, or are too long": self.unspelled,
            "cannot be decided in the model's precision": self.blurred,
        }
        said = [f"{reason}: {left:.2g}" for reason, left in reasons.items() if left > _WORTH_SAYING]
        return f"the probability of texts that {'; that '.join(said)}" if said else ""

    def run(self, canonical: Path, width: float) -> None:
        """Expands beginnings, likeliest first, until the bounds are within `width` or the budget is spent."""
        self._push([1.0], [()], [self.automaton.start])
        # The secret's own beginnings together cost no more than the last of them.
        self._read([canonical[:length] for length in range(len(canonical))])
        while self._open and self.bounds[1] - self.bounds[0] > width:
            batch = self._next_batch()
            if not batch:
                return
            self._read([one.path for one in batch if one.path not in self._known])
            for one in batch:
                self._expand(one)

    def _next_batch(self) -> list[_Open]:
        """The likeliest beginnings within the budget; if it is used up, those that cost nothing."""
        batch: list[_Open] = []
        fed: set[Path] = set()
        while self._open and len(batch) < max(8, self.expansions // 4):
            path = self._open[0].path
            if path not in self._known:
                more = fed | _beginnings(path)
                if self.tokens + len(more) > self.most_tokens:
                    break
                fed = more
            batch.append(heapq.heappop(self._open))
        if not batch:
            batch = [one for one in self._open if one.path in self._known]
            self._open = [one for one in self._open if one.path not in self._known]
            heapq.heapify(self._open)
        return batch

    def _read(self, paths: Sequence[Path]) -> None:
        """Computes the model's next-token probabilities after each path."""
        if not paths:
            return
        every = np.arange(len(self.automaton))
        answers = self.scorer.path_bits(self.prompt, [PathQuery(path, 0, every) for path in paths])
        # As the scorer feeds them: common parts of paths once per call, and the prompt once.
        self.tokens += len(set().union(*map(_beginnings, paths))) + (0 if self.calls else len(self.prompt))
        self.calls += 1
        for path, answer in zip(paths, answers, strict=True):
            self._known[path] = least_probabilities(answer.children_bits, self.sampling, self.scorer.tolerance_bits)

    def _expand(self, one: _Open) -> None:
        self.expansions += 1
        least_V, step = one.probability * self._known.pop(one.path), self.automaton.step(one.state)
        accepted, is_open = step.verdict_V == ACCEPTED, step.verdict_V == OPEN
        self.low += float(least_V[accepted].sum())
        self.ruled_out += float(least_V[step.verdict_V == DEAD].sum())
        self.unspelled += float(least_V[step.verdict_V == UNKNOWN].sum())
        self.blurred += max(0.0, one.probability - float(least_V.sum()))
        for token in _largest(np.where(accepted, least_V, 0.0), _SHOWN):
            self.found.append((float(least_V[token]), (*one.path, token)))
        if len(one.path) >= self.deepest:
            self.unspelled += float(least_V[is_open].sum())
            return
        # Only as many are kept as the budget allows to expand.
        kept = _largest(np.where(is_open, least_V, 0.0), max(0, self.most_tokens - self.tokens) + _SHOWN)
        self._push(least_V[kept].tolist(), [(*one.path, token) for token in kept], step.state_V[kept].tolist())

    def _push(self, probabilities: Sequence[float], paths: Sequence[Path], states: Sequence[int]) -> None:
        for probability, path, state in zip(probabilities, paths, states, strict=True):
            heapq.heappush(self._open, _Open(-probability, next(self._number), path, state))


class _Open(NamedTuple):
    """An undecided beginning, sorted in the order of expansion."""

    negative: float
    number: int
    path: Path
    state: int

    @property
    def probability(self) -> float:
        return -self.negative


def _beginnings(path: Path) -> set[Path]:
    return {path[:length] for length in range(1, len(path) + 1)}


def _largest(values_V: npt.NDArray[np.float64], most: int) -> list[int]:
    """Indices of at most `most` largest positive values, in ascending order of index."""
    places = np.flatnonzero(values_V > 0)
    if len(places) > most:
        places = np.sort(places[np.argpartition(-values_V[places], most)[:most]])
    return [int(place) for place in places]


class _Spelling:
    """The spelling of single tokens after a prompt."""

    def __init__(self, tokenizer: Any, prompt: Path) -> None:
        self._tokenizer, self._prompt = tokenizer, prompt
        self._before = self._decoded(prompt)
        # The last tokens are enough context, and far faster to decode for a whole vocabulary.
        self._company = prompt[-4:]

    def of(self, tokens: Sequence[int]) -> str:
        """The spelling of the tokens after the prompt."""
        return self._decoded((*self._prompt, *tokens))[len(self._before) :]

    def pieces(self, entries: int) -> list[str | None]:
        """The spelling of each token id: "" for the end token, None if it is not whole characters."""
        special = set(getattr(self._tokenizer, "all_special_ids", ()))
        end, known = getattr(self._tokenizer, "eos_token_id", None), len(self._tokenizer)
        before, found = self._decoded(self._company), list[str | None]()
        for token in range(entries):
            if token == end:
                found.append("")
                continue
            said = "" if token in special or token >= known else self._decoded((*self._company, token))
            piece = said[len(before) :] if said.startswith(before) else ""
            found.append(piece if piece and "\ufffd" not in piece else None)
        return found

    def check(self, pieces: Sequence[str | None], paths: Sequence[Path]) -> None:
        """Raises an `InputError` if tokens together spell something else than one by one.

        It checks the given paths and random ones.
        """
        plain = np.array([token for token, piece in enumerate(pieces) if piece])
        draw = np.random.default_rng(0)
        random_paths = [tuple(draw.choice(plain, 6).tolist()) for _ in range(64)] if len(plain) else []
        for path in [*paths, *random_paths]:
            if self.of(path) != "".join(pieces[token] or "" for token in path):
                rule = "must spell each token in the same way, whatever is around it"
                remedy = "Count near samples with discoverable_extraction instead."
                raise InputError("tokenizer", rule, type(self._tokenizer).__name__, remedy)

    def _decoded(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _logits_size(model: nn.Module, prompt: Path) -> int:
    """The number of tokens that the model chooses from."""
    with evaluating(model):
        ids = torch.as_tensor([prompt[:1]], dtype=torch.long, device=model_device(model))
        return int(model(input_ids=ids).logits.shape[-1])
