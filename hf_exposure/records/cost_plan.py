"""What a measurement will cost, before there is a model: tokens, passes, memory and time."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hf_exposure.fields import plain
from hf_exposure.presenting import Presented

PartName = Literal["probe", "texts", "references", "search"]
"""What a measurement spends on finding out how the model is read, on the canaries and the texts that they are compared
with, on weighted draws, and on a search."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What the model is fed, and the time next to it.

    Attributes:
        tokens: fed, padding included.
        passes: calls of the model.
        own_seconds: that the package takes besides, as measured while the plan was made.
    """

    tokens: int
    passes: int
    own_seconds: float

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            tokens=self.tokens + other.tokens,
            passes=self.passes + other.passes,
            own_seconds=self.own_seconds + other.own_seconds,
        )


@dataclass(frozen=True, kw_only=True)
class CostPlan(Presented):
    """What one measurement of exposure costs in full, and where the model memorized nothing.

    Attributes:
        parameters: weights of the model, tied ones once.
        dtype: theirs.
        scoring_mode: how the model is taken to be read (`CausalScorer`).
        space_size: candidate secrets of the template.
        canaries: how many are measured, controls included.
        method: that is carried out, with its settings.
        choice: why it is another than the one asked for; "" where it is not.
        parts: what each part of the measurement costs in full: all `references` drawn, and a search to the end of its
            budget. A part that the method has not is left out.
        unmemorized: the whole measurement of a model that memorized nothing; draws then stop once they are enough,
            and a search has nothing to look for. None where the cost depends on no model.
        weight_bytes: what the weights take.
        peak_bytes: tensors in addition to the weights, at their peak. The package's own arrays and objects come on
            top, in the host's memory.
        cache_bytes: key-value caches, at theirs; they are part of `peak_bytes`.
        tokens_per_second: that the device feeds in large batches; NaN where it was not given.
        seconds_per_pass: that a call takes besides.
    """

    kind = "cost"

    parameters: int
    dtype: str
    scoring_mode: str
    space_size: int
    canaries: int
    method: str
    choice: str
    parts: dict[PartName, Spent]
    unmemorized: Spent | None
    weight_bytes: int
    peak_bytes: int
    cache_bytes: int
    tokens_per_second: float = math.nan
    seconds_per_pass: float = 0.0

    @property
    def full(self) -> Spent:
        """All parts together."""
        return sum(self.parts.values(), Spent(tokens=0, passes=0, own_seconds=0.0))

    def seconds(self, spent: Spent) -> float:
        """The time that it takes, the model's and the package's own; NaN without a rate.

        Example:
            >>> plan = CostPlan(
            ...     parameters=10**6, dtype="float32", scoring_mode="packed", space_size=1000, canaries=8,
            ...     method="Sample(references=64)", choice="",
            ...     parts={"texts": Spent(tokens=500, passes=4, own_seconds=0.1)}, unmemorized=None,
            ...     weight_bytes=4 * 10**6, peak_bytes=10**6, cache_bytes=10**5,
            ...     tokens_per_second=1000.0, seconds_per_pass=0.01,
            ... )
            >>> round(plan.seconds(plan.full), 2)
            0.64
        """
        return spent.tokens / self.tokens_per_second + spent.passes * self.seconds_per_pass + spent.own_seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, totals and seconds among them."""

        def timed(spent: Spent | None) -> dict[str, Any] | None:
            return None if spent is None else {**asdict(spent), "seconds": self.seconds(spent)}

        values: dict[str, Any] = {
            **asdict(self),
            "parts": {name: timed(spent) for name, spent in self.parts.items()},
            "full": timed(self.full),
            "unmemorized": timed(self.unmemorized),
        }
        found: dict[str, Any] = plain(values)
        return found
