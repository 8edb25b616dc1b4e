"""Generation after a prompt, greedily and by sampling, and the probability of given continuations.

Everything uses the whole vocabulary and plain forward passes, so any causal model works.

Shapes: N continuations or samples, B of them in a batch, P prompt tokens, L tokens of a continuation, T = P + L,
V vocabulary entries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from hf_exposure.checks import real_number, whole_number
from hf_exposure.errors import NonFiniteScoreError
from hf_exposure.runtime.model_state import evaluating, model_device
from hf_exposure.scoring.token_tree import IntArray, pad_sequences

# Temperatures by which a float32 can be divided.
_TEMPERATURES = 1e-30, 1e30


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn, in the order of `transformers`: temperature, then top-k, then top-p.

    Attributes:
        temperature: divides the logits.
        top_k: only the k likeliest tokens, including ties with the k-th; None for all.
        top_p: only the fewest likeliest tokens whose probabilities sum to at least p; None for all.

    Raises:
        InputError: the temperature or `top_k` is not positive, or `top_p` is outside (0, 1].
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        remedy = "Use temperature=1.0."
        temperature = real_number("temperature", self.temperature, "must be positive", remedy, above=0.0)
        least, most = _TEMPERATURES
        rule = f"must be from {least} to {most}"
        real_number("temperature", temperature, rule, remedy, at_least=least, at_most=most)
        object.__setattr__(self, "temperature", temperature)
        if self.top_k is not None:
            whole_number("top_k", self.top_k, 1, remedy="Leave it out for the whole vocabulary.")
        if self.top_p is not None:
            rule, remedy = "must be above 0 and at most 1", "Leave it out for all tokens."
            top_p = real_number("top_p", self.top_p, rule, remedy, above=0.0, at_most=1.0)
            object.__setattr__(self, "top_p", top_p)

    def log_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """(..., V) natural logarithms of the sampling probabilities, in float32; -inf for tokens that are never
        drawn.
        """
        logits = logits.float()
        # Relative to the likeliest, so that no quotient overflows.
        logits = (logits - logits.amax(dim=-1, keepdim=True)) / self.temperature
        if self.top_k is not None:
            least = logits.topk(min(self.top_k, logits.shape[-1]), dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        if self.top_p is not None and self.top_p < 1:
            ordered, tokens = logits.sort(dim=-1)
            # Tokens are dropped from the least likely on, while their sum is at most 1 - p; the likeliest always
            # stays.
            dropped = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - self.top_p
            dropped[..., -1] = False
            logits = logits.masked_fill(torch.zeros_like(dropped).scatter(-1, tokens, dropped), -math.inf)
        return torch.log_softmax(logits, dim=-1)


def continuation_bits(
    model: nn.Module,
    prompt: Sequence[int],
    continuations: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    max_batch_tokens: int = 4096,
) -> tuple[np.ndarray, np.ndarray]:
    """The probability of drawing each continuation after the prompt, and how many of its tokens greedy decoding needs.

    Returns:
        (N,) float64 bits, inf if the scheme never draws it; and (N,) the number of its first tokens before the part
        that greedy decoding generates alone: 0 if every token is the likeliest at its position (the first of equals).
    """
    matrix_NL = pad_sequences(continuations)
    bits_N, known_N = np.zeros(len(matrix_NL)), np.zeros(len(matrix_NL), dtype=np.int64)
    rows = max(1, max_batch_tokens // (len(prompt) + matrix_NL.shape[1]))
    with evaluating(model):
        for first in range(0, len(matrix_NL), rows):
            batch_BL = matrix_NL[first : first + rows]
            # The last token is only looked up; padding repeats a real token, which nothing before it sees in a causal
            # model.
            logits = _logits(model, prompt, np.where(batch_BL < 0, prompt[0], batch_BL)[:, :-1])[:, len(prompt) - 1 :]
            is_token_BL = batch_BL >= 0
            token_BL = torch.as_tensor(np.where(is_token_BL, batch_BL, 0), device=logits.device)
            log_p_BLV = sampling.log_probabilities(logits)
            chosen_BL = log_p_BLV.gather(2, token_BL[..., None])[..., 0].double().cpu().numpy()
            bits_N[first : first + rows] = -np.where(is_token_BL, chosen_BL, 0.0).sum(axis=1) / math.log(2)
            likeliest_BL = logits.argmax(dim=-1).cpu().numpy()
            surprises_BL = (likeliest_BL != batch_BL) & is_token_BL
            known_N[first : first + rows] = (surprises_BL * np.arange(1, batch_BL.shape[1] + 1)).max(axis=1)
    return bits_N + 0.0, known_N


def decode_greedily(model: nn.Module, prompt: Sequence[int], length: int) -> tuple[int, ...]:
    """The `length` tokens after the prompt, each the likeliest after those before it."""
    tokens: list[int] = []
    with evaluating(model):
        for _ in range(length):
            tokens.append(int(_logits(model, prompt, np.array([tokens], dtype=np.int64))[0, -1].argmax()))
    return tuple(tokens)


def draw_samples(
    model: nn.Module,
    prompt: Sequence[int],
    length: int,
    count: int,
    sampling: Sampling,
    *,
    seed: int,
    max_batch_tokens: int = 4096,
) -> IntArray:
    """(count, length) tokens drawn after the prompt. The random state of torch is not changed."""
    device = model_device(model)
    generator = torch.Generator(device=device).manual_seed(seed % 2**63)
    samples_NL = np.zeros((count, length), dtype=np.int64)
    rows = max(1, max_batch_tokens // (len(prompt) + length))
    with evaluating(model):
        for first in range(0, count, rows):
            batch_BL = samples_NL[first : first + rows]
            for at in range(length):
                # Equal beginnings are fed once; with little randomness most are equal.
                distinct, same = np.unique(batch_BL[:, :at], axis=0, return_inverse=True)
                log_p = sampling.log_probabilities(_logits(model, prompt, distinct)[:, -1])
                drawn = torch.multinomial(log_p.exp()[torch.as_tensor(same, device=device)], 1, generator=generator)
                batch_BL[:, at] = drawn[:, 0].cpu().numpy()
    return samples_NL


def _logits(model: nn.Module, prompt: Sequence[int], continuations_NL: np.ndarray) -> torch.Tensor:
    """(N, P + L, V) logits after the prompt and each continuation."""
    head_NP = np.broadcast_to(np.asarray(prompt, dtype=np.int64), (len(continuations_NL), len(prompt)))
    ids_NT = np.concatenate([head_NP, continuations_NL.astype(np.int64)], axis=1)
    logits_NTV: torch.Tensor = model(input_ids=torch.as_tensor(ids_NT, device=model_device(model))).logits
    if torch.isnan(logits_NTV).any():
        raise NonFiniteScoreError(where=f"after {ids_NT.shape[1]} tokens or fewer of a prompt")
    return logits_NTV
