"""Rows in, arrays out: what a model says of each row, and how what it says changes when the row is moved."""

from hf_exposure.signals.critical import critical_samples
from hf_exposure.signals.movable import MovableRows

__all__ = ["MovableRows", "critical_samples"]
