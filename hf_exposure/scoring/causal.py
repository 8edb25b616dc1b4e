"""The scorer for causal language models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_exposure.canaries import CanaryContext
from hf_exposure.errors import InputError, NonFiniteScoreError, OutOfStepError
from hf_exposure.scoring.encoding import EncodedTexts, Encoder
from hf_exposure.scoring.forward import Mode, Prefix, edge_bits, encode_prefix
from hf_exposure.scoring.logits import ForwardCounts, LogitReader
from hf_exposure.scoring.model_state import borrowed, model_device
from hf_exposure.scoring.out_of_memory import is_out_of_memory
from hf_exposure.scoring.packing import ModelShape, Rows, chain_rows, choose_row_draws, choose_row_width, packed_rows
from hf_exposure.scoring.path_query import PathBits, PathQuery
from hf_exposure.scoring.probe import DEPTH_TO_SPARE, probe_tree
from hf_exposure.scoring.processes import ALONE, Processes
from hf_exposure.scoring.row_caches import RowCaches
from hf_exposure.scoring.token_tree import TokenTree
from hf_exposure.scoring.tree_sums import PathTree

__all__ = ["CausalScorer"]

# Two ways of computing one token's bits agree within this, by the dtype of the weights; beyond it a mask was ignored.
_AGREEMENT_BITS = {torch.float64: 1e-6, torch.float32: 2e-3, torch.float16: 0.1, torch.bfloat16: 0.5}
# And a whole text's bits in different batches within this: 0.07, 0.013, 7e-6 and 3e-14 measured on texts of 87 bits.
_NOISE_BITS = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
_LOGITS_BYTES_CPU = 2**28
_LOGITS_SHARE_OF_FREE_GPU = 0.2
_CACHE_SHARE_OF_FREE_GPU = 0.4


class CausalScorer:
    """Scores texts under a causal language model, sharing whatever texts share.

    All texts of a call become one token tree. The prefix that they share is fed once, every other distinct inner
    token once, and a text's last token is only read. How the tree reaches the model is chosen by a check on the
    model itself, at the first call:

    - `packed`: pieces of the tree in one row, under a 4-D ancestor mask, with the prefix's key-value cache;
    - `cached`: one chain per row after the prefix's cache, for models that take no such mask;
    - `plain`: whole texts, for models without a usable cache (LSTM, recurrent and hybrid ones).

    Rows are padded on the right with positions of their own, so the tokenizer's padding side does not matter.

    What was computed for a prefix is kept for the next call: after a training step, make a new scorer.

    Args:
        model: any module that takes `input_ids` (B, T) and returns an object with `.logits` (B, T, V).
        tokenizer: a Hugging Face tokenizer.
        end_token: whether the end of each text is scored too.
        max_batch_tokens: tokens fed in one call; by default what keeps a batch's logits within 256 MiB on a CPU or a
            fifth of the free memory on a GPU.
        mode: force one of the three ways; tests and benchmarks do.
        processes: those that score together; every one of them must make the same calls in the same order.
        context: what stands before every text, as for `Encoder`.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        end_token: bool = False,
        max_batch_tokens: int | None = None,
        mode: Mode | None = None,
        processes: Processes = ALONE,
        context: CanaryContext | None = None,
    ) -> None:
        self.model = model
        self.encoder = Encoder(tokenizer, end_token=end_token, context=context)
        self._reader = LogitReader(model)
        self._processes = processes
        self.mode = mode
        # A sliding window shows only beyond its length: a way is trusted up to the length that it was tried at.
        self._proven_length = 0.0 if mode is None else math.inf
        self._proven_with_prefix = mode is not None
        self._max_batch_tokens = max_batch_tokens
        self._shape = _model_shape(model)
        self._prefixes: dict[tuple[Mode, tuple[int, ...]], Prefix] = {}

    @property
    def counts(self) -> ForwardCounts:
        """Calls of the model, rows and tokens fed so far."""
        return self._reader.counts

    @property
    def noise_bits(self) -> float:
        return _NOISE_BITS[self._reader.dtype]

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        return self.encoder.encode(texts)

    def sequence_bits(self, encoded: EncodedTexts) -> np.ndarray:
        if not len(encoded):
            return np.zeros(0)
        self._check_vocabulary(int(encoded.matrix_NL.max()))
        # The last column of the matrix holds a token of the longest text.
        longest = int(np.argmax(encoded.matrix_NL[:, -1]))
        self._check_length(encoded.matrix_NL.shape[1], encoded.texts[longest])
        with borrowed(self.model):
            edge_values, prefix = self._score(encoded.tree.tree)
        totals = encoded.tree.totals(edge_values, prefix.bits)
        if np.isnan(totals).any():
            text = encoded.texts[int(np.flatnonzero(np.isnan(totals))[0])]
            raise NonFiniteScoreError(f"the model returned NaN logits for the text {text!r}")
        return totals

    def path_bits(self, prefix: Sequence[int], queries: Sequence[PathQuery]) -> list[PathBits]:
        if not queries:
            return []
        paths = PathTree.of(prefix, queries)
        self._check_vocabulary(int(paths.tree.edge_token.max(initial=0)))
        self._check_length(len(prefix) + max(len(query.tokens) for query in queries), "the template")
        with borrowed(self.model):
            edge_values, _ = self._score(paths.tree)
        answers = paths.answers(edge_values)
        for query, answer in zip(queries, answers, strict=True):
            if np.isnan(answer.run_bits) or np.isnan(answer.children_bits).any():
                raise NonFiniteScoreError(f"the model returned NaN logits after the tokens {(*prefix, *query.tokens)}")
        return answers

    def prefix_bits(self, prefix: Sequence[int]) -> np.ndarray:
        """(P,) bits of each token of `prefix` given those before it; NaN for context, which is not scored."""
        self._check_length(len(prefix), "the template")
        with borrowed(self.model):
            bits = self._encode_prefix(np.asarray(prefix, dtype=np.int64), self.mode or "plain").bits.copy()
        bits[: self.encoder.first_scored] = np.nan
        return bits

    def draws_at_once(self, length: int) -> int:
        """How many draws of `length` tokens below the prefix may keep their caches at the same time."""
        # All heads' keys and values, twice: the model's own concatenation makes a copy.
        per_token = 4 * self._shape.layers * self._shape.hidden * self._reader.dtype.itemsize
        return self._processes.smallest(max(1, _cache_bytes(self.model) // (per_token * (length + 1))))

    def row_caches(self, prefix: Sequence[int], draws: int, length: int) -> RowCaches | None:
        """Caches for `draws` paths of about `length` tokens below `prefix`; None for a model that lends none."""
        if self.mode != "packed" or not len(prefix):
            return None
        with borrowed(self.model):
            shared = self._encode_prefix(np.asarray(prefix, dtype=np.int64), "packed")
        row_draws = choose_row_draws(len(prefix), length, self._shape)
        batch_rows = max(1, self._batch_tokens() // (2 * row_draws))
        return RowCaches(self._reader, shared, len(prefix), draws, row_draws, batch_rows, self._processes)

    def _score(self, tree: TokenTree) -> tuple[np.ndarray, Prefix]:
        length = len(tree.prefix) + int(tree.depth.max(initial=0))
        unproven = length > self._proven_length or (len(tree.prefix) > 0 and not self._proven_with_prefix)
        if self.mode is None or (self.mode != "plain" and unproven):
            self.mode = self._probe(tree, length)
        return self._score_as(tree, self.mode)

    def _score_as(self, tree: TokenTree, mode: Mode) -> tuple[np.ndarray, Prefix]:
        prefix = self._encode_prefix(tree.prefix, mode)
        if mode != "plain" and len(tree.prefix) and prefix.cache is None:
            raise RuntimeError(f"{type(self.model).__name__} returned no key-value cache for the prefix")
        if not tree.size:
            rows = Rows(*(np.zeros(0, dtype=np.int64),) * 3)
        elif mode == "packed":
            rows = packed_rows(tree, choose_row_width(tree, self._shape))
        else:
            rows = chain_rows(tree)
        width = int(rows.width.max(initial=1)) + (len(tree.prefix) if mode == "plain" else 0)
        tokens = self._batch_tokens()
        while True:
            try:
                batch_rows = max(1, tokens // width)
                return edge_bits(self._reader, tree, rows, prefix, mode, batch_rows, self._processes), prefix
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or tokens <= width:
                    raise
                tokens //= 2
                self._max_batch_tokens = tokens

    def _encode_prefix(self, prefix: np.ndarray, mode: Mode) -> Prefix:
        key = (mode, tuple(prefix.tolist()))
        if key not in self._prefixes:
            self._check_vocabulary(int(prefix.max(initial=0)))
            # One prefix at a time: a search keeps to one, and a cache per template would grow without bound.
            found = self._processes.attempt(lambda: encode_prefix(self._reader, prefix, mode))
            self._prefixes = {key: replace(found, bits=self._processes.from_first(found.bits))}
        return self._prefixes[key]

    def _probe(self, tree: TokenTree, length: int) -> Mode:
        """The fastest way whose answers on a small piece of `tree` equal those of plain whole texts."""
        context = _context_length(self.model)
        proven = length if context is None else max(length, min(length + DEPTH_TO_SPARE, context))
        sample = probe_tree(tree, proven, context)
        expected, _ = self._score_as(sample, "plain")
        if np.isnan(expected[sample.edge_parent >= 0]).any():
            return "plain"  # NaN agrees with anything
        if len(tree.prefix) and not len(sample.prefix):
            return "plain"  # no room to try a cache
        tolerance = _AGREEMENT_BITS[self._reader.dtype]
        modes: tuple[Mode, ...] = ("packed", "cached")
        for mode in modes:
            agrees = False
            try:
                with self._processes.together():
                    found, _ = self._score_as(sample, mode)
                agrees = np.allclose(found, expected, rtol=0.0, atol=tolerance, equal_nan=True)
            except OutOfStepError:
                raise
            except Exception as error:  # a model may refuse a mask, positions or a cache in any way it likes
                if is_out_of_memory(error):
                    raise
            # All processes take the same way, or none would wait for the others' calls.
            if self._processes.smallest(int(agrees)):
                self._proven_length, self._proven_with_prefix = proven, len(sample.prefix) > 0
                return mode
        return "plain"

    def _batch_tokens(self) -> int:
        if self._max_batch_tokens is None:
            fits = _default_batch_tokens(self.model, self._reader.reads_rows)
            self._max_batch_tokens = self._processes.smallest(fits)
        return self._max_batch_tokens

    def _check_vocabulary(self, largest_token: int) -> None:
        embedding = getattr(self.model, "get_input_embeddings", lambda: None)()
        entries = getattr(embedding, "num_embeddings", None)
        if entries is not None and largest_token >= entries:
            raise InputError(
                "tokenizer",
                f"must be the model's own: the model knows {entries} tokens",
                f"token {largest_token}",
                "Load both from the same folder, or call model.resize_token_embeddings(len(tokenizer)).",
            )

    def _check_length(self, tokens: int, text: str) -> None:
        longest = _context_length(self.model)
        if longest is not None and longest < tokens:
            raise InputError(
                "texts",
                f"must fit the model's context of {longest} tokens",
                text,
                f"It takes {tokens}: use a shorter template or a model with a longer context.",
            )


def _context_length(model: nn.Module) -> int | None:
    longest = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return longest if isinstance(longest, int) and longest > 0 else None


def _model_shape(model: nn.Module) -> ModelShape:
    config = getattr(model, "config", None)
    parameters = sum(p.numel() for p in model.parameters())
    embedding = getattr(model, "get_input_embeddings", lambda: None)()
    if embedding is not None and hasattr(embedding, "weight"):
        parameters = max(1, parameters - embedding.weight.numel())
    return ModelShape(
        parameters=parameters,
        layers=getattr(config, "num_hidden_layers", None) or 4,
        hidden=getattr(config, "hidden_size", None) or 256,
        heads=getattr(config, "num_attention_heads", None) or 4,
    )


def _cache_bytes(model: nn.Module) -> int:
    """What the caches of many draws may take."""
    device = model_device(model)
    return int(torch.cuda.mem_get_info(device)[0] * _CACHE_SHARE_OF_FREE_GPU) if device.type == "cuda" else 2**30


def _default_batch_tokens(model: nn.Module, reads_rows: bool) -> int:
    """Tokens per call: a device's fill, or fewer so that the logits of a whole batch stay within the budget."""
    device = model_device(model)
    ceiling = 4096 if device.type == "cpu" else 65_536
    if reads_rows:
        return ceiling
    vocabulary = getattr(getattr(model, "config", None), "vocab_size", None) or 50_000
    budget = _LOGITS_BYTES_CPU
    if device.type == "cuda":
        budget = int(torch.cuda.mem_get_info(device)[0] * _LOGITS_SHARE_OF_FREE_GPU)
    return max(64, min(ceiling, budget // (vocabulary * 8)))
