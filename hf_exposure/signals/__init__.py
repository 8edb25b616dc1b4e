"""Rows in, arrays out: what a model says of each token of each record."""

from hf_exposure.signals.record_rows import EncodedRecords, encode_records
from hf_exposure.signals.token_signals import SignalReader

__all__ = ["EncodedRecords", "SignalReader", "encode_records"]
