"""Publishing of figures: the model card on the Hub, the experiment trackers, and the `evaluate` metric.

For exposure, only `published(report)` is published: it is rounded, has no ids, ranks and log-perplexities, and is
checked for secrets. Other measures have sections in model cards, which name no training example.
"""

from importlib import metadata
from pathlib import Path

from hf_exposure.errors import MissingDependencyError
from hf_exposure.hub.published import published, refuse_secrets
from hf_exposure.hub.push import push_card, push_to_hub

__all__ = ["metric_path", "published", "push_card", "push_to_hub", "refuse_secrets"]


def metric_path() -> str:
    """The folder of the `evaluate` module, which is also a Space: `evaluate.load(metric_path())`.

    It is not part of the package: it is `spaces/exposure` in a checkout, or the place where installing the wheel put
    it.

    Raises:
        MissingDependencyError: the package was installed without that folder.
    """
    checkout = Path(__file__).parents[2] / "spaces" / "exposure"
    installed = (file.locate() for file in metadata.files("hf-exposure") or () if file.match("spaces/exposure/app.py"))
    app = checkout / "app.py" if checkout.is_dir() else next(installed, None)
    if app is None:
        raise MissingDependencyError("the evaluate module is not installed: take spaces/exposure from the source")
    return str(Path(str(app)).resolve().parent)
