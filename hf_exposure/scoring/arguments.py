"""What every entry point asks of a model and its tokenizer, before anything is computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hf_exposure.canaries import CanaryContext
from hf_exposure.checks import check_tokenizer, encodable_text, flag, instance_of, whole_number
from hf_exposure.errors import InputError
from hf_exposure.limits import MOST_BATCH_TOKENS

__all__ = ["check_arguments", "check_logits", "check_module", "no_language_model"]

_LOAD = "Load it with AutoModelForCausalLM.from_pretrained(...)."


def check_arguments(
    model: Any, tokenizer: Any, *, end_token: Any, max_batch_tokens: Any, context: Any, source: Any
) -> None:
    """What can be said of the arguments of `make_scorer` without calling the model.

    Raises:
        InputError: a model that is none, that has no weights, or that does not write text; no tokenizer; other
            arguments of the wrong type.
    """
    check_module("model", model)
    check_tokenizer(tokenizer)
    # Weights that accelerate keeps elsewhere are on the meta device too, until they are needed.
    is_empty = any(parameter.is_meta for parameter in model.parameters())
    if is_empty and not any(hasattr(module, "_hf_hook") for module in model.modules()):
        rule = "must have its weights"
        raise InputError("model", rule, "weights on the meta device", "Load them with from_pretrained.")
    if getattr(getattr(model, "config", None), "return_dict", True) is False:
        rule = "must return objects, but its configuration has return_dict=False"
        raise InputError("model", rule, type(model).__name__, "Set model.config.return_dict = True.")
    # Of transformers' models; others may have a decoder that goes by another name.
    can_generate = getattr(model, "can_generate", None)
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False) and can_generate and not can_generate():
        rule = "must be an encoder-decoder model that writes text, not one without a language-model head"
        raise InputError("model", rule, type(model).__name__, "Load it with AutoModelForSeq2SeqLM.")
    flag("end_token", end_token)
    if max_batch_tokens is not None:
        remedy = "Leave it out for a default that fits."
        whole_number("max_batch_tokens", max_batch_tokens, 1, MOST_BATCH_TOKENS, remedy)
    if context is not None:
        instance_of("context", context, CanaryContext, "Write CanaryContext(prompt=...).")
    if source is not None and not callable(source):
        encodable_text("source", source)


def check_module(argument: str, model: Any) -> None:
    """Raise an `InputError` for what is no model: None, a name, a trainer, a class of models."""
    if not isinstance(model, nn.Module):
        shown = model if isinstance(model, str) else type(model).__name__
        raise InputError(argument, "must be a torch module", shown, _LOAD)


def check_logits(model: nn.Module, outputs: Any, ids: torch.Tensor) -> None:
    """Raise an `InputError` unless `outputs` hold logits for each of the tokens `ids` (B, T)."""
    logits = getattr(outputs, "logits", None)
    if not isinstance(logits, torch.Tensor):
        rule = "must return an object with .logits"
        remedy = "Set model.config.return_dict = True, or load it with AutoModelForCausalLM."
        raise InputError("model", rule, f"{type(model).__name__}, which returns a {type(outputs).__name__}", remedy)
    # More positions than tokens are those of a learned prompt.
    fits = logits.ndim == 3 and len(logits) == len(ids) and logits.shape[1] >= ids.shape[1]
    if not fits or not logits.is_floating_point():
        raise no_language_model(model, f"logits of shape {tuple(logits.shape)} for {tuple(ids.shape)} tokens")


def no_language_model(model: nn.Module, received: str) -> InputError:
    """The error for a classifier, an encoder, a model of images."""
    rule = "must be a language model, which takes input_ids and returns logits for every position"
    return InputError("model", rule, f"{type(model).__name__}: {received}", _LOAD)
