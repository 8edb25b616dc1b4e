"""Where canaries go: into a dataset, out again, and whether they arrive in what is trained on."""

from __future__ import annotations

from hf_exposure.insertion.delivery import CanaryDelivery, DeliveryReport, check_dataloader, check_delivery
from hf_exposure.insertion.insert import insert_canaries, remove_canaries
from hf_exposure.insertion.inserter import CanaryInserter
from hf_exposure.insertion.stored_data import delivery_in

__all__ = [
    "CanaryDelivery",
    "CanaryInserter",
    "DeliveryReport",
    "check_dataloader",
    "check_delivery",
    "delivery_in",
    "insert_canaries",
    "remove_canaries",
]
