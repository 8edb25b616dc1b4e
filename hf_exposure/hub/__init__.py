"""Where figures leave the house: the model card on the Hub, the experiment trackers, the `evaluate` metric.

What leaves is always `published(report)`: rounded, without ids, ranks and log-perplexities, checked for secrets.
"""

from pathlib import Path

from hf_exposure.hub.published import published, refuse_secrets
from hf_exposure.hub.push import push_to_hub

__all__ = ["metric_path", "published", "push_to_hub", "refuse_secrets"]


def metric_path() -> str:
    """The folder of the `evaluate` module, which is a Space too: `evaluate.load(metric_path())`."""
    return str(Path(__file__).with_name("exposure"))
