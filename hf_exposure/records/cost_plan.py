"""The cost of a measurement, planned before there is a model: tokens, passes, memory and time."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hf_exposure.fields import plain
from hf_exposure.presenting import Presented

PartName = Literal["probe", "texts", "references", "search"]
"""The parts of a measurement's cost: the check of the scoring mode, the canaries and the texts that they are
compared with, weighted draws, and a search.
"""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """The work of the model, and the package's own time.

    Attributes:
        tokens: tokens fed to the model, including padding.
        passes: calls of the model.
        own_seconds: the package's own time, as measured while the plan was made.
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
    """The maximum cost of one measurement of exposure, and its cost for a model that memorized nothing.

    Attributes:
        parameters: number of weights of the model; tied ones count once.
        dtype: data type of the weights.
        scoring_mode: the assumed scoring mode (`CausalScorer`).
        space_size: candidate secrets of the template.
        canaries: number of measured canaries, including controls.
        method: the method in use, with its settings.
        choice: why it differs from the one asked for; "" if it does not.
        parts: the maximum cost of each part of the measurement: all `references` drawn, and a search to the end of its
            budget. Parts that the method does not have are left out.
        unmemorized: the cost of the whole measurement for a model that memorized nothing, where draws stop early and
            there is no search. None if the cost does not depend on the model.
        weight_bytes: memory of the weights.
        peak_bytes: peak memory of tensors in addition to the weights. The package's own arrays and objects need
            further memory of the host.
        cache_bytes: peak memory of key-value caches; it is part of `peak_bytes`.
        unmemorized_peak_bytes: the part of `peak_bytes` that a model that memorized nothing needs. None if
            `unmemorized` is.
        tokens_per_second: throughput of the device in large batches; NaN if it was not given.
        seconds_per_pass: additional time of each call.
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
    unmemorized_peak_bytes: int | None
    tokens_per_second: float = math.nan
    seconds_per_pass: float = 0.0

    @property
    def full(self) -> Spent:
        """The sum of all parts."""
        return sum(self.parts.values(), Spent(tokens=0, passes=0, own_seconds=0.0))

    def seconds(self, spent: Spent) -> float:
        """The total time of the model and the package; NaN without a throughput.

        Example:
            >>> plan = CostPlan(
            ...     parameters=10**6, dtype="float32", scoring_mode="packed", space_size=1000, canaries=8,
            ...     method="Sample(references=64)", choice="",
            ...     parts={"texts": Spent(tokens=500, passes=4, own_seconds=0.1)}, unmemorized=None,
            ...     weight_bytes=4 * 10**6, peak_bytes=10**6, cache_bytes=10**5, unmemorized_peak_bytes=None,
            ...     tokens_per_second=1000.0, seconds_per_pass=0.01,
            ... )
            >>> round(plan.seconds(plan.full), 2)
            0.64
        """
        return spent.tokens / self.tokens_per_second + spent.passes * self.seconds_per_pass + spent.own_seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, including totals and seconds."""

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
