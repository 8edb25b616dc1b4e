"""Batches that fit into memory: sorted rows are cut by a budget of tokens, which is halved when memory runs out.

There is also a check that batching does not change figures, since a model may mix the rows of a batch, or read their
padding.

Shapes: N texts, R rows of T tokens, n figures of one text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from hf_exposure.errors import InputError
from hf_exposure.runtime.logits import LogitReader
from hf_exposure.runtime.model_state import model_device
from hf_exposure.runtime.processes import SINGLE_PROCESS, Processes, is_out_of_memory

# If a call feeds this many times the tokens of any checked call, this many of its texts are also scored alone; if it
# feeds more at all, or if earlier scorers of the model checked as many, only the one that was fed last.
_GROWTH = 4.0
_CHECKED_TEXTS = 3
_OTHER_ROWS = 4


@dataclass
class BatchCheck:
    """Checks whether texts get the same figures in batches as alone.

    It checks the first call, and again each call that is larger than any before: for instance, a limit on the tokens
    of an expert shows only in a large batch, and there in the texts that are fed last.

    Attributes:
        processes: the processes that score together.
        trusted_tokens: tokens of the largest call that was found right.
        failed: whether a batch was found wrong; from then on, texts are scored alone.
        known_tokens: tokens of the largest call that was found right in an earlier state of the same model.
    """

    processes: Processes = SINGLE_PROCESS
    trusted_tokens: float = 0.0
    failed: bool = False
    known_tokens: float = 0.0

    @property
    def lost_trust(self) -> bool:
        """Whether a batch was found wrong after others had been used, which may have been wrong too."""
        return self.failed and self.trusted_tokens > 0

    def passes(
        self,
        tokens: int,
        order_N: Sequence[int] | np.ndarray,
        in_batch: Callable[[int], np.ndarray],
        alone: Callable[[int], np.ndarray],
        tolerance: float,
    ) -> bool:
        """Whether the figures of the last call may be used.

        Args:
            tokens: the number of tokens in its largest batch.
            order_N: the numbers of its texts, by how late in their batch they were fed. The last is compared, and if
                the batch is much larger than any before, the first and one between as well.
            in_batch, alone: functions from a text's number to its (n,) figures.
            tolerance: bits within which the figures must agree.

        Raises:
            InputError: the model gives one text different figures in two calls.
        """
        if self.failed or tokens <= self.trusted_tokens:
            return not self.failed
        known = max(self.trusted_tokens, self.known_tokens)
        most = _CHECKED_TEXTS if tokens > _GROWTH * known else 1
        chosen = np.unique(np.linspace(len(order_N) - 1, 0, num=min(most, len(order_N))).astype(int))
        numbers = np.asarray(order_N)[chosen].tolist()
        own = [alone(number) for number in numbers]
        holds = all(all_close(in_batch(number), bits, tolerance) for number, bits in zip(numbers, own, strict=True))
        if self.processes.all_reduce_min(int(holds)):
            self.trusted_tokens = tokens
            return True
        self.failed = True
        check_repeats(own[0], alone(numbers[0]), tolerance)
        return False


def all_close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    """Whether all figures agree within `tolerance` bits; NaN agrees with nothing."""
    return bool(np.allclose(found, expected, rtol=0.0, atol=tolerance))


def check_repeats(first_n: np.ndarray, second_n: np.ndarray, tolerance: float) -> None:
    """Raises an `InputError` if one text's figures differ between two calls. NaN is left to other checks."""
    if not np.allclose(first_n, second_n, rtol=0.0, atol=tolerance, equal_nan=True):
        raise changing_logits_error(f"{np.nanmax(np.abs(first_n - second_n)):.3g} bits between two calls")


def rows_mix(
    reader: LogitReader, row_T: np.ndarray, entries: int | None, processes: Processes, **inputs: torch.Tensor
) -> bool:
    """Whether a row's logits depend, in any bit, on the contents of another row in its batch.

    All calls have one shape, so that a model that keeps its rows apart computes the row in the same way each time. The
    other rows contain tokens from the whole vocabulary, since a quantization step that rows share depends on the
    largest entry.

    Args:
        reader: the reader of the model, in evaluation mode.
        row_T: token ids of the row.
        entries: entries of the vocabulary; None to use those of the row alone.
        processes: the processes, each of which must make this call; all get the same answer.
        **inputs: further inputs of the model, for two rows.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16)).eval()
        >>> rows_mix(LogitReader(model), np.array([5, 6, 7]), 384, SINGLE_PROCESS)
        False
    """
    known_V = np.unique(row_T) if entries is None else np.arange(entries)
    length = len(row_T)
    spread = np.linspace(0, len(known_V) - 1, num=length * _OTHER_ROWS).astype(int)
    other_RT = known_V[spread].reshape(length, _OTHER_ROWS).T
    device = model_device(reader.model)

    def logits_beside(other_T: np.ndarray) -> torch.Tensor:
        ids = torch.as_tensor(np.stack([row_T, other_T]), dtype=torch.long, device=device)
        return reader(input_ids=ids, **inputs).of(torch.arange(length, device=device))

    def mixes() -> bool:
        first = logits_beside(row_T)
        return not all(torch.equal(logits_beside(other_T), first) for other_T in other_RT)

    with torch.no_grad():
        return not processes.all_reduce_min(int(not processes.run_then_barrier(mixes)))


def changing_logits_error(received: str) -> InputError:
    """The error for a model that gives one text different logits in two calls."""
    rule = "must give one text the same logits in every call"
    return InputError(
        "model", rule, received, "Remove everything that depends on earlier calls or on chance in evaluation mode."
    )


def score_in_batches(
    width_R: np.ndarray,
    tokens: int,
    score: Callable[[npt.NDArray[np.int64], slice], np.ndarray],
    processes: Processes = SINGLE_PROCESS,
    *,
    shape: tuple[int, ...] = (),
) -> tuple[np.ndarray, int]:
    """Calls `score` for every row, batch by batch.

    Args:
        width_R: the number of tokens of each row, ascending: a batch is as wide as its last row.
        tokens: the maximum number of tokens in one batch of one process; a wider row is scored alone.
        score: a function from row numbers to the float64 figures of each. It also gets the slice of the rows that all
            processes score in this round: padded to the longest of these, every process makes calls of equal shapes.
        processes: the processes that share the rows. A process without rows scores the last row.
        shape: the shape of one row's figures; one figure by default.

    Returns:
        (R, *shape) figures, and the final budget, which is smaller than `tokens` if a device ran out of memory.

    Example:
        >>> def rows_of_the_batch(rows, all_rows):
        ...     return np.full(len(rows), len(rows))
        >>> figures, held = score_in_batches(np.array([2, 2, 3, 9]), 6, rows_of_the_batch)
        >>> figures.tolist(), held
        ([2.0, 2.0, 1.0, 1.0], 6)
    """
    figures_R = np.zeros((len(width_R), *shape))
    first = 0
    while first < len(width_R):
        # Process i scores rows i, i + n, i + 2n, ...; all make as many calls as the busiest one.
        each = np.arange(len(width_R) - first) // processes.num_shards + 1
        fits = int((each * width_R[first:] <= tokens).sum())
        batch = slice(first, min(len(width_R), first + max(processes.num_shards, fits)))
        own = first + processes.shard + processes.num_shards * np.arange(each[batch.stop - 1 - first])
        try:
            found = processes.run_then_barrier(partial(score, np.minimum(own, len(width_R) - 1), batch))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(own) == 1:
                raise
            tokens = len(own) // 2 * int(width_R[batch.stop - 1])
            continue
        is_real = own < batch.stop
        figures_R[own[is_real]] = found[is_real]
        first = batch.stop
    return processes.all_reduce_sum(lambda: figures_R), tokens
