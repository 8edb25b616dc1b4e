"""Canaries in datasets: inserting them, removing them, and checking that they reach the training; also noise."""

from __future__ import annotations

from hf_exposure.data.datasets import delivery_in
from hf_exposure.data.delivery import CanaryDelivery, DeliveryReport, check_dataloader, check_delivery
from hf_exposure.data.insert import insert_canaries, remove_canaries
from hf_exposure.data.inserter import CanaryInserter
from hf_exposure.data.noise import NoiseInjector, input_moments
from hf_exposure.data.sanitizer import Sanitizer, sanitize
from hf_exposure.data.secret_scan import scan
from hf_exposure.data.splice import splice_canaries

__all__ = [
    "CanaryDelivery",
    "CanaryInserter",
    "DeliveryReport",
    "NoiseInjector",
    "Sanitizer",
    "check_dataloader",
    "check_delivery",
    "delivery_in",
    "input_moments",
    "insert_canaries",
    "remove_canaries",
    "scan",
    "sanitize",
    "splice_canaries",
]
