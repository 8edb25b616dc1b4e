"""The arguments of a measurement. They are declared and checked once, stored in the report, and equal on all
processes of a job.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypedDict, Unpack

from hf_exposure.canaries import CanarySet
from hf_exposure.checks import encodable_text, flag, known_names, one_of, real_number, whole_number
from hf_exposure.context import CanaryContext, check_context
from hf_exposure.errors import InputError
from hf_exposure.limits import LARGEST_SEED
from hf_exposure.measures.methods import Enumerate, Method, MethodName, Sample, SkewNormal, checked_settings
from hf_exposure.measures.search_methods import Auto, Bounded, Importance
from hf_exposure.scoring import EncodedTexts
from hf_exposure.scoring.arguments import check_batch_tokens

_METHODS: dict[str, type[Method]] = {
    kind.name: kind for kind in (Auto, Enumerate, Sample, SkewNormal, Importance, Bounded)
}
# Fields of `MeasureSettings` that a report stores in another way, or not at all.
_NOT_REPORTED = ("method", "flat", "max_batch_tokens", "lead")
_DEFAULTS = {setting.name: setting.default for kind in (Auto, SkewNormal) for setting in fields(kind)}


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
    lead: bool


class MeasureOptions(FurtherOptions, total=False):
    """The arguments of `ExposureMeter`, which `ExposureCallback` takes too."""

    method: Method | MethodName
    references: int


def method_of(method: Method | MethodName, flat: Mapping[str, Any]) -> Method:
    """The method for a name and flat arguments, or the object itself.

    Args:
        method: a name, or an object, which has its own settings.
        flat: arguments by name, as `measure_exposure` takes them, or the `settings` of a report. Settings of other
            methods are checked and left out; other arguments are ignored.

    Raises:
        InputError: the name is unknown, the method is a class, a value is out of range, or settings of methods are
            given next to an object.

    Example:
        >>> method_of("importance", {"references": 64, "max_expansions": 10, "seed": 3})
        Importance(references=64, precision_bits=0.25)
    """
    given = checked_settings(flat)
    if isinstance(method, type) and issubclass(method, Method):
        name = method.__name__
        raise InputError("method", "must be an object, not a class", name, f"Write method={name}().")
    if not isinstance(method, Method):
        kind = _METHODS[one_of("method", method, list(_METHODS), "Use method='auto'.")]
        return kind(**{setting.name: given[setting.name] for setting in fields(kind) if setting.name in given})
    for name, value in given.items():
        kind_name = type(method).__name__
        has_it = name in vars(method)
        remedy = f"Write method={kind_name}({name}={value!r})." if has_it else f"Leave it out: {kind_name} has none."
        raise InputError(name, f"must not be given next to method={kind_name}(...), an object", value, remedy)
    return method


@dataclass(frozen=True, kw_only=True)
class MeasureSettings:
    """The arguments of a measurement, checked, with the method as an object.

    Attributes:
        method, seed, confidence_level, end_token, delta, source, context, max_batch_tokens, lead: as for
            `ExposureMeter`.
        flat: settings of methods that were flat arguments, including those of other methods, for the report.

    Raises:
        InputError: a value has the wrong type or is out of range.
    """

    method: Method = field(default_factory=Auto)
    seed: int = 0
    confidence_level: float = 0.95
    end_token: bool = False
    delta: float = 0.0
    source: str | None = None
    context: CanaryContext | None = None
    max_batch_tokens: int | None = None
    lead: bool = False
    flat: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._set(seed=whole_number("seed", self.seed, 0, LARGEST_SEED, "Leave seed out for 0."))
        remedy = "Use the delta of your privacy accountant."
        self._set(delta=real_number("delta", self.delta, "must lie in [0, 1)", remedy, at_least=0.0, below=1.0))
        rule, remedy = "must lie between 0 and 1", "Leave it out for 0.95."
        level = real_number("confidence_level", self.confidence_level, rule, remedy, above=0.0, below=1.0)
        self._set(confidence_level=level)
        flag("end_token", self.end_token)
        flag("lead", self.lead)
        if self.source is not None:
            encodable_text("source", self.source)
        check_context(self.context)
        check_batch_tokens(self.max_batch_tokens)

    def _set(self, **checked: float) -> None:
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, caller: str = "measure_exposure", /, **options: Unpack[MeasureOptions]) -> MeasureSettings:
        """Makes settings from the arguments of `caller`: a method by name or as an object, and flat arguments.

        Raises:
            InputError: a method or argument is unknown, a value is out of range, or flat arguments are given next to
                an object.

        Example:
            >>> MeasureSettings.of(method="bounded", max_expansions=9).method
            Bounded(max_expansions=9)
        """
        known_names(options, ["method", "references", *FurtherOptions.__annotations__], caller)
        flat = checked_settings(options)
        own: dict[str, Any] = {name: value for name, value in options.items() if name not in ("method", *flat)}
        return cls(method=method_of(options.get("method", "auto"), flat), flat=flat, **own)

    def to_dict(self) -> dict[str, Any]:
        """The settings as a report stores them, by the names of the flat arguments; `method_of` restores the method.

        Example:
            >>> settings = MeasureSettings(method=Auto(references=64)).to_dict()
            >>> settings["method"], settings["references"], method_of(settings["method"], settings)
            ('auto', 64, Auto(references=64, max_expansions=100000, precision_bits=0.25))
        """
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in _NOT_REPORTED}
        context = None if self.context is None else asdict(self.context)
        return {"method": self.method.name, **_DEFAULTS, **self.flat, **vars(self.method), **own, "context": context}


REMEDIES = {
    "": "Pass the same value on every process.",
    "canaries": (
        "Draw the canaries by the same call on every process, or draw once, save the set, and load it everywhere."
    ),
    "tokenizer": "Load the same tokenizer, with the same tokens added, on every process.",
    "encoded ids": "Load the same tokenizer, and the same version of transformers, on every process.",
}


def in_common(
    canaries: CanarySet,
    settings: MeasureSettings,
    tokenizer: Any,
    encoded: Iterable[EncodedTexts],
    others: Mapping[str, object],
) -> dict[str, object]:
    """The values that the processes of a job must have in common to measure together, in short form by name.

    They are equal on two processes if these measure the same texts in the same way, and they reveal no secret:
    everything from which canaries could be guessed is hashed with the set's salt. The settings are compared one by
    one, so that an error can name the one that differs.

    Args:
        canaries, settings, tokenizer: those of the measurement.
        encoded: the canaries and the texts that they are compared with, if they are encoded already.
        others: further values that are not settings.
    """

    def digest(*parts: bytes) -> str:
        found = hashlib.sha256(canaries.salt.encode())
        for part in parts:
            found.update(hashlib.sha256(part).digest())
        return found.hexdigest()[:16]

    ids = [canary.id.encode() for canary in canaries]
    matrices = [part for one in encoded for part in (one.matrix_NL.tobytes(), repr(one.matrix_NL.shape).encode())]
    values = {**settings.to_dict(), "max_batch_tokens": settings.max_batch_tokens, "lead": settings.lead}
    return {
        "canaries": digest(canaries.manifest_hash.encode(), *ids),
        **values,
        **{name: digest(repr(values[name]).encode()) for name in ("source", "context")},
        **others,
        "tokenizer": digest(_tokenizer_state(tokenizer)),
        "encoded ids": digest(*matrices),
    }


def _tokenizer_state(tokenizer: Any) -> bytes:
    """The state of the tokenizer on which the encoding of a text depends.

    Truncation and padding are left out: a fast tokenizer keeps those of its last call, which a process that loaded its
    dataset from a cache has not made.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        return json.dumps({**state, "truncation": None, "padding": None}, sort_keys=True).encode()
    vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
    special = getattr(tokenizer, "special_tokens_map", {})
    return repr((type(tokenizer).__name__, sorted(vocabulary.items()), sorted(special.items(), key=str))).encode()
