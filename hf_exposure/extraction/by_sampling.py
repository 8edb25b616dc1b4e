"""Extraction without a template: sample texts from the model, rank them, and look them up in the training data.

A search needs to know the form of a secret. Here nothing is known: many texts are drawn, a membership statistic ranks
them, and the owner of the data looks up which of them occur in it, and in how many records. The worst case is a text
that the model repeats although only one record contains it (1-eidetic).

Source: Carlini et al. 2021, "Extracting Training Data from Large Language Models", Sections 4 to 6.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import nn

from hf_exposure.canaries import CanarySet, NaturalSecrets
from hf_exposure.checks import check_tokenizer, encodable_text, one_of, whole_number
from hf_exposure.data.secret_scan import texts_of_rows
from hf_exposure.data.verbatim import longest_matches
from hf_exposure.errors import InputError
from hf_exposure.estimators.membership import NEED_BASE, STATISTICS
from hf_exposure.limits import LARGEST_SEED, MOST_SAMPLES
from hf_exposure.records.sampling import SampledText, SamplingExtraction
from hf_exposure.scoring import make_scorer
from hf_exposure.scoring.arguments import check_module, context_length
from hf_exposure.scoring.decoding import Sampling, draw_samples
from hf_exposure.scoring.encoding import special_tokens_around
from hf_exposure.signals import SignalReader, encode_records
from hf_exposure.signals.token_signals import check_causal

# The separator of the texts of one row, across which no match extends.
_BETWEEN = "\0"


def extract_by_sampling(
    model: nn.Module,
    tokenizer: Any,
    dataset: Iterable[Any],
    *,
    text_column: str | None = None,
    samples: int = 1000,
    length: int = 64,
    prompts: Sequence[str] = (),
    temperature: float = 1.0,
    top_k: int | None = 40,
    top_p: float | None = None,
    rank_by: str = "zlib",
    base_model: nn.Module | None = None,
    least_characters: int = 50,
    secrets: NaturalSecrets | CanarySet | None = None,
    seed: int = 0,
) -> SamplingExtraction:
    """Draws texts from the model, ranks them by a membership statistic, and looks them up in the training data.

    Args:
        model: a causal language model, which is left as it was found.
        tokenizer: its tokenizer.
        dataset: the training data, rows or texts; they are read twice, so iterators are refused.
        text_column: the column in which samples are looked up; by default all texts of a row.
        samples: the number of texts to draw, shared among the prompts.
        length: the length of each text in tokens.
        prompts: the beginnings of the texts; by default the tokenizer's first special token, or its end token.
        temperature, top_k, top_p: the attacker's sampling scheme, as in `transformers`.
        rank_by: a statistic of `measure_membership`; some need `base_model`.
        base_model: the base model for `rank_by`.
        least_characters: the smallest length of a verbatim match.
        secrets: known secrets to search for in the samples.
        seed: the seed of the draw. The random state of torch is not changed.

    Returns:
        `SamplingExtraction`, with the distinct texts, the likeliest member first.

    Raises:
        InputError: the model is of another kind, the data can be read only once, the statistic is unknown or lacks
            its base model, a number is out of range, or there is neither a prompt nor a special token to begin
            with.

    Example:
        >>> from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16))
        >>> found = extract_by_sampling(model, ByT5Tokenizer(), ["some data"], samples=4, length=8)
        >>> found.samples, len(found.matched)
        (4, 0)
    """
    started = time.perf_counter()
    check_module("model", model)
    check_tokenizer(tokenizer)
    check_causal(model, "")
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    whole_number("samples", samples, 1, MOST_SAMPLES)
    whole_number("length", length, 1, 10**6)
    whole_number("seed", seed, 0, LARGEST_SEED)
    one_of("rank_by", rank_by, STATISTICS, 'Write rank_by="zlib".')
    if rank_by in NEED_BASE and base_model is None:
        raise InputError("rank_by", "must be a statistic that needs no base model", rank_by, "Pass base_model.")
    if iter(dataset) is dataset:
        raise InputError("dataset", "must be data that can be read twice", type(dataset).__name__, "Pass a list.")
    check_causal(model, make_scorer(model, tokenizer).why_no_search)
    drawn = _drawn(model, tokenizer, prompts, samples, length, sampling, seed)
    texts = list(drawn)
    rows = 0

    def all_texts() -> Iterator[str]:
        nonlocal rows
        for number, row in enumerate(texts_of_rows(dataset, text_column), start=1):
            rows = number
            yield _BETWEEN.join(row)

    matches = longest_matches(texts, all_texts, least_characters=least_characters)
    scores = _scores(model, tokenizer, texts, rank_by, base_model)
    known = _known(secrets)
    found = [
        SampledText(
            text=text,
            times=drawn[text],
            score=score,
            match=text[match.start : match.stop],
            examples=match.rows,
            secrets=tuple(identifier for identifier, secret in known.items() if secret in text),
        )
        for text, score, match in zip(texts, scores, matches, strict=True)
    ]
    # A text of one token has no score and comes last.
    found.sort(key=lambda one: -np.inf if np.isnan(one.score) else one.score, reverse=True)
    settings = {
        **asdict(sampling), "length": length, "prompts": len(prompts), "seed": seed, "text_column": text_column,
    }  # fmt: skip
    return SamplingExtraction(
        texts=tuple(found), samples=samples, statistic=rank_by, least_characters=least_characters, rows=rows,
        secrets=len(known), settings=settings, seconds=time.perf_counter() - started,
    )  # fmt: skip


def _drawn(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    samples: int,
    length: int,
    sampling: Sampling,
    seed: int,
) -> dict[str, int]:
    """Counts the draws of each distinct text; a text ends at the first end token."""
    end = getattr(tokenizer, "eos_token_id", None)
    begins = [_begin(tokenizer, prompt) for prompt in prompts] or [_begin(tokenizer, "")]
    longest = context_length(model)
    counts: dict[str, int] = {}
    for number, begin in enumerate(begins):
        share = samples // len(begins) + (number < samples % len(begins))
        most = length if longest is None else min(length, longest - len(begin))
        if most < 1:
            rule = f"must leave room in the model's context of {longest} tokens"
            raise InputError("prompts", rule, f"{len(begin)} tokens", "Use shorter prompts.")
        if not share:
            continue
        for tokens in draw_samples(model, begin, most, share, sampling, seed=seed + number).tolist():
            own = tokens[: tokens.index(end)] if end in tokens else tokens
            kept = [*(begin if prompts else ()), *own]
            text = str(tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False))
            if text:
                counts[text] = counts.get(text, 0) + 1
    return counts


def _begin(tokenizer: Any, prompt: str) -> list[int]:
    if prompt:
        ids: list[int] = tokenizer(encodable_text("prompts", prompt), add_special_tokens=False)["input_ids"]
        return [*special_tokens_around(tokenizer)[0], *ids]
    for name in ("bos_token_id", "eos_token_id"):
        token = getattr(tokenizer, name, None)
        if token is not None:
            return [int(token)]
    rule = "must be given for a tokenizer that has no special token to begin with"
    raise InputError("prompts", rule, type(tokenizer).__name__, 'Write prompts=["The"].')


def _scores(
    model: nn.Module, tokenizer: Any, texts: list[str], rank_by: str, base_model: nn.Module | None
) -> list[float]:
    records = encode_records("texts", texts, tokenizer, max_tokens=context_length(model))
    base = {} if base_model is None else dict(SignalReader(base_model).read(records))
    scores = [np.nan] * len(texts)
    for row, signals in SignalReader(model).read(records):
        scores[int(records.number_N[row])] = STATISTICS[rank_by](signals, base.get(row))
    return scores


def _known(secrets: NaturalSecrets | CanarySet | None) -> dict[str, str]:
    """The texts to search for, by id: a canary's fillings, or a natural secret itself."""
    if secrets is None:
        return {}
    if isinstance(secrets, CanarySet):
        # After other words, the filling is just as secret.
        pairs: Iterable[tuple[str, Callable[[], Iterable[str]]]] = (
            (canary.id, canary.template.parse(canary.text).values) for canary in secrets.inserted
        )
        return {identifier: max(fillings(), key=len) for identifier, fillings in pairs}
    return {secret.id: secret.text for secret in secrets}
