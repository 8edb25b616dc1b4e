"""Checks by the logits on a few fixed rows that the base under an adapter has not changed since the first measurement.

Switching adapters off should leave the base. It does not if merging and unmerging rounded the weights, if training
changed more than adapters for a while, or if a resumed run loaded the base in another precision. The weights of a base
are too large to keep for comparison, and may be packed or sharded, but its logits can be kept. One call with the
adapters off gives a few kilobytes, which are stored in the checkpoint. They are compared and not hashed, since another
device or version of a kernel rounds differently.

Shapes: R rows of T tokens, K of the vocabulary's entries, and one more figure that depends on all entries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from hf_exposure.errors import InputError
from hf_exposure.runtime.model_state import evaluating, is_sharded, model_device
from hf_exposure.runtime.precision import EIGHT_BITS, coarsest_dtype
from hf_exposure.runtime.processes import Processes
from hf_exposure.scoring.arguments import context_length, vocabulary_entries

_ROWS, _TOKENS, _ENTRIES = 2, 16, 64
_GRAPH_TOKENS = 4
# The largest difference between logits of the same base on different devices or versions, as a share of their spread,
# by `coarsest_dtype`.
_SAME = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2, EIGHT_BITS: 1e-1}
_REMEDY = "Pass the base model itself as base_model."


def fingerprint(model: nn.Module, processes: Processes) -> torch.Tensor:
    """(R, T, K + 1) float32 logits of `model` in its present state, and the logarithm of the sum over all entries.

    Every process must make this call; all get the figures of the first process.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> from hf_exposure.runtime.processes import SINGLE_PROCESS
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16))
        >>> fingerprint(model, SINGLE_PROCESS).shape
        torch.Size([2, 16, 65])
    """

    def read() -> np.ndarray:
        logits_RTV = _logits(model, _ROWS, _TOKENS).float()
        entry_K = torch.linspace(0, logits_RTV.shape[-1] - 1, _ENTRIES, device=logits_RTV.device).long()
        whole_RT1 = logits_RTV.logsumexp(dim=-1, keepdim=True)
        figures: np.ndarray = torch.cat([logits_RTV[..., entry_K], whole_RT1], dim=-1).double().cpu().numpy()
        return figures

    with evaluating(model):
        return torch.from_numpy(processes.broadcast(processes.run_then_barrier(read))).float()


def check_same_base(first_RTK: torch.Tensor, now_RTK: torch.Tensor, model: nn.Module) -> None:
    """Refuses a base whose logits have changed by more than rounding in the model's precision.

    Raises:
        InputError: the logits have changed; the message says by how much.
    """
    moved = moved_share(first_RTK, now_RTK)
    if not moved <= _SAME[coarsest_dtype(model)]:
        rule = (
            "'without_adapter' needs the base of the first measurement, but with the adapters off its logits have "
            "changed"
        )
        received = f"a change of {moved:.2g} times their spread"
        remedy = f"{_REMEDY} Load the base as at first, train adapters only, and merge none into it."
        raise InputError("base_model", rule, received, remedy)


def moved_share(first_RTK: torch.Tensor, now_RTK: torch.Tensor) -> float:
    """The largest difference as a share of the logits' spread; infinite if shapes or infinities differ.

    Example:
        >>> first = torch.tensor([[[0.0, 2.0, 4.0]]])
        >>> moved_share(first, first), moved_share(first, first + 1.0), moved_share(first, first.log())
        (0.0, 0.5, inf)
    """
    if first_RTK.shape != now_RTK.shape:
        return float("inf")
    first, now = first_RTK.double(), now_RTK.double()
    known = first.isfinite()
    if not torch.equal(known, now.isfinite()) or not torch.equal(first[~known].isnan(), now[~known].isnan()):
        return float("inf")
    spread = first[known].std(correction=1).item() if int(known.sum()) > 1 else 1.0
    largest = (first - now)[known].abs().max().item() if known.any() else 0.0
    return largest / spread if spread > 0 else largest


def refuse_trained_parts(model: nn.Module, trained: list[nn.Parameter]) -> None:
    """Refuses adapters that still affect the logits when they are off, according to the graph of the logits'
    gradients.

    Args:
        model: with its adapters off.
        trained: the weights that training changes. They are left to require gradients.

    Raises:
        InputError: a trained weight affects the logits; the message names one.
    """
    if is_sharded(model) or not trained:
        return  # a forward pass with gradients would leave gathered weights behind
    for parameter in trained:
        parameter.requires_grad_(True)
    with evaluating(model), torch.enable_grad():
        reached = _leaves(_logits(model, 1, _GRAPH_TOKENS))
    for name, parameter in model.named_parameters():
        if id(parameter) in reached and any(parameter is one for one in trained):
            rule = "'without_adapter' needs adapters that can be switched off, but the logits still depend on them"
            raise InputError("base_model", rule, name, _REMEDY)


def _leaves(output: torch.Tensor) -> set[int]:
    """The ids of the tensors that gradients of `output` would reach."""
    found: set[int] = set()
    seen: set[Any] = set()
    open_nodes: list[Any] = [output.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        open_nodes.extend(following for following, _ in node.next_functions)
    return found


def _logits(model: nn.Module, rows: int, tokens: int) -> torch.Tensor:
    """(R, T, V) logits on tokens from the whole vocabulary, the same ones at every call."""
    entries = vocabulary_entries(model) or 2
    tokens = min(tokens, context_length(model) or tokens)
    spread = np.linspace(0, entries - 1, num=rows * tokens).astype(np.int64)
    ids = torch.as_tensor(spread.reshape(tokens, rows).T.copy(), device=model_device(model))
    inputs = {"input_ids": ids}
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids
    logits: torch.Tensor = model(**inputs).logits
    return logits
