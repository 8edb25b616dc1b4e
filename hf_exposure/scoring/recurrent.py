"""Bits of texts under a recurrent model, which reads each token of what they share once.

Other models read whole texts. A recurrent one has a state, and with it what comes after a path needs one step from the
state of the path before: a million texts behind one prefix of 22 characters are 5 million steps and not 31 million.

Shapes: B rows, M fed vertices of a token tree, E edges, P prefix tokens, N texts, V vocabulary entries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from hf_exposure.context import CanaryContext
from hf_exposure.errors import NonFiniteScoreError
from hf_exposure.runtime.model_state import evaluating, model_device
from hf_exposure.scoring.encoding import EncodedTexts, Encoder
from hf_exposure.scoring.protocol import Scorer
from hf_exposure.scoring.token_tree import IntArray, PathBits, PathQuery, PathTree, SequenceTree, TokenTree

_ROWS = 8192  # texts of one tree: their states are kept while it is read


class RecurrentModel(Protocol):
    """A `torch.nn.Module` that also reads one token at a time."""

    def step(self, token_B: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """Logits (B, V) after one more token, and the state then.

        Args:
            state: what the last step returned; None at the beginning. Tensors with the rows in their second
                dimension, or tuples of such: what `torch.nn.LSTM` and `torch.nn.GRU` take and return.
        """


class RecurrentScorer(Scorer):
    """Scores texts and search states step by step, each state of the model computed once.

    The state after a prefix is kept for the next call: after a training step, make a new scorer.

    Args:
        model: a module with a `step`; left as it was found.
        tokenizer: its tokenizer.
        end_token: whether the end of each text is scored too.
        context: what stood before each text in training.
        rows: texts whose states are kept at the same time. Lower it to save memory.

    Example:
        >>> class Letters(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.embedding, self.body = torch.nn.Embedding(384, 8), torch.nn.GRU(8, 8, batch_first=True)
        ...         self.head = torch.nn.Linear(8, 384)
        ...     def step(self, token_B, state):
        ...         hidden, state = self.body(self.embedding(token_B)[:, None], state)
        ...         return self.head(hidden[:, 0]), state
        >>> from transformers import ByT5Tokenizer
        >>> scorer = RecurrentScorer(Letters(), ByT5Tokenizer())
        >>> scorer.sequence_bits(scorer.encode(["pin 123", "pin 124"])).shape
        (2,)
    """

    tolerance_bits = 1e-4
    mode = "recurrent"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        end_token: bool = False,
        context: CanaryContext | None = None,
        rows: int = _ROWS,
    ) -> None:
        self.encoder = Encoder.of(tokenizer, end_token=end_token, context=context)
        self._model, self._rows = model, rows
        self._prefix: tuple[tuple[int, ...], Any, np.ndarray, np.ndarray] | None = None

    def sequence_bits(self, encoded: EncodedTexts) -> np.ndarray:
        """(N,) log-perplexity of each text."""
        ids_NL = encoded.matrix_NL
        order_N, bits_N = np.lexsort(ids_NL.T[::-1]), np.empty(len(ids_NL))
        for first in range(0, len(ids_NL), self._rows):  # neighbors in this order share the most
            chosen = order_N[first : first + self._rows]
            sequences = SequenceTree.of_matrix(ids_NL[chosen], encoded.first_scored)
            edge_bits_E = self._edge_bits(sequences.tree)
            bits_N[chosen] = sequences.totals(edge_bits_E, self._after(sequences.tree.prefix_P)[2])
        return bits_N

    def prefix_bits(self, prefix: Sequence[int]) -> np.ndarray:
        """(P,) bits of each token of a prefix; NaN for context."""
        return np.where(np.arange(len(prefix)) < self.encoder.first_scored, np.nan, self._after(prefix)[2])

    def path_bits(self, prefix: Sequence[int], queries: Sequence[PathQuery]) -> list[PathBits]:
        """Bits of the runs and of the children."""
        paths = PathTree.of(prefix, queries)
        return paths.answers(self._edge_bits(paths.tree))

    def _edge_bits(self, tree: TokenTree) -> np.ndarray:
        """(E,) bits of each edge: all vertices of one depth are one batch."""
        state, bits_V, _ = self._after(tree.prefix_P)
        bits_E = np.zeros(len(tree.edge_token_E))
        at_end = tree.edge_parent_E < 0
        bits_E[at_end] = bits_V[tree.edge_token_E[at_end]] if len(bits_V) else 0.0
        depth_E = np.where(at_end, 0, tree.depth_M[tree.edge_parent_E]) if tree.size else np.zeros(len(bits_E), int)
        place_M = np.full(tree.size, -1)
        for depth in range(1, int(tree.depth_M.max(initial=0)) + 1):
            fed = np.flatnonzero(tree.depth_M == depth)
            parents = place_M[tree.parent_M[fed]] if depth > 1 else np.zeros(len(fed), dtype=np.int64)
            bits_BV, state = self._step(tree.token_M[fed], None if state is None else _rows_of(state, parents))
            place_M[fed] = np.arange(len(fed))
            read = np.flatnonzero(depth_E == depth)
            bits_E[read] = bits_BV[place_M[tree.edge_parent_E[read]], tree.edge_token_E[read]]
        return bits_E

    def _after(self, prefix: Sequence[int] | IntArray) -> tuple[Any, np.ndarray, np.ndarray]:
        """After a prefix, kept for the next call: the state, (V,) bits of the next token, (P,) bits of the prefix."""
        ids = tuple(int(token) for token in prefix)
        if self._prefix is None or self._prefix[0] != ids:
            state, bits_V, along = None, np.zeros(0), []  # type: Any, np.ndarray, list[float]
            for token in ids:
                along.append(float(bits_V[token]) if len(bits_V) else 0.0)
                bits_BV, state = self._step(np.array([token]), state)
                bits_V = bits_BV[0]
            self._prefix = (ids, state, bits_V, np.array(along))
        return self._prefix[1:]

    def _step(self, token_B: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        with evaluating(self._model):
            logits_BV, state = self._model.step(torch.from_numpy(token_B).to(model_device(self._model)), state)
            bits_BV = torch.log_softmax(logits_BV.double(), dim=-1) / -math.log(2)
        if bits_BV.isnan().any():
            raise NonFiniteScoreError(where="after a step")
        return bits_BV.cpu().numpy(), state


def _rows_of(state: Any, rows_B: np.ndarray) -> Any:
    if isinstance(state, torch.Tensor):
        return state[:, torch.from_numpy(rows_B).to(state.device)]
    return tuple(_rows_of(part, rows_B) for part in state)
