"""Whether a run can be judged at all: were its inserted canaries trained on?

A canary that never reached the loss looks exactly like one that was not memorized. So this question comes before every
other, and its answer is data that travels with the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hf_exposure.fields import Amount, Count, Positive

# The epoch of a trainer is a float that was summed up.
_WHOLE_EPOCH = 1 - 1e-6


class Validity(StrEnum):
    """What the figures of a run are worth as a test of memorization."""

    VALID = "valid"
    """Every inserted canary was trained on, as many times as intended."""
    IMPAIRED = "impaired"
    """Every inserted canary is in the training data and counts in the loss, but some fewer times than intended or in
    part, or training has not completed its first epoch, or a held-out control is in the training data. The figures
    hold for what was trained on, not for the repetitions that they are listed under."""
    INVALID = "invalid"
    """At least one inserted canary was not trained on: it is not in the training data, or its secret is masked out of
    the loss. The figures say nothing about memorization."""
    UNCHECKED = "unchecked"
    """Nobody looked at the training data: they cannot be read in advance (a stream), and doses were not counted."""


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How many of the inserted canaries the training data hold and train on.

    Attributes:
        inserted: canaries that should be in the training data.
        found: of these, how many are in it at least once, whole.
        trained: of the found ones, how many count in the loss: the tokens of the secret are not all masked out of it.
        reduced: of the trained ones, how many are in the data fewer times than intended, or with some tokens of their
            secret masked.
        controls_found: held-out controls that are in the training data.
        epochs: passes over the data until the measurement; None where that is not known.
        pending: of those not trained on, how many the first pass over the data may still reach.

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
        """Invalid where one inserted canary or more were not trained on: a mean over them would hide it."""
        if self.trained + self.pending < self.inserted:
            return Validity.INVALID
        return Validity.IMPAIRED if self.flaws else Validity.VALID

    @property
    def flaws(self) -> tuple[str, ...]:
        """What is wrong, in words: one clause for each kind; none where the run is valid."""
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
