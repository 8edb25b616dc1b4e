"""What a model outputs for each example or each token, and how the output changes when the input does."""

from hf_exposure.signals.critical import critical_samples
from hf_exposure.signals.example_gradients import example_gradients
from hf_exposure.signals.example_signals import FIGURES, Alignment, alignment_of, example_signals, scored_places
from hf_exposure.signals.gradients import label_gradients
from hf_exposure.signals.movable import MovableRows
from hf_exposure.signals.record_rows import EncodedRecords, encode_records
from hf_exposure.signals.representations import hidden_states
from hf_exposure.signals.sensitivity import LossSensitivity, checkpoint_sensitivity, loss_sensitivity
from hf_exposure.signals.token_signals import SignalReader

__all__ = [
    "FIGURES",
    "Alignment",
    "EncodedRecords",
    "LossSensitivity",
    "MovableRows",
    "SignalReader",
    "alignment_of",
    "checkpoint_sensitivity",
    "critical_samples",
    "encode_records",
    "example_gradients",
    "example_signals",
    "hidden_states",
    "label_gradients",
    "loss_sensitivity",
    "scored_places",
]
