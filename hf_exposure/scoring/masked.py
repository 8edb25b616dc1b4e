"""The scorer for masked language models: pseudo-log-likelihoods.

Shapes: N texts of at most L tokens, R rows (one for each scored token of each distinct text), B of them with T tokens
each in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn

from hf_exposure.checks import check_tokenizer
from hf_exposure.errors import InputError, NonFiniteScoreError
from hf_exposure.runtime.batches import BatchCheck, rows_mix, score_in_batches
from hf_exposure.runtime.logits import ForwardCounts, LogitReader
from hf_exposure.runtime.model_state import evaluating, model_device
from hf_exposure.runtime.precision import EIGHT_BITS
from hf_exposure.runtime.processes import SINGLE_PROCESS, Processes
from hf_exposure.scoring.arguments import (
    check_batch_tokens,
    check_length,
    check_vocabulary,
    context_length,
    vocabulary_entries,
)
from hf_exposure.scoring.causal import agreement_bits, default_batch_tokens, tolerance_bits
from hf_exposure.scoring.encoding import EncodedTexts, Encoder, special_tokens_around
from hf_exposure.scoring.forward import Mode, bits_at
from hf_exposure.scoring.token_tree import PathBits, PathQuery


class MaskedScorer:
    """Scores texts under a masked language model by pseudo-log-likelihood.

    `PLL(x) = sum_i -log2 p(x_i | x with token i masked)`: each token is masked in turn and predicted from all the
    others. It is not a log-perplexity: the sum is not the logarithm of a probability of the text, and `2^-bits` over
    all texts does not sum to at most 1. Ranks and exposures among texts of one template are still well defined. An
    incomplete text has no score, so there is no search.

    Special tokens around a text are visible but neither masked nor scored. Rows of a batch have equal length, without
    padding. A text of n tokens needs n rows.

    Source: Salazar et al. 2020, "Masked Language Model Scoring", Section 2.

    Args:
        model: any module that takes `input_ids` (B, T) and returns an object with `.logits` (B, T, V).
        tokenizer: a Hugging Face tokenizer with a mask token.
        max_batch_tokens, processes: as for `CausalScorer`.

    Raises:
        InputError: the tokenizer has no mask token.
    """

    why_no_search = "a masked model predicts each token from all the others"
    reading = None
    note = "log-perplexities are pseudo-log-likelihoods: each token given all others, not only those before it"

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        max_batch_tokens: int | None = None,
        processes: Processes = SINGLE_PROCESS,
    ) -> None:
        mask = getattr(tokenizer, "mask_token_id", None)
        if mask is None:
            rule = "must have a mask token for a model that reads in both directions"
            raise InputError("tokenizer", rule, type(tokenizer).__name__, "Set tokenizer.mask_token.")
        check_batch_tokens(max_batch_tokens)
        self.model, self._mask = model, int(mask)
        check_tokenizer(tokenizer)
        # Every token of a text is scored, its first one too; `trailing` is what the model sees after it.
        leading, self._trailing = special_tokens_around(tokenizer)
        self.encoder = Encoder(tokenizer, leading=leading, ending=(), first_scored=len(leading))
        self._reader = LogitReader(model)
        self._max_batch_tokens, self._processes = max_batch_tokens, processes
        self._batches = BatchCheck(processes)

    @property
    def mode(self) -> Mode:
        """`plain` for batches of rows, or `alone` for one row per call if the model mixes the rows of a batch."""
        return "alone" if self._batches.failed else "plain"

    @property
    def counts(self) -> ForwardCounts:
        """Calls of the model, rows and tokens fed so far."""
        return self._reader.counts

    @property
    def tolerance_bits(self) -> float:
        return tolerance_bits(self._reader.dtype)

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        return self.encoder.encode(texts)

    def sequence_bits(self, encoded: EncodedTexts) -> np.ndarray:
        """(N,) pseudo-log-likelihood of each text in bits, at least 0. Equal texts get equal figures.

        Raises:
            InputError: a text is longer than the model's context.
            NonFiniteScoreError: the model returned NaN; the message gives the text's number.
        """
        distinct = sorted(set(encoded.ids), key=lambda ids: (len(ids), ids))
        self._check_fit(encoded)
        leading, trailing = len(self.encoder.leading), self._trailing
        whole = ((len(ids), (*ids, *trailing)) for ids in distinct)
        rows = [(ids, at) for own, ids in whole for at in range(leading, own)]
        bits_R = np.zeros(len(rows))
        width_R = np.array([len(ids) for ids, _ in rows], dtype=np.int64)
        with evaluating(self.model):
            if (
                rows
                and self._reader.dtype == EIGHT_BITS
                and not (self._batches.failed or self._batches.trusted_tokens)
            ):
                longest, entries = np.array(rows[-1][0], dtype=np.int64), vocabulary_entries(self.model)
                self._batches.failed = rows_mix(self._reader, longest, entries, self._processes)
            # One length at a time, so that no padding is needed.
            for width in np.unique(width_R).tolist():
                start, stop = np.searchsorted(width_R, [width, width + 1]).tolist()
                bits_R[start:stop] = self._score_rows(rows[start:stop])
        ends = np.cumsum([len(ids) - leading for ids in distinct], dtype=np.int64)
        sums = [part.sum() for part in np.split(bits_R, ends[:-1])] if len(ends) else []
        totals = dict(zip(distinct, sums, strict=True))
        totals_N = np.array([totals[ids] for ids in encoded.ids], dtype=np.float64)
        if np.isnan(totals_N).any():
            raise NonFiniteScoreError(int(np.flatnonzero(np.isnan(totals_N))[0]))
        return totals_N

    def alone_bits(self, encoded: EncodedTexts) -> np.ndarray:
        self._refuse_search()

    def distrust_batches(self) -> None:
        self._batches.failed = True

    @property
    def lost_trust(self) -> bool:
        return self._batches.lost_trust

    def path_bits(self, prefix: Sequence[int], queries: Sequence[PathQuery]) -> list[PathBits]:
        self._refuse_search()

    def prefix_bits(self, prefix: Sequence[int]) -> np.ndarray:
        self._refuse_search()

    def samples_at_once(self, samples: int, length: int) -> int:
        self._refuse_search()

    def sample_reader(self, prefix: Sequence[int], samples: int, length: int) -> NoReturn:
        self._refuse_search()

    def _score_rows(self, rows: list[tuple[tuple[int, ...], int]]) -> np.ndarray:
        """(R,) bits of the masked token at each row's position; the rows have equal length."""
        if self._max_batch_tokens is None:
            fits = default_batch_tokens(self.model, self._reader.reads_rows)
            self._max_batch_tokens = self._processes.all_reduce_min(fits)
        width_R = np.full(len(rows), len(rows[0][0]))

        def score(tokens: int) -> tuple[np.ndarray, int]:
            return score_in_batches(
                width_R, tokens, lambda own, _: self._score_batch([rows[row] for row in own]), self._processes
            )

        if not self._batches.failed:
            bits_R, self._max_batch_tokens = score(self._max_batch_tokens)
            if self._batches.passes(
                min(self._max_batch_tokens, int(width_R.sum())),
                range(len(rows)),
                lambda row: bits_R[row : row + 1],
                lambda row: self._processes.run_then_barrier(lambda: self._score_batch([rows[row]])),
                agreement_bits(self._reader.dtype),
            ):
                return bits_R
        return score(1)[0]

    def _score_batch(self, rows: list[tuple[tuple[int, ...], int]]) -> np.ndarray:
        device = model_device(self.model)
        ids_BT = torch.as_tensor([ids for ids, _ in rows], device=device)
        row_B, place_B = torch.arange(len(rows), device=device), torch.as_tensor([at for _, at in rows], device=device)
        token_B = ids_BT[row_B, place_B]
        ids_BT[row_B, place_B] = self._mask
        logits = self._reader(input_ids=ids_BT)
        return bits_at(logits, row_B * logits.positions + place_B, row_B, token_B)

    def _check_fit(self, encoded: EncodedTexts) -> None:
        if len(encoded):
            tokens = encoded.matrix_NL.shape[1] + len(self._trailing)
            check_length(context_length(self.model), tokens, int(np.argmax(encoded.matrix_NL[:, -1])))
            check_vocabulary(vocabulary_entries(self.model), max(int(encoded.matrix_NL.max()), self._mask))

    def _refuse_search(self) -> NoReturn:
        raise InputError(
            "model",
            "must read from left to right to search texts: a masked model gives a prefix no score",
            type(self.model).__name__,
            "Use measure_exposure with method='enumerate', 'sample' or 'skew_normal'.",
        )
