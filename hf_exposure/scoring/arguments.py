"""Checks of a model and its tokenizer before anything is computed, and the limits of a model's inputs.

The limits are the number of tokens in a row, and the number of token ids. Configurations declare the longest text
under many names, some in the part for text, and some declare more than the model supports. A table of positions that
begins after the padding index, like RoBERTa's, has fewer rows for text than its configuration says. So the tables
themselves are checked too, and the smallest limit counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn

from hf_exposure.checks import check_tokenizer, encodable_text, flag, whole_number
from hf_exposure.context import check_context
from hf_exposure.errors import InputError, RowInputError
from hf_exposure.limits import MOST_BATCH_TOKENS

Side = Literal["decoder", "encoder"]
"""A part of an encoder-decoder model; a model with a single part is a decoder."""

# In order of preference: a limit of one side takes precedence over one for both.
_DECLARED: dict[Side, tuple[str, ...]] = {
    "decoder": ("max_decoder_position_embeddings", "max_target_positions", "max_position_embeddings", "max_seq_len"),
    "encoder": ("max_encoder_position_embeddings", "max_position_embeddings", "max_seq_len"),
}
# The attributes with a table of absolute positions, one row each.
_TABLES = ("position_embeddings", "position_embedding", "embed_positions", "positions_embed", "wpe")
# Parts of names of multimodal models' parts that do not process text.
_NOT_TEXT = ("vision", "visual", "image", "audio", "speech", "video", "patch")
_LOAD = "Load it with AutoModelForCausalLM.from_pretrained(...)."


def context_length(model: nn.Module, side: Side = "decoder") -> int | None:
    """The maximum number of tokens in one row, including special tokens; None for a model without a limit."""
    limits = [*_declared_limits(getattr(model, "config", None), side), *_table_limits(_part(model, side))]
    return min(limits, default=None)


def vocabulary_entries(model: nn.Module, side: Side = "decoder") -> int | None:
    """The number of token ids that one side of the model accepts; None if its embedding does not show it."""
    part = _part(model, side)
    for owner in (part, model):
        embedding = _input_embeddings(owner)
        entries = getattr(embedding, "num_embeddings", None)
        if isinstance(entries, int):
            return entries
        weight = getattr(embedding, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.ndim == 2 and len(weight):
            return len(weight)
    return None


def check_length(longest: int | None, tokens: int, row: int | None = None) -> None:
    """Raises a `RowInputError` if there are too many tokens in text `row`, or in the template."""
    if longest is not None and longest < tokens:
        raise RowInputError(
            "texts",
            f"must fit the model's context of {longest} tokens",
            row,
            f"It takes {tokens}: use a shorter text or a model with a longer context.",
            "the template" if row is None else "",
        )


def check_vocabulary(entries: int | None, largest_token: int) -> None:
    """Raises an `InputError` if the model has no entry for `largest_token`."""
    if entries is not None and largest_token >= entries:
        raise InputError(
            "tokenizer",
            f"must be the model's own: the model knows {entries} tokens",
            f"token {largest_token}",
            "Load both from the same folder, or call model.resize_token_embeddings(len(tokenizer)).",
        )


def _declared_limits(config: Any, side: Side) -> Iterator[int]:
    text_config = getattr(config, "text_config", None)
    for source in (config, text_config):
        for name in _DECLARED[side]:
            limit = getattr(source, name, None)
            if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0:
                yield limit
                break


def _table_limits(model: nn.Module) -> Iterator[int]:
    for name, module in model.named_modules():
        path = name.split(".")
        if path[-1] not in _TABLES or not isinstance(module, nn.Embedding):
            continue
        if any(word in part for part in path for word in _NOT_TEXT):
            continue
        # Positions are counted after the padding index, or from an offset that the module keeps.
        skipped = module.padding_idx + 1 if module.padding_idx is not None else getattr(module, "offset", 0)
        if isinstance(skipped, int) and module.num_embeddings > skipped:
            yield module.num_embeddings - skipped


def _part(model: nn.Module, side: Side) -> nn.Module:
    """One side of an encoder-decoder model, else the model itself."""
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return model
    get = getattr(model, f"get_{side}", None)
    try:
        part = get() if callable(get) else None
    except Exception:  # a model may have the method but no such part
        part = None
    return part if isinstance(part, nn.Module) else model


def _input_embeddings(part: nn.Module) -> Any:
    get = getattr(part, "get_input_embeddings", None)
    try:
        return get() if callable(get) else None
    except Exception:  # as above: transformers raises NotImplementedError, AttributeError or another error here
        return None


def check_arguments(
    model: Any, tokenizer: Any, *, end_token: Any, max_batch_tokens: Any, context: Any, source: Any
) -> None:
    """Checks the arguments of `make_scorer` without calling the model.

    Raises:
        InputError: the model is none, has no weights, or does not generate text; the tokenizer is none; or another
            argument has the wrong type.
    """
    check_module("model", model)
    check_tokenizer(tokenizer)
    # Weights that accelerate has offloaded are on the meta device too, until they are needed.
    is_empty = any(parameter.is_meta for parameter in model.parameters())
    if is_empty and not any(hasattr(module, "_hf_hook") for module in model.modules()):
        rule = "must have its weights"
        raise InputError("model", rule, "weights on the meta device", "Load them with from_pretrained.")
    if getattr(getattr(model, "config", None), "return_dict", True) is False:
        rule = "must return objects, but its configuration has return_dict=False"
        raise InputError("model", rule, type(model).__name__, "Set model.config.return_dict = True.")
    # This is so for transformers' models; others may have a decoder with another name.
    can_generate = getattr(model, "can_generate", None)
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False) and can_generate and not can_generate():
        rule = "must be an encoder-decoder model that writes text, not one without a language-model head"
        raise InputError("model", rule, type(model).__name__, "Load it with AutoModelForSeq2SeqLM.")
    flag("end_token", end_token)
    check_batch_tokens(max_batch_tokens)
    check_context(context)
    if source is not None and not callable(source):
        encodable_text("source", source)


def check_batch_tokens(max_batch_tokens: object) -> None:
    """Raises an `InputError` if this is no number of tokens; None means a default that fits."""
    if max_batch_tokens is not None:
        remedy = "Leave it out for a default that fits."
        whole_number("max_batch_tokens", max_batch_tokens, 1, MOST_BATCH_TOKENS, remedy)


def check_module(argument: str, model: Any) -> None:
    """Raises an `InputError` if this is no model but None, a name, a trainer or a class."""
    if not isinstance(model, nn.Module):
        shown = model if isinstance(model, str) else type(model).__name__
        raise InputError(argument, "must be a torch module", shown, _LOAD)


def check_logits(model: nn.Module, outputs: Any, ids: torch.Tensor) -> None:
    """Raises an `InputError` unless `outputs` have logits for each of the tokens `ids` (B, T)."""
    logits = getattr(outputs, "logits", None)
    if not isinstance(logits, torch.Tensor):
        rule = "must return an object with .logits"
        remedy = "Set model.config.return_dict = True, or load it with AutoModelForCausalLM."
        raise InputError("model", rule, f"{type(model).__name__}, which returns a {type(outputs).__name__}", remedy)
    # Further positions belong to a learned prompt.
    fits = logits.ndim == 3 and len(logits) == len(ids) and logits.shape[1] >= ids.shape[1]
    if not fits or not logits.is_floating_point():
        raise no_language_model(model, f"logits of shape {tuple(logits.shape)} for {tuple(ids.shape)} tokens")


def no_language_model(model: nn.Module, received: str) -> InputError:
    """The error for a classifier, an encoder, a model of images."""
    rule = "must be a language model, which takes input_ids and returns logits for every position"
    return InputError("model", rule, f"{type(model).__name__}: {received}", _LOAD)
