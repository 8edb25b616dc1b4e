"""Signals of every token of every record from one forward pass: the input of membership statistics.

Rows are sorted by length, split into batches that fit in memory, and shared among the processes of a job. As for
scores, the result for a row in a batch is compared with the result for the row alone: a model whose rows influence
each other is evaluated row by row.

Shapes: N records, B rows of W tokens in a batch, n scored positions, V vocabulary entries, F signals per token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from hf_exposure.errors import InputError, NonFiniteScoreError
from hf_exposure.estimators.membership import TokenSignals
from hf_exposure.runtime.batches import BatchCheck, rows_mix, score_in_batches
from hf_exposure.runtime.logits import LogitReader, Logits
from hf_exposure.runtime.model_state import evaluating, model_device, unwrap_model
from hf_exposure.runtime.precision import EIGHT_BITS
from hf_exposure.runtime.processes import SINGLE_PROCESS, Processes
from hf_exposure.scoring.arguments import check_vocabulary, vocabulary_entries
from hf_exposure.scoring.causal import agreement_bits, default_batch_tokens
from hf_exposure.signals.record_rows import EncodedRecords

_FIGURES = 4
_LOG2_E = 1.0 / math.log(2.0)
# Tokens whose signals are in memory at the same time, including padding.
_TOKENS_AT_ONCE = 2**18
# Logits converted to float32 at once: on a CPU, as many as fit into the processor's cache.
_LOGITS_PER_PIECE = {"cpu": 2**18}
_LOGITS_PER_PIECE_ELSEWHERE = 2**24


class SignalReader:
    """Evaluates records under one model. Make a new reader after each training step.

    Args:
        model: a causal language model.
        max_batch_tokens: tokens per call; by default as many as the device has memory for.
        processes: the processes that share the work; each must make the same calls.

    Attributes:
        calls: number of model calls so far.

    Raises:
        NonFiniteScoreError: in `read`, if the model returned NaN; the error gives the record's number.
    """

    def __init__(
        self, model: nn.Module, *, max_batch_tokens: int | None = None, processes: Processes = SINGLE_PROCESS
    ) -> None:
        self.model = unwrap_model(model)
        self._reader = LogitReader(self.model)
        self._processes, self._batches = processes, BatchCheck(processes)
        self._max_batch_tokens = max_batch_tokens

    @property
    def calls(self) -> int:
        return self._reader.counts.calls

    def read(self, records: EncodedRecords) -> Iterator[tuple[int, TokenSignals]]:
        """Yields the number of each row and its signals, shortest rows first. Only some rows are in memory at a
        time.
        """
        if not len(records):
            return
        largest = max(int(ids.max()) for ids in records.ids)
        check_vocabulary(vocabulary_entries(self.model), largest)
        order = sorted(range(len(records)), key=lambda row: len(records.ids[row]))
        with evaluating(self.model):
            if self._reader.dtype == EIGHT_BITS and not self._batches.trusted_tokens:
                longest = records.ids[order[-1]].astype(np.int64)
                entries = vocabulary_entries(self.model)
                self._batches.failed |= rows_mix(self._reader, longest, entries, self._processes)
        for chosen in _pieces(order, records):
            with evaluating(self.model):
                figures = self._figures(records, chosen)
            for row, own in zip(chosen, figures, strict=True):
                yield row, _signals(own[: len(records.ids[row]) - records.first_scored_N[row]], records, row)

    def _figures(self, records: EncodedRecords, chosen: Sequence[int]) -> np.ndarray:
        """Returns (C, S, F) signals of the scored tokens of some rows, padded to the longest."""
        width_C = np.array([len(records.ids[row]) for row in chosen], dtype=np.int64)
        scored = max(len(records.ids[row]) - int(records.first_scored_N[row]) for row in chosen)

        def score(tokens: int) -> tuple[np.ndarray, int]:
            return score_in_batches(
                width_C,
                tokens,
                lambda own, together: self._score_batch(
                    records, [chosen[place] for place in own], int(width_C[together].max()), scored
                ),
                self._processes,
                shape=(scored, _FIGURES),
            )

        if not self._batches.failed:
            figures_C, self._max_batch_tokens = score(self._batch_tokens())
            if self._batches.passes(
                min(self._max_batch_tokens, int(width_C.sum())),
                range(len(chosen)),
                lambda place: figures_C[place, :, 0],
                lambda place: self._alone(records, chosen[place], scored),
                agreement_bits(self._reader.dtype),
            ):
                return figures_C
        return score(1)[0]

    def _alone(self, records: EncodedRecords, row: int, scored: int) -> np.ndarray:
        width = len(records.ids[row])
        found = self._processes.run_then_barrier(lambda: self._score_batch(records, [row], width, scored))
        return self._processes.broadcast(found[0, :, 0])

    def _score_batch(self, records: EncodedRecords, rows: Sequence[int], width: int, scored: int) -> np.ndarray:
        """Returns (B, S, F) signals of a batch whose rows are padded on the right, where padding does not affect
        tokens.
        """
        device = model_device(self.model)
        ids_BW = np.stack([np.pad(records.ids[row], (0, width - len(records.ids[row])), mode="edge") for row in rows])
        # Padding repeats a row's last token: any id in the vocabulary would do. A last token is predicted, never an
        # input.
        logits = self._reader(input_ids=torch.as_tensor(ids_BW[:, :-1].astype(np.int64), device=device))
        place_B, slot_B, token_B, target_B = [], [], [], []
        for place, row in enumerate(rows):
            ids, first = records.ids[row], int(records.first_scored_N[row])
            place_B.append(np.full(len(ids) - first, place))
            slot_B.append(np.arange(first, len(ids)) - 1)
            token_B.append(ids[first:])
            target_B.append(np.arange(len(ids) - first))
        place_n, slot_n, token_n, target_n = (np.concatenate(part) for part in (place_B, slot_B, token_B, target_B))
        found_nF = _token_figures(
            logits,
            torch.as_tensor(place_n * logits.positions + slot_n, device=device),
            torch.as_tensor(token_n.astype(np.int64), device=device),
        )
        if np.isnan(found_nF).any():
            place = int(place_n[np.flatnonzero(np.isnan(found_nF).any(axis=1))[0]])
            raise NonFiniteScoreError(where=f"for record {int(records.number_N[rows[place]])}")
        figures = np.zeros((len(rows), scored, _FIGURES))
        figures[place_n, target_n] = found_nF
        return figures

    def _batch_tokens(self) -> int:
        if self._max_batch_tokens is None:
            fits = default_batch_tokens(self.model, self._reader.reads_rows)
            self._max_batch_tokens = self._processes.all_reduce_min(fits)
        return self._max_batch_tokens


def _token_figures(logits: Logits, position_n: torch.Tensor, token_n: torch.Tensor) -> np.ndarray:
    """Returns (n, F): log2 p of each token, mean and variance of log2 p over the vocabulary, and whether it ranks
    first.
    """
    pieces = []
    step = _LOGITS_PER_PIECE.get(position_n.device.type, _LOGITS_PER_PIECE_ELSEWHERE) // logits.vocabulary_size
    for first in range(0, len(position_n), max(1, step)):
        part = slice(first, first + max(1, step))
        chosen_nV = logits.of(position_n[part])
        if chosen_nV.dtype != torch.float64:
            chosen_nV = chosen_nV.float()
        log_p_nV = torch.log_softmax(chosen_nV, dim=-1)
        p_nV = log_p_nV.exp()
        # Tokens with probability 0 are left out of the moments: 0 times -inf is NaN.
        known_nV = torch.where(p_nV > 0, log_p_nV, 0.0)
        mean_n1 = (p_nV * known_nV).sum(dim=-1, keepdim=True)
        variance_n = (p_nV * (known_nV - mean_n1) ** 2).sum(dim=-1)
        own_n = log_p_nV.gather(-1, token_n[part, None])[:, 0]
        likeliest_n = (chosen_nV.argmax(dim=-1) == token_n[part]).to(own_n.dtype)
        found = own_n * _LOG2_E, mean_n1[:, 0] * _LOG2_E, variance_n * _LOG2_E**2, likeliest_n
        pieces.append(torch.stack(found, dim=-1).double().cpu())
    return torch.cat(pieces).numpy()


def _pieces(order: Sequence[int], records: EncodedRecords) -> Iterator[list[int]]:
    """Yields rows in the given order, which is ascending in length, as many at a time as fit in memory."""
    piece: list[int] = []
    for row in order:
        if piece and (len(piece) + 1) * len(records.ids[row]) > _TOKENS_AT_ONCE:
            yield piece
            piece = []
        piece.append(row)
    yield piece


def _signals(figures_TF: np.ndarray, records: EncodedRecords, row: int) -> TokenSignals:
    log_probability_T, mean_T, variance_T, is_likeliest_T = figures_TF.T.copy()
    return TokenSignals(
        log_probability_T=log_probability_T,
        mean_T=mean_T,
        variance_T=variance_T,
        is_likeliest_T=is_likeliest_T.astype(bool),
        compressed_bits=float(records.compressed_bits_N[row]),
    )


def check_causal(model: nn.Module, why_no_search: str) -> None:
    """Raises an `InputError` for a model that does not read from left to right."""
    if why_no_search or getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        rule = "must be a causal language model: membership statistics need each token given those before it"
        raise InputError("model", rule, type(model).__name__, "Use measure_exposure for this kind of model.")
