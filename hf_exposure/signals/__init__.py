"""Rows in, arrays out: what a model says of each example of a batch, or of each of its tokens."""

from hf_exposure.signals.example_signals import FIGURES, Alignment, alignment_of, example_signals, scored_places

__all__ = ["FIGURES", "Alignment", "alignment_of", "example_signals", "scored_places"]
