"""The ledger counts, in the batches that reach the model, how often token sequences contribute to the loss.

Reading a dataset cannot show the effects of packing, filters, samplers, collators, streams and resuming. The ledger
reads the training batches themselves, so it counts what actually happened.

Nothing waits for the device: batches are copied to the CPU asynchronously, and are searched there, many at a time, by
the same search that checks datasets (`PatternSearch`). Only reading the counts waits.

Shapes: K owners of sequences; 4 kinds of contribution.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_exposure.data.token_search import Match, PatternSearch
from hf_exposure.records.doses import Uncounted
from hf_exposure.runtime.tap import HostCopies
from hf_exposure.runtime.trained_rows import TrainedRows, sequence_tensors, trained_rows

WHOLE, PARTLY, MASKED, CUT = KINDS = range(4)
_TOKENS_AT_ONCE = 2**16


def contributions(rows: TrainedRows, search: PatternSearch, secrets: Mapping[int, slice]) -> list[tuple[Match, int]]:
    """Each occurrence of a sequence in a document, complete or cut, with the kind of its contribution to the loss.

    CUT: only a piece of it is present. WHOLE: it is complete, and each token counts except the first of a document.
    PARTLY: it is complete, and some token of its secret counts. MASKED: it is complete, and no token of its secret
    counts.

    Args:
        rows: the rows that were trained on.
        search: the search for the sequences.
        secrets: the slice of a sequence's tokens that is its secret, by the number of its pattern; all of them by
            default.

    Example:
        >>> rows = TrainedRows(np.array([9, 1, 2, 3]), np.array([False, True, True, False]), np.ones(4, bool),
        ...     np.array([0, 4]))
        >>> search = PatternSearch([(0, [1, 2]), (1, [2, 3])])
        >>> [(match.owner, kind) for match, kind in contributions(rows, search, {1: slice(1, 2)})]
        [(0, 0), (1, 2)]
    """
    found = []
    for match in search.find(rows.values_T, rows.offsets):
        first, after = int(rows.offsets[match.row]), int(rows.offsets[match.row + 1])
        start = first + match.start
        low, high = max(start, first), min(start + match.length, after)
        secret = secrets.get(match.pattern, slice(0, match.length))
        # The first token of a document is never predicted, so it need not count for a sequence.
        begin = low + (low == first and not rows.trained_T[low])
        if not match.whole:
            kind = CUT
        elif begin < high and rows.trained_T[begin:high].all():
            kind = WHOLE
        elif rows.trained_T[start + secret.start : start + secret.stop].any():
            kind = PARTLY
        else:
            kind = MASKED
        found.append((match, kind))
    return found


class DoseLedger:
    """Counts, on this process, how often each sequence contributed to the loss.

    Args:
        patterns: (owner, token ids, slice of the secret), as for `PatternSearch`: several sequences of one owner that
            end at the same position count once.
        owners: the number of owners, K.
        labels_are_text: whether the labels are the text, as for an encoder-decoder model.

    Attributes:
        batches: the number of batches seen.
        uncounted: why the counts are unknown; None if they are known.

    Example:
        >>> import torch
        >>> ledger = DoseLedger([(0, (5, 6, 7), slice(1, 3))], owners=1)
        >>> ids = torch.tensor([[4, 5, 6, 7], [5, 6, 7, 4]])
        >>> ledger.see({"input_ids": ids, "labels": ids})
        >>> ledger.see({"input_ids": ids[:1], "labels": torch.tensor([[-100, -100, -100, 7]])})
        >>> ledger.counts_K4().tolist()
        [[2, 1, 0, 0]]
    """

    def __init__(
        self,
        patterns: Iterable[tuple[int, tuple[int, ...], slice]],
        owners: int,
        *,
        labels_are_text: bool = False,
    ) -> None:
        listed = list(patterns)
        self._search = PatternSearch([(owner, ids) for owner, ids, _ in listed])
        self._secrets = {number: secret for number, (*_, secret) in enumerate(listed)}
        self._labels_are_text = labels_are_text
        self._counts_K4 = np.zeros((owners, len(KINDS)), dtype=np.int64)
        self._copies, self._pending_tokens = HostCopies(), 0
        self._lock = threading.Lock()  # nn.DataParallel calls the model's copies in threads
        self.batches = 0
        self.uncounted: Uncounted | None = None

    def see(self, inputs: Mapping[str, Any]) -> None:
        """Receives one training batch, by the names of the forward pass's arguments. It never raises and never
        waits.
        """
        self.batches += 1
        if self.uncounted is not None:
            return
        try:
            self._see(inputs)
        except Exception:  # a failure to count must not end a training
            self.uncounted = Uncounted.FAILED

    def counts_K4(self) -> npt.NDArray[np.int64]:
        """(K, 4) how often each owner's sequence occurred, by kind of contribution. This waits for the device."""
        self._read(wait=True)
        return self._counts_K4.copy()

    def _see(self, inputs: Mapping[str, Any]) -> None:
        tensors = sequence_tensors(inputs)
        labels = tensors.get("shift_labels", tensors.get("labels"))
        if labels is None:
            self.uncounted = Uncounted.NO_LABELS
            return
        if labels.ndim != 2:
            self.uncounted = Uncounted.NOT_TOKENS
            return
        self._copies.put(tensors)
        self._pending_tokens += labels.numel()
        if self._pending_tokens >= _TOKENS_AT_ONCE:
            self._read(wait=False)

    def _read(self, *, wait: bool) -> None:
        with self._lock:
            self._pending_tokens = 0
            try:
                parts = [
                    trained_rows(batch, labels_are_text=self._labels_are_text)
                    for batch in self._copies.take(wait=wait)
                ]
            except ValueError:
                self.uncounted = Uncounted.NOT_TOKENS
                return
            except Exception:
                self.uncounted = Uncounted.FAILED
                return
            rows = TrainedRows.joined(parts)
            for match, kind in contributions(rows, self._search, self._secrets):
                self._counts_K4[match.owner, kind] += 1
