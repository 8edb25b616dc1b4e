"""One draw for all processes of a job: each would else draw secrets of its own, and train on other data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from hf_exposure.canaries.canary_set import Canary, CanarySet
from hf_exposure.canaries.template import CanaryTemplate
from hf_exposure.launch import from_first_process, rank_and_count

__all__ = ["drawn_once"]

_FIELDS = ("id", "text", "repetitions", "coin")


def drawn_once(template: CanaryTemplate, arguments: Any, draw: Callable[[], CanarySet]) -> CanarySet:
    """The set that `draw` gives on the first process of the job, with its ids and its salt; `draw()` outside a job.

    The ids and the salt come from the system's entropy even where a seed is given, so seeded draws are shared too.

    Args:
        template: that is drawn from.
        arguments: of the draw, as JSON can hold them. A process that draws with others than the first gets a set of
            its own; a measurement then refuses to start.
        draw: makes the set.
    """
    if rank_and_count()[1] == 1:
        return draw()
    own: list[CanarySet] = []

    def publish() -> str:
        own.append(draw())
        return json.dumps({"of": of, "set": _to_dict(own[0])})

    said = json.dumps([template.to_dict(), arguments], sort_keys=True)
    of = hashlib.sha256(said.encode("utf-8")).hexdigest()
    first = json.loads(from_first_process(publish))
    if own:
        return own[0]
    return _from_dict(first["set"], template) if first["of"] == of else draw()


def _to_dict(canaries: CanarySet) -> dict[str, Any]:
    rows = [[getattr(canary, name) for name in _FIELDS] for canary in canaries]
    return {"seed": canaries.seed, "salt": canaries.salt, "canaries": rows, "inserted": len(canaries.inserted)}


def _from_dict(values: dict[str, Any], template: CanaryTemplate) -> CanarySet:
    canaries = tuple(Canary(template=template, **dict(zip(_FIELDS, row, strict=True))) for row in values["canaries"])
    inserted = values["inserted"]
    return CanarySet(
        inserted=canaries[:inserted],
        controls=canaries[inserted:],
        template=template,
        seed=values["seed"],
        salt=values["salt"],
    )
