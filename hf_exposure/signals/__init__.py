"""Rows in, arrays out: what a model says of each row, and how what it says changes when the row is moved."""

from hf_exposure.signals.critical import critical_samples
from hf_exposure.signals.movable import MovableRows
from hf_exposure.signals.representations import hidden_states
from hf_exposure.signals.sensitivity import LossSensitivity, checkpoint_sensitivity, loss_sensitivity

__all__ = [
    "LossSensitivity",
    "MovableRows",
    "checkpoint_sensitivity",
    "critical_samples",
    "hidden_states",
    "loss_sensitivity",
]
