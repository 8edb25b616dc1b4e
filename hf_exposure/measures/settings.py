"""How a measurement is taken: its arguments, declared and checked once, and kept in the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypedDict, Unpack

from hf_exposure.checks import encodable_text, flag, instance_of, known_names, real_number, whole_number
from hf_exposure.context import CanaryContext
from hf_exposure.limits import LARGEST_SEED, MOST_BATCH_TOKENS
from hf_exposure.measures.methods import Auto, Method, MethodName, checked_settings, flat_settings, method_of


class FurtherOptions(TypedDict, total=False):
    """The arguments of `measure_exposure` beyond `method` and `references`; `ExposureMeter` describes them."""

    seed: int
    max_expansions: int
    precision_bits: float
    confidence_level: float
    end_token: bool
    accept_bad_fit: bool
    delta: float
    source: str | None
    context: CanaryContext | None
    max_batch_tokens: int | None


class MeasureOptions(FurtherOptions, total=False):
    """The arguments of `ExposureMeter`, which `ExposureCallback` takes too."""

    method: Method | MethodName
    references: int


@dataclass(frozen=True, kw_only=True)
class MeasureSettings:
    """The arguments of a measurement, checked, with the method as an object.

    Attributes:
        method, seed, confidence_level, end_token, delta, source, context, max_batch_tokens: as for `ExposureMeter`.
        flat: settings of methods that were flat arguments, those of other methods included: for the report.

    Raises:
        InputError: a value of the wrong type, or out of range.
    """

    method: Method = field(default_factory=Auto)
    seed: int = 0
    confidence_level: float = 0.95
    end_token: bool = False
    delta: float = 0.0
    source: str | None = None
    context: CanaryContext | None = None
    max_batch_tokens: int | None = None
    flat: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._take(seed=whole_number("seed", self.seed, 0, LARGEST_SEED, "Leave seed out for 0."))
        remedy = "Use the delta of your privacy accountant."
        self._take(delta=real_number("delta", self.delta, "must lie in [0, 1)", remedy, at_least=0.0, below=1.0))
        rule, remedy = "must lie between 0 and 1", "Leave it out for 0.95."
        level = real_number("confidence_level", self.confidence_level, rule, remedy, above=0.0, below=1.0)
        self._take(confidence_level=level)
        flag("end_token", self.end_token)
        if self.source is not None:
            encodable_text("source", self.source)
        if self.context is not None:
            instance_of("context", self.context, CanaryContext, "Write CanaryContext(prompt=...).")
        if self.max_batch_tokens is not None:
            remedy = "Leave it out for a default that fits."
            whole_number("max_batch_tokens", self.max_batch_tokens, 1, MOST_BATCH_TOKENS, remedy)

    def _take(self, **checked: float) -> None:
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, caller: str = "measure_exposure", /, **options: Unpack[MeasureOptions]) -> MeasureSettings:
        """The settings that the arguments of `caller` mean: a method by name or as an object, and flat arguments.

        Raises:
            InputError: an unknown method or argument, a value out of range, or flat arguments next to an object.

        Example:
            >>> MeasureSettings.of(method="bounded", max_expansions=9).method
            Bounded(max_expansions=9)
        """
        known_names(options, ["method", "references", *FurtherOptions.__annotations__], caller)
        flat = checked_settings(options)
        own: dict[str, Any] = {name: value for name, value in options.items() if name not in ("method", *flat)}
        return cls(method=method_of(options.get("method", "auto"), flat), flat=flat, **own)

    def to_dict(self) -> dict[str, Any]:
        """What a report keeps, by the names of the flat arguments: `method_of` makes the method from it again.

        Example:
            >>> settings = MeasureSettings(method=Auto(references=64)).to_dict()
            >>> settings["method"], settings["references"], method_of(settings["method"], settings)
            ('auto', 64, Auto(references=64, max_expansions=100000, precision_bits=0.25))
        """
        of_methods = flat_settings(self.method, self.flat)
        return {
            "method": self.method.name,
            "references": of_methods["references"],
            "seed": self.seed,
            "max_expansions": of_methods["max_expansions"],
            "precision_bits": of_methods["precision_bits"],
            "confidence_level": self.confidence_level,
            "end_token": self.end_token,
            "accept_bad_fit": of_methods["accept_bad_fit"],
            "delta": self.delta,
            "source": self.source,
            "context": None if self.context is None else asdict(self.context),
        }
