"""How a measurement is taken: plain values, checked once, kept in the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from hf_exposure.checks import encodable_text, flag, one_of, real_number, whole_number
from hf_exposure.context import CanaryContext
from hf_exposure.errors import InputError
from hf_exposure.estimators.skew_normal import FEWEST_REFERENCES
from hf_exposure.limits import LARGEST_COUNT, LARGEST_SEED, MOST_REFERENCES

Method = Literal["auto", "enumerate", "sample", "skew_normal", "importance", "bounded"]


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
        one_of("method", self.method, get_args(Method), "Use method='auto'.")
        for name, most in (("references", MOST_REFERENCES), ("max_expansions", LARGEST_COUNT)):
            number = whole_number(name, getattr(self, name), 1, most, f"Leave {name} out.")
            object.__setattr__(self, name, number)
        if self.method == "skew_normal" and self.references < FEWEST_REFERENCES:
            rule = f"must be at least {FEWEST_REFERENCES} for a fit"
            raise InputError("references", rule, self.references, "Leave it out for 4096.")
        seed = whole_number("seed", self.seed, 0, LARGEST_SEED, "Leave seed out for 0.")
        object.__setattr__(self, "seed", seed)
        rule, remedy = "must be above 0", "Leave it out for 0.25."
        self._take_number("precision_bits", rule, remedy, above=0.0, infinite=True)
        remedy = "Use the delta of your privacy accountant."
        self._take_number("delta", "must lie in [0, 1)", remedy, at_least=0.0, below=1.0)
        rule, remedy = "must lie between 0 and 1", "Leave it out for 0.95."
        self._take_number("confidence_level", rule, remedy, above=0.0, below=1.0)
        for name in ("end_token", "accept_bad_fit"):
            flag(name, getattr(self, name))
        if self.source is not None:
            encodable_text("source", self.source)
        if self.context is not None and not isinstance(self.context, CanaryContext):
            kind = type(self.context).__name__
            raise InputError("context", "must be a CanaryContext", kind, "Write CanaryContext(prompt=...).")

    def _take_number(self, name: str, rule: str, remedy: str, **interval: Any) -> None:
        object.__setattr__(self, name, real_number(name, getattr(self, name), rule, remedy, **interval))
