"""How a measurement is taken: plain values, checked once, kept in the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hf_exposure.canaries import CanaryContext
from hf_exposure.errors import InputError
from hf_exposure.estimators.skew_normal import FEWEST_REFERENCES

__all__ = ["MOST_ENUMERATED", "MeasureSettings", "Method"]

Method = Literal["auto", "enumerate", "sample", "skew_normal", "importance", "bounded"]

# Encoding and scoring every text of a larger space takes minutes and gigabytes on a CPU.
MOST_ENUMERATED = 10**6


@dataclass(frozen=True, kw_only=True)
class MeasureSettings:
    """The arguments of `ExposureMeter`, where they are described.

    Raises:
        InputError: an unknown method, or a number out of range.
    """

    method: Method = "auto"
    references: int = 4096
    seed: int = 0
    max_expansions: int = 100_000
    precision_bits: float = 0.25
    confidence_level: float = 0.95
    end_token: bool = False
    accept_bad_fit: bool = False
    delta: float = 0.0
    source: str | None = None
    context: CanaryContext | None = None

    def __post_init__(self) -> None:
        methods = get_args(Method)
        if self.method not in methods:
            raise InputError("method", f"must be one of {', '.join(methods)}", self.method, "Use method='auto'.")
        for name in ("references", "max_expansions"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(name, "must be a whole number of at least 1", value, f"Leave {name} out.")
        if self.method == "skew_normal" and self.references < FEWEST_REFERENCES:
            rule = f"must be at least {FEWEST_REFERENCES} for a fit"
            raise InputError("references", rule, self.references, "Leave it out for 4096.")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise InputError("seed", "must be a whole number of at least 0", self.seed, "Leave seed out for 0.")
        if not self.precision_bits > 0:
            raise InputError("precision_bits", "must be above 0", self.precision_bits, "Leave it out for 0.25.")
        if not 0 <= self.delta < 1:
            raise InputError("delta", "must lie in [0, 1)", self.delta, "Use the delta of your privacy accountant.")
        if self.context is not None and not isinstance(self.context, CanaryContext):
            raise InputError(
                "context", "must be a CanaryContext", type(self.context).__name__, "Write CanaryContext(prompt=...)."
            )
        if not 0 < self.confidence_level < 1:
            raise InputError(
                "confidence_level", "must lie between 0 and 1", self.confidence_level, "Leave it out for 0.95."
            )
