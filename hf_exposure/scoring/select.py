"""Chooses the scorer for a model by tests on the model itself, and computes log-perplexities of texts."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from hf_exposure.checks import list_of_texts
from hf_exposure.context import CanaryContext, Source
from hf_exposure.errors import InputError, OutOfStepError
from hf_exposure.runtime.batches import changing_logits_error
from hf_exposure.runtime.model_state import evaluating, model_device, unwrap_model
from hf_exposure.runtime.precision import EIGHT_BITS, coarsest_dtype
from hf_exposure.runtime.processes import SINGLE_PROCESS, Processes
from hf_exposure.scoring.arguments import check_arguments, check_logits, no_language_model
from hf_exposure.scoring.causal import CausalScorer, Reading
from hf_exposure.scoring.endpoint import Endpoint
from hf_exposure.scoring.endpoint_scorer import EndpointScorer
from hf_exposure.scoring.masked import MaskedScorer
from hf_exposure.scoring.protocol import Scorer
from hf_exposure.scoring.seq2seq import Seq2SeqScorer

_PROBE_TOKENS = 8
# Their attention may not show anything with so few tokens.
_MASKED_CLASSES = frozenset(MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()) - frozenset(
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
)
# A difference below this share of the logits' spread is rounding, since experts and quantized layers mix their tokens.
# 8-bit steps that all tokens share changed logits by up to 0.17 of it, and a model that reads in both directions by
# more than 1.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2, EIGHT_BITS: 0.4}


def is_masked_class(model: nn.Module) -> bool:
    """Whether the class of `model` is that of a masked language model, which predicts tokens from both sides.

    Example:
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> is_masked_class(BertForMaskedLM(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2)))
        True
    """
    return type(unwrap_model(model)).__name__ in _MASKED_CLASSES


def make_scorer(
    model: nn.Module,
    tokenizer: Any,
    *,
    source: Source | None = None,
    end_token: bool = False,
    max_batch_tokens: int | None = None,
    processes: Processes = SINGLE_PROCESS,
    context: CanaryContext | None = None,
    reading: Reading | None = None,
) -> Scorer:
    """The scorer for `model`: an encoder-decoder model is recognized by its configuration, a masked or causal one by a
    test.

    If earlier logits change with a later token, the model reads in both directions and gets a `MaskedScorer`.
    An `Endpoint` gets an `EndpointScorer`.

    Args:
        model: the model, which is left as it was found; the test takes three forward passes of 8 tokens.
        tokenizer: its tokenizer.
        source: for an encoder-decoder model: a fixed text, or a function from a target to its source.
        end_token: whether the end of each text is scored too; not for masked models.
        max_batch_tokens: the maximum number of tokens fed in one call; by default so many that they fit the device.
        processes: the processes that share the work; each must make this call.
        context: the context of each text in training; for causal models.
        reading: the reading of a scorer for an earlier state of the same model, by default that of the last one in
            this process. The scoring mode does not depend on the weights, so it is not tested again, except that every
            call checks its batch. It is tested again if anything else about the model changed: precision, attention, a
            module, its code, a hook or a setting.

    Raises:
        InputError: an encoder-decoder model has no source, or another model has one; or a model reads in both
            directions and the tokenizer has no mask token, or `end_token=True`.

    Example:
        >>> from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16))
        >>> type(make_scorer(model, ByT5Tokenizer())).__name__
        'CausalScorer'
    """
    check_arguments(
        model, tokenizer, end_token=end_token, max_batch_tokens=max_batch_tokens, context=context, source=source
    )
    model = unwrap_model(model)
    if isinstance(model, Endpoint):
        return _endpoint_scorer(
            model, tokenizer, source, end_token=end_token, max_batch_tokens=max_batch_tokens, processes=processes,
            context=context,
        )  # fmt: skip
    kind = type(model).__name__
    if context is not None and source is not None:
        raise InputError("context", "goes with models that have no source", kind, "Put the prompt into source=.")
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        if source is None:
            rule = "must be given for an encoder-decoder model"
            raise InputError("source", rule, None, "Pass source='...' (log_perplexity: sources=[...]).")
        return Seq2SeqScorer(
            model,
            tokenizer,
            source=source,
            end_token=end_token,
            max_batch_tokens=max_batch_tokens,
            processes=processes,
        )
    if source is not None:
        raise InputError("source", "goes with encoder-decoder models only", kind, "Leave it out.")
    known = reading if reading is not None and reading.holds_for(model) else None
    if not processes.all_reduce_min(int(known is not None)):
        # If one process must test again, all must.
        known = Reading.kept_for(model) if processes.count == 1 else None
    if known or not (is_masked_class(model) or sees_later_tokens(model, tokenizer, processes)):
        scorer = CausalScorer(
            model,
            tokenizer,
            end_token=end_token,
            max_batch_tokens=max_batch_tokens,
            processes=processes,
            context=context,
        )
        if known:
            scorer.read_as(known)
        return scorer
    if context is not None:
        raise InputError("context", "goes with models that read from left to right", kind, "Leave it out.")
    if getattr(tokenizer, "mask_token_id", None) is None:
        rule = "must read from left to right, or come with a tokenizer that has a mask token"
        remedy = "Its logits depend on later tokens: set tokenizer.mask_token."
        if coarsest_dtype(model) == EIGHT_BITS:
            remedy += " Or give each token its own scale if inputs of layers are quantized."
        raise InputError("model", rule, kind, remedy)
    if end_token:
        raise InputError("end_token", "goes with models that read from left to right", True, "Leave it out.")
    return MaskedScorer(model, tokenizer, max_batch_tokens=max_batch_tokens, processes=processes)


def _endpoint_scorer(
    endpoint: Endpoint,
    tokenizer: Any,
    source: Source | None,
    *,
    end_token: bool,
    max_batch_tokens: int | None,
    processes: Processes,
    context: CanaryContext | None,
) -> EndpointScorer:
    if source is not None:
        remedy = "Leave it out: a completions endpoint serves models that read from left to right."
        raise InputError("source", "does not go with an endpoint", type(source).__name__, remedy)
    if max_batch_tokens is not None:
        remedy = "Write Endpoint(..., prompts_per_request=...)."
        raise InputError("max_batch_tokens", "does not go with an endpoint", max_batch_tokens, remedy)
    if processes.count > 1:
        rule = "must be a model of this job if processes share the work"
        raise InputError("model", rule, "an endpoint", "Measure an endpoint from one process.")
    return EndpointScorer(endpoint, tokenizer, end_token=end_token, context=context)


def sees_later_tokens(model: nn.Module, tokenizer: Any, processes: Processes = SINGLE_PROCESS) -> bool:
    """Whether the logits of the first tokens change with the tokens after them, as in a model that reads in both
    directions.

    It takes three forward passes of one row, in evaluation mode, without gradients or random numbers. All processes
    get the same answer.

    Raises:
        InputError: one row gets different logits in two calls.
    """
    first, second, third = _probe_tokens(tokenizer)
    half = _PROBE_TOKENS // 2
    rows = [[first] * half + [other] * half for other in (second, third, second)]
    device = model_device(model)

    def logits_of(row: list[int]) -> torch.Tensor:
        ids = torch.as_tensor([row], device=device)
        outputs = model(input_ids=ids)
        check_logits(model, outputs, ids)
        logits: torch.Tensor = outputs.logits[0, -len(row) :][:half].double()
        return logits

    with evaluating(model):
        try:
            one, other, again = processes.run_then_barrier(lambda: [logits_of(row) for row in rows])
        except OutOfStepError:
            raise
        except (
            Exception
        ) as error:  # a model that cannot be called fails again when scoring, with a message that says why
            # It must be so on all processes, so that all of them leave here, or none.
            if processes.all_reduce_min(int(isinstance(error, InputError))):
                raise
            if processes.all_reduce_min(int(isinstance(error, TypeError))):
                raise no_language_model(model, "it takes no input_ids") from error
            return False
    rounding = _ROUNDING[coarsest_dtype(model)]
    if processes.all_reduce_min(int(_moves(one, again, rounding))):
        raise changing_logits_error(type(model).__name__)
    return bool(processes.all_reduce_min(int(_moves(one, other, rounding))))


def _moves(one: torch.Tensor, other: torch.Tensor, rounding: float) -> bool:
    known = torch.isfinite(one) & torch.isfinite(other)
    if not known.any():
        return False
    return bool((one - other)[known].abs().max() > rounding * one[known].std(correction=0))


def log_perplexity(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    sources: str | Sequence[str] | None = None,
    end_token: bool = False,
    max_batch_tokens: int | None = None,
) -> np.ndarray:
    """Log-perplexity of each text in bits: `Px(x) = sum_i -log2 p(x_i | x_<i)`, a sum over tokens, never a mean.

    For an encoder-decoder model it is `sum_i -log2 p(y_i | y_<i, source)` (`Seq2SeqScorer`). For a masked model it is
    the pseudo-log-likelihood of each token given all the others, a different quantity (`MaskedScorer`).

    Source: Carlini et al. 2019, "The Secret Sharer", Definition 1; Section 6.4 for translation.

    Args:
        model: a language model (any module from `input_ids` to `.logits`). Its training flags and configuration, and
            random states, are left unchanged.
        tokenizer: its tokenizer. Special tokens before a text (BOS) are context; those after it (EOS) are not scored
            unless `end_token=True`; a first token with nothing before it is not scored.
        texts: N strings, scored in the tokenizer's canonical encoding.
        sources: for an encoder-decoder model, one source for each text or one string for all.
        end_token: whether to score one end token after each text too.
        max_batch_tokens: the maximum number of tokens fed in one call; by default so many that they fit the device.

    Returns:
        A float64 array (N,), in input order, of at least 0. Equal texts get equal figures. `inf` if the model gives a
        token probability 0.

    Raises:
        InputError: a text has no predicted token, is longer than the context, or cannot be encoded; sources are
            missing, misplaced or not as many as texts; or a model reads in both directions and there is no mask
            token.
        NonFiniteScoreError: the model returned NaN; the message gives the text's number, from 0.

    Example:
        >>> import torch
        >>> from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16))
        >>> _ = torch.nn.init.zeros_(model.lm_head.weight)      # every byte equally likely: log2(384) = 8.585 bits
        >>> log_perplexity(model, ByT5Tokenizer(), ["ab", "abc"]).round(3).tolist()
        [8.585, 17.17]
    """
    texts = list_of_texts("texts", texts, "Write [text].")
    if sources is not None and not isinstance(sources, str):
        sources = list_of_texts("sources", sources, "Write one string for all, or a list with one for each text.")
    source = sources if sources is None or isinstance(sources, str) else _given_with_texts
    scorer = make_scorer(
        model,
        tokenizer,
        source=source,
        end_token=end_token,
        max_batch_tokens=max_batch_tokens,
    )
    encoded = scorer.encode(texts)
    if isinstance(scorer, Seq2SeqScorer) and not isinstance(sources, str):
        return scorer.sequence_bits(encoded, sources)
    return scorer.sequence_bits(encoded)


def _given_with_texts(text: str) -> str:
    raise AssertionError("sources are given with the texts")


def _probe_tokens(tokenizer: Any) -> tuple[int, int, int]:
    """Three tokens of plain characters, the last two different; the first ids if there are too few of those."""
    special = set(getattr(tokenizer, "all_special_ids", ()))
    encoded = tokenizer(list(string.digits + string.ascii_letters), add_special_tokens=False)["input_ids"]
    plain = list(dict.fromkeys(ids[-1] for ids in encoded if ids and ids[-1] not in special))
    first, second, third = (*plain, 0, 1, 2)[:3] if len(plain) > 2 else (0, 1, 2)
    return first, second, third
