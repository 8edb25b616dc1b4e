"""How often each canary was actually trained on, as counted at the loss, and how often it should have been."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from hf_exposure.fields import Count

# The tolerance for a trainer's epoch, which is a sum of floats.
_SLACK = 1e-6


class Uncounted(StrEnum):
    """Why it is unknown how often canaries were trained on."""

    SWITCHED_OFF = "switched_off"
    """Counting was not requested."""
    NO_LABELS = "no_labels"
    """The training loop does not pass the labels to the model, as a `Trainer` with label smoothing or a custom loss
    function: the model's inputs do not show which tokens count.
    """
    NOT_TOKENS = "not_tokens"
    """A training batch has no label for each token of a row."""
    NO_TOKENIZER = "no_tokenizer"
    """The training has no tokenizer, so that canaries cannot be encoded as tokens."""
    NO_BATCHES = "no_batches"
    """The training loop calls a part of the model, or its `forward`, which bypasses the model's hooks, so that no
    batch was seen.
    """
    RANDOM_MASKS = "random_masks"
    """A masked language model never predicts a whole text at once."""
    RESUMED_WITHOUT_COUNTS = "resumed_without_counts"
    """The weights come from a checkpoint without counts."""
    BEGUN_AGAIN = "begun_again"
    """The trainer ran out of memory after its first step, and restarted with the weights of that time."""
    FAILED = "failed"
    """A training batch could not be read."""

    @property
    def reason(self) -> str:
        """The reason in words, to follow "not counted:"."""
        return _REASONS[self]


_REASONS = {
    Uncounted.SWITCHED_OFF: "count_doses=False",
    Uncounted.NO_LABELS: (
        "the training loop keeps the labels from the model, as with label_smoothing_factor or compute_loss_func"
    ),
    Uncounted.NOT_TOKENS: "training batches have no label for each token",
    Uncounted.NO_TOKENIZER: "the training has no tokenizer to encode canaries as tokens",
    Uncounted.NO_BATCHES: "the training loop bypasses the model's hooks, so that no batch was seen",
    Uncounted.RANDOM_MASKS: "a masked language model never predicts a whole text at once",
    Uncounted.RESUMED_WITHOUT_COUNTS: "the weights come from a checkpoint without counts",
    Uncounted.BEGUN_AGAIN: "auto_find_batch_size restarted the training with the weights after some steps",
    Uncounted.FAILED: "a training batch could not be read",
}


@dataclass(frozen=True, kw_only=True)
class CanaryDose:
    """How often one canary was trained on until a step of a training.

    Attributes:
        canary_id: the canary's id.
        whole: how often its whole token sequence contributed to the loss: each of its tokens was a label, except that
            the first token of a document is never predicted.
        partly: how often it was complete, and some tokens of its secret counted in the loss, but not all tokens.
        masked: how often it was complete, and no token of its secret counted in the loss.
        cut: how often only a piece of it was there, cut by truncation or packing, whether or not it counted. A canary
            that packing cuts in two may count twice, and a piece that fits several canaries counts for each of them.
        repetitions: how many times it was inserted; 0 for a control.
        least, most: how often it should have contributed, given its repetitions and the passes over the data: the
            passes that were completed and those that were started give the two limits.

    Example:
        >>> CanaryDose(canary_id="a", whole=7, repetitions=8, least=8, most=8).differs
        True
    """

    canary_id: str
    whole: Count
    partly: Count = 0
    masked: Count = 0
    cut: Count = 0
    repetitions: Count = 0
    least: Count = 0
    most: Count = 0

    @property
    def differs(self) -> bool:
        """Whether it was trained on more or less often than inserted; for a control, whether it was trained on at
        all.
        """
        return not self.least <= self.whole <= self.most

    @property
    def is_trained(self) -> bool:
        """Whether its secret contributed at least once, in whole or in part."""
        return self.whole + self.partly > 0


@dataclass(frozen=True, kw_only=True)
class Doses:
    """How often the training batches contained the canaries until a step of a training, over all processes.

    Attributes:
        counted: one record for each canary, inserted ones first; empty if they were not counted.
        uncounted: why they were not counted; None if they were.

    Example:
        >>> Doses(counted=(CanaryDose(canary_id="a", whole=8, least=8, most=8),)).differing
        ()
    """

    counted: tuple[CanaryDose, ...] = ()
    uncounted: Uncounted | None = None

    @property
    def differing(self) -> tuple[CanaryDose, ...]:
        """The canaries that were trained on more or less often than they were inserted."""
        return tuple(one for one in self.counted if one.differs)


def expected_doses(repetitions: int, epochs: float) -> tuple[int, int]:
    """The smallest and the largest number of times that a canary should be trained on, given its repetitions and the
    passes.

    Within a pass the order of rows is unknown, so the two differ during a pass.

    Example:
        >>> expected_doses(4, 2.0), expected_doses(4, 2.5), expected_doses(0, 2.5)
        ((8, 8), (8, 12), (0, 0))
    """
    return repetitions * math.floor(epochs + _SLACK), repetitions * math.ceil(epochs - _SLACK)
