"""Discoverable extraction: whether an attacker who knows the prefix obtains the secret by prompting the model.

Search finds the likeliest text *of the template*, however unlikely the model is to generate it. Here the model is not
restricted: other texts than those of the template may be likelier than the secret. The two views complement each
other.

Sources: Carlini et al. 2023, "Quantifying Memorization Across Neural Language Models" (greedy, verbatim); Hayes et al.
2025, "Measuring memorization in language models via probabilistic extraction" ((n, p)-discoverable); Ippolito et al.
2023, "Preventing Verbatim Memorization in Language Models Gives a False Sense of Privacy" (near-verbatim).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.checks import list_of_texts, whole_number
from hf_exposure.errors import InputError, RowInputError
from hf_exposure.extraction.build import check_template
from hf_exposure.limits import LARGEST_SEED, MOST_SAMPLES
from hf_exposure.records import Discoverability
from hf_exposure.scoring import Scorer, make_scorer
from hf_exposure.scoring.arguments import check_length, check_vocabulary, context_length, vocabulary_entries
from hf_exposure.scoring.decoding import Sampling, continuation_bits, decode_greedily, draw_samples
from hf_exposure.tokens import shared_length


def discoverable_extraction(
    model: nn.Module,
    tokenizer: Any,
    template: CanaryTemplate,
    texts: Sequence[str],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    samples: int = 256,
    near_edits: int = 1,
    seed: int = 0,
) -> list[Discoverability]:
    """Computes for each text how likely the model is to generate it after the template's prefix.

    The prompt is the template's prefix up to its last space, which may belong to the secret's first token. The
    probability of a text is that of its canonical tokens after the prompt, computed and not sampled; if a text has
    several segmentations, the true probability is slightly larger. It determines the result for any number of samples:
    see `Discoverability.probability_within` and `samples_needed`. Near-verbatim success is counted in real samples. An
    attacker who only sees the likeliest continuation, as in most interfaces, can still type beginnings of the secret:
    `argmax_known_tokens` is the number of tokens to type before the model generates the rest.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        template: a template that begins with fixed text.
        texts: texts of the template, such as those of the canaries.
        temperature, top_k, top_p: the attacker's sampling scheme, in this order, as in `transformers`.
        samples: the number of continuations drawn to count near-verbatim ones; 0 for none.
        near_edits: the maximum number of characters to insert, delete or replace that turn a near-verbatim
            continuation into the secret.
        seed: the seed of the samples. The random state of torch is not changed.

    Returns:
        One `Discoverability` for each text, in input order.

    Raises:
        InputError: there are no texts, one is not of the template or longer than the model's context; the template
            has no prefix; the model is not causal; the tokenizer belongs to another model; or a number is out of
            range.
        NonFiniteScoreError: the model returned NaN.

    Example:
        >>> from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel
        >>> from hf_exposure import CanaryTemplate, Digits
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16))
        >>> template = CanaryTemplate("pin {pin}", pin=Digits(3))
        >>> [found] = discoverable_extraction(model, ByT5Tokenizer(), template, ["pin 123"], samples=0)
        >>> found.is_greedy, found.bits > 20, found.samples_needed(0.5) > 10**6
        (False, True, True)
    """
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    check_template(template, end_token=True)
    texts = list_of_texts("texts", texts, "Pass [canary.text for canary in canaries].")
    whole_number("seed", seed, 0, LARGEST_SEED)
    _check(template, texts, samples, near_edits)
    scorer = make_scorer(model, tokenizer)
    if scorer.why_no_search:
        raise InputError("model", "must be a causal language model", type(model).__name__, "Use extract instead.")
    encoded, longest = scorer.encoder.encode(texts).ids, context_length(model)
    for row, ids in enumerate(encoded):
        check_length(longest, len(ids), row)
    check_vocabulary(vocabulary_entries(model), max(max(ids, default=0) for ids in encoded))
    prompt, continuations = _cut(scorer, template, encoded)
    bits, known = continuation_bits(model, prompt, continuations, sampling)
    secrets = [_spell(tokenizer, tokens) for tokens in continuations]
    # Half as long again, since the generated text may have shorter tokens; the edit distance cuts it to characters.
    length = max(map(len, continuations)) * 3 // 2
    if longest is not None:
        length = min(length, longest - len(prompt))
    greedy = _spell(tokenizer, decode_greedily(model, prompt, length))
    drawn = draw_samples(model, prompt, length, samples, sampling, seed=seed).tolist()
    said = [_spell(tokenizer, tokens) for tokens in drawn]
    return [
        Discoverability(
            text=text,
            bits=float(own_bits),
            is_greedy=not known_tokens,
            greedy_edits=int(_edits(secret, [greedy])[0]),
            samples=samples,
            near_samples=int((_edits(secret, said) <= near_edits).sum()),
            near_edits=near_edits,
            argmax_known_tokens=known_tokens,
        )
        for text, own_bits, known_tokens, secret in zip(texts, bits, known.tolist(), secrets, strict=True)
    ]


def _check(template: CanaryTemplate, texts: Sequence[str], samples: int, near_edits: int) -> None:
    if not template.prefix.strip():
        remedy = "There is no prompt for the model: use extract."
        raise InputError("template", "must begin with fixed text", template.text, remedy)
    if not len(texts):
        raise InputError("texts", "must hold at least one text", [], "Pass [canary.text for canary in canaries].")
    for row, text in enumerate(texts):
        if not template.contains(text):
            remedy = "Check them with template.contains(text)."
            raise RowInputError("texts", "must be texts of the template", row, remedy)
    for name, value in (("samples", samples), ("near_edits", near_edits)):
        whole_number(name, value, 0, MOST_SAMPLES, f"Use {name}=0 for none.")


def prompt_and_continuations(
    scorer: Scorer, template: CanaryTemplate, texts: Sequence[str]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The prompt, and the rest of each text after it, as tokens.

    Raises:
        InputError: the model is not causal, or the texts share no tokens with the template's prefix.
    """
    if scorer.why_no_search:
        raise InputError("model", "must be a causal language model", scorer.why_no_search, "Use extract instead.")
    return _cut(scorer, template, scorer.encoder.encode(texts).ids)


def _cut(
    scorer: Scorer, template: CanaryTemplate, encoded: Sequence[tuple[int, ...]]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The prompt with which all texts begin, within the template's prefix, and the rest of each text after it."""
    alone = (*scorer.encoder.leading, *scorer.encoder.plain_ids([template.prefix.rstrip()])[0])
    shared = shared_length([alone, *(ids[:-1] for ids in encoded)])
    if not shared:
        rule = "must share tokens with all texts of the template"
        raise InputError("template", rule, template.prefix, "Begin the template with a longer fixed text.")
    return alone[:shared], [ids[shared:] for ids in encoded]


def _spell(tokenizer: Any, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _edits(secret: str, said: Sequence[str]) -> np.ndarray:
    """(N,) Levenshtein distances from the secret to the generated texts, cut to its number of characters."""
    cut = [text[: len(secret)] for text in said]
    codes = np.full((len(cut), len(secret)), -1, dtype=np.int64)
    for line, text in enumerate(cut):
        codes[line, : len(text)] = [ord(character) for character in text]
    distance = np.tile(np.arange(len(secret) + 1), (len(cut), 1))
    for row, character in enumerate(secret, 1):
        diagonal, distance[:, 0] = distance[:, 0].copy(), row
        for column in range(1, len(secret) + 1):
            replaced = diagonal + (codes[:, column - 1] != ord(character))
            diagonal = distance[:, column].copy()
            shorter = np.minimum(distance[:, column], distance[:, column - 1]) + 1
            distance[:, column] = np.minimum(replaced, shorter)
    lengths = np.array([len(text) for text in cut], dtype=np.int64)
    return distance[np.arange(len(cut)), lengths]
