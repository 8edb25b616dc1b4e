"""Rows in, arrays out: what a model says of each example of a batch, or of each of its tokens."""

from hf_exposure.signals.example_signals import FIGURES, Alignment, alignment_of, example_signals, scored_places
from hf_exposure.signals.record_rows import EncodedRecords, encode_records
from hf_exposure.signals.token_signals import SignalReader

__all__ = [
    "FIGURES",
    "Alignment",
    "EncodedRecords",
    "SignalReader",
    "alignment_of",
    "encode_records",
    "example_signals",
    "scored_places",
]
