"""Where canaries go: into a dataset, out again, and whether they arrive in what is trained on; and noise."""

from __future__ import annotations

from hf_exposure.data.datasets import delivery_in
from hf_exposure.data.delivery import CanaryDelivery, DeliveryReport, check_dataloader, check_delivery
from hf_exposure.data.insert import insert_canaries, remove_canaries
from hf_exposure.data.inserter import CanaryInserter
from hf_exposure.data.noise import NoiseInjector, input_moments

__all__ = [
    "CanaryDelivery",
    "CanaryInserter",
    "DeliveryReport",
    "NoiseInjector",
    "check_dataloader",
    "check_delivery",
    "delivery_in",
    "input_moments",
    "insert_canaries",
    "remove_canaries",
]
