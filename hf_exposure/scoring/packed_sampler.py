"""Many samples of a model's texts at once; each token is fed once, since the key-value caches of packed rows are kept.

`TreeLayout` determines the slot of each token and what it sees; this file feeds the model and reads its logits.

Shapes: A samples that take a step, T new tokens of each at most, C children of each at most; B rows of W new slots in
one batch, P prefix tokens, F slots of a row after the prefix, Q queries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hf_exposure.errors import OutOfStepError
from hf_exposure.runtime.logits import CacheRefused, LogitReader, attention_layers, repeat_cache
from hf_exposure.runtime.model_state import compute_dtype, evaluating, model_device
from hf_exposure.runtime.processes import SINGLE_PROCESS, Processes, is_out_of_memory
from hf_exposure.scoring.forward import Prefix, attention_mask, bits_at
from hf_exposure.scoring.token_tree import IntArray
from hf_exposure.scoring.tree_layout import NewSlots, TokenQueries, TreeLayout


class PackedSampler:
    """Scores what follows the paths of many samples, which grow step by step after one prefix.

    Args:
        reader: the reader of the model.
        prefix: the prefix after its forward pass, with a cache.
        prefix_length: P.
        samples: the number of samples, which are numbered so that neighbors have most in common.
        row_samples: the number of samples in a row.
        reads_rows_of: whether the model is right in rows of so many slots, with the prefix. All processes ask it, at
            the same steps.
        batch_rows: the number of rows in one call of the model.
        processes: the processes, each of which feeds its part of the rows, in equally many calls of equal shapes.
    """

    def __init__(
        self,
        reader: LogitReader,
        prefix: Prefix,
        prefix_length: int,
        samples: int,
        row_samples: int,
        reads_rows_of: Callable[[int], bool],
        batch_rows: int,
        processes: Processes = SINGLE_PROCESS,
    ) -> None:
        self._reader, self._prefix, self._prefix_length, self._processes = reader, prefix, prefix_length, processes
        self._reads_rows_of = reads_rows_of
        row_S = np.arange(samples) // row_samples
        rows = int(row_S[-1]) + 1
        share = -(-rows // processes.num_shards)
        # Rows after the last sample are fed too, so that calls are equal on all processes.
        own = range(processes.shard * share, (processes.shard + 1) * share)
        self._rows = [own[first : first + batch_rows] for first in range(0, share, batch_rows)]
        self._caches: list[Any] = [None] * len(self._rows)
        self._layout = TreeLayout(row_S, batch_R=np.arange(rows) % share // batch_rows)

    def step(
        self, sample_A: IntArray, tokens_AT: IntArray, run_A: IntArray, children_AC: IntArray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Appends tokens to the paths of the given samples and scores what follows; see `SampleReader`.

        Raises:
            CacheRefused: the model cannot continue from its cache, which it may show by any exception. An error with
                another cause occurs again when whole paths are scored.
        """
        new = self._layout.append(sample_A, tokens_AT)
        asked = new.queries(tokens_AT, run_A, children_AC)
        if not self._reads_rows_of(self._prefix_length + int((new.filled_G + new.width_G).max())):
            raise CacheRefused("rows longer than the model reads")

        def own_part() -> np.ndarray:
            bits_Q = np.zeros(len(asked.token_Q))
            with evaluating(self._reader.model):
                for batch, width in enumerate(new.width_G.tolist()):
                    if width:
                        self._feed(batch, new, asked, bits_Q)
            return bits_Q

        try:
            bits_Q = self._processes.all_reduce_sum(own_part)
        except (OutOfStepError, CacheRefused):
            raise
        except Exception as error:
            what = "too large for the memory" if is_out_of_memory(error) else "from which the model cannot continue"
            raise CacheRefused(f"a cache {what}") from error
        # Unrequested bits have the number -1, and so get the figure at the end.
        run_number_AT, child_number_AC = np.split(asked.number_AX, [tokens_AT.shape[1]], axis=1)
        return np.append(bits_Q, 0.0)[run_number_AT].sum(axis=1), np.append(bits_Q, np.inf)[child_number_AC]

    def _feed(self, batch: int, new: NewSlots, asked: TokenQueries, bits_Q: np.ndarray) -> None:
        """Calls the model for one batch of this process's rows, and stores the answers."""
        rows, cache = self._rows[batch], self._caches[batch]
        token_BW, depth_BW, sees_BWF = new.of_batch(batch, rows.start, rows.stop)
        device, width = model_device(self._reader.model), token_BW.shape[1]
        logits = self._reader(
            input_ids=torch.as_tensor(token_BW, device=device),
            position_ids=torch.as_tensor(self._prefix_length + depth_BW, device=device),
            attention_mask=attention_mask(
                torch.as_tensor(sees_BWF, device=device), self._prefix_length, compute_dtype(self._reader.model)
            ),
            use_cache=True,
            **{self._prefix.cache_name: repeat_cache(self._prefix.cache, len(rows)) if cache is None else cache},
        )
        length = self._prefix_length + sees_BWF.shape[2]
        if any(layer.keys.shape[-2] != length for layer in attention_layers(logits.cache)):
            raise CacheRefused("a cache that does not grow by the tokens fed")
        self._caches[batch] = logits.cache
        own = asked.of_rows(rows.start, rows.stop)
        # The flat positions to read; they ascend, like the queries.
        flat_Q = (asked.row_Q[own] - rows.start) * width + asked.slot_Q[own] - int(new.filled_G[batch])
        is_next_Q = np.diff(flat_Q, prepend=-1) > 0
        bits_Q[own] = bits_at(
            logits,
            torch.as_tensor(flat_Q[is_next_Q], device=device),
            torch.as_tensor(np.cumsum(is_next_Q) - 1, device=device),
            torch.as_tensor(asked.token_Q[own], device=device),
        )
