"""Whether a run is a valid test: were its inserted canaries trained on?

A canary that never reached the loss looks exactly like one that was not memorized. So this question comes before every
other, and its answer is stored with the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hf_exposure.fields import Amount, Count, Positive

# The tolerance for a trainer's epoch, which is a sum of floats.
_WHOLE_EPOCH = 1 - 1e-6


class Validity(StrEnum):
    """The validity of a run's figures as a test of memorization."""

    VALID = "valid"
    """Every inserted canary was trained on, as many times as intended."""
    IMPAIRED = "impaired"
    """Every inserted canary is in the training data and counts in the loss, but some fewer times than intended or
    only in part, or training has not completed its first epoch, or a held-out control is in the training data. The
    figures are valid for the actual training, not for the repetitions that they are listed under.
    """
    INVALID = "invalid"
    """At least one inserted canary was not trained on: it is not in the training data, or its secret is masked out of
    the loss. The figures say nothing about memorization."""
    UNCHECKED = "unchecked"
    """The training data were not checked: they cannot be read in advance (a stream), and doses were not counted."""


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How many of the inserted canaries are in the training data, and how many count in the loss.

    Attributes:
        inserted: number of canaries that should be in the training data.
        found: number of these that are in it at least once, complete.
        trained: number of the found ones that count in the loss: not all tokens of the secret are masked.
        reduced: number of the trained ones that are in the data fewer times than intended, or with some tokens of
            their secret masked.
        controls_found: number of held-out controls that are in the training data.
        epochs: passes over the data until the measurement; None if unknown.
        pending: number of those not trained on that the first pass over the data may still reach.

    Example:
        >>> Delivery(inserted=8, found=8, trained=0).validity
        <Validity.INVALID: 'invalid'>
    """

    inserted: Positive
    found: Count
    trained: Count
    reduced: Count = 0
    controls_found: Count = 0
    epochs: Amount | None = None
    pending: Count = 0

    @property
    def validity(self) -> Validity:
        """Invalid if one or more inserted canaries were not trained on, since a mean over them would hide it."""
        if self.trained + self.pending < self.inserted:
            return Validity.INVALID
        return Validity.IMPAIRED if self.flaws else Validity.VALID

    @property
    def flaws(self) -> tuple[str, ...]:
        """The flaws in words, one clause for each kind; empty if the run is valid."""
        if self.trained + self.pending < self.inserted:
            return (self._missing(),)
        found = []
        if self.reduced:
            found.append(f"{self.reduced} of {self.inserted} inserted canaries were trained on less than intended")
        if self.controls_found:
            verb = "control is" if self.controls_found == 1 else "controls are"
            found.append(f"{self.controls_found} held-out {verb} in the training data")
        if self.epochs is not None and self.epochs < _WHOLE_EPOCH:
            found.append(f"training covered only {self.epochs:.2g} of an epoch, so some canaries were not reached")
        return tuple(found)

    def _missing(self) -> str:
        of = f"of {self.inserted} inserted canaries"
        if self.found < self.inserted:
            said = f"{self.found} {of} were found in the training data"
            return said if self.trained == self.found else f"{said}, and {self.trained} count in the loss"
        return f"{self.trained} {of} count in the loss; the others are in the training data, but masked or cut"
