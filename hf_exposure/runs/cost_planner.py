"""Predicts the cost of a measurement from a model's configuration and tokenizer alone.

The cost is not computed by a formula: the measurement itself runs on a stand-in for the real model (`StandIn`) that
counts its input tokens, so a plan always agrees with the measurement's code. How many draws suffice and whether there
is something to search for depend on the weights. The plan therefore gives two costs: with all draws and a complete
search, and for a model that has memorized nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Unpack, cast

import torch
from transformers import PretrainedConfig

from hf_exposure.canaries import CanarySet
from hf_exposure.canaries.secrecy import without_secrets
from hf_exposure.checks import check_tokenizer, instance_of, one_of, real_number
from hf_exposure.errors import InputError
from hf_exposure.estimators import CostEstimate
from hf_exposure.measures import (
    Auto,
    Bounded,
    ExposureMeter,
    FurtherOptions,
    Importance,
    MeasureOptions,
    MeasureSettings,
    Method,
    MethodName,
    choose,
)
from hf_exposure.measures.methods import Estimated, Measurement, texts_of
from hf_exposure.records import CostPlan, Spent
from hf_exposure.records.cost_plan import PartName
from hf_exposure.runs.live_memory import LiveBytes
from hf_exposure.runs.skeleton import CallShape, Skeleton
from hf_exposure.runs.stand_in import Call, StandIn
from hf_exposure.scoring import EncodedTexts, Encoder
from hf_exposure.scoring.forward import Mode

_MODES = ("packed", "cached", "plain")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
# Number of calls, among those that may need the most memory, that are traced in detail.
_CALLS_LOOKED_AT = 6


def plan_cost(
    config: PretrainedConfig,
    tokenizer: Any,
    canaries: CanarySet,
    method: Method | MethodName = "auto",
    references: int | None = None,
    *,
    dtype: str | None = None,
    scoring_mode: Mode | None = None,
    tokens_per_second: float | None = None,
    seconds_per_pass: float = 0.0,
    **settings: Unpack[FurtherOptions],
) -> CostPlan:
    """Predicts the cost of `measure_exposure` for a model of this configuration: tokens, passes, memory and time.

    No weights are needed. The measurement runs on a stand-in with random logits: its calls are counted, and the
    largest are traced through the model's own code without allocating memory. How many draws suffice and whether there
    is something to search for depend on the weights, so two costs are given: with all `references` drawn and a search
    to the end of its budget (`full`), and for a model that has memorized nothing (`unmemorized`). Where draws count
    all texts that they could have ended with, the latter has as many of them as random logits need.

    The search assumes a model without strong preferences among the texts, trained or not. A model that prefers few of
    them reaches complete texts early, and its search processes several times as many tokens within the same budget. If
    every canary costs at most log2(budget) bits after the template's prefix, a search precedes the draws, and is
    repeated after them if it did not finish.

    Args:
        config: the configuration of a causal model.
        tokenizer: its tokenizer.
        canaries: the set, or any other with the same template and size: the cost does not depend on the secrets.
        method, references, **settings: as for `measure_exposure`.
        dtype: dtype of the weights: "float32", "bfloat16", "float16" or "float64"; by default that of the
            configuration.
        scoring_mode: "packed" for models that accept a 4-D attention mask, which most do; "cached" for models whose
            rows can only contain one path (ALiBi, short sliding windows); "plain" for models without a usable
            key-value cache (recurrent models). The default is the fastest mode whose inputs the model accepts. Only a
            measurement detects that a model accepts them but computes something else (ALiBi); its report gives the
            mode.
        tokens_per_second: number of tokens that the device processes per second in batches, needed to predict times.
            The time of the package's own code is measured here and added: plan on the machine that will measure.
        seconds_per_pass: additional seconds per call, such as for launching GPU kernels.

    Returns:
        A `CostPlan`. Passes and caches are planned as on a CPU: for a GPU, pass the `max_batch_tokens` that it uses
            (65,536 unless its memory is small).

    Raises:
        InputError: `config` is not the configuration of a causal model, or `measure_exposure` would refuse a setting.

    Example:
        >>> from transformers import ByT5Tokenizer, GPT2Config
        >>> from hf_exposure import CanaryTemplate, Digits, draw_canaries
        >>> config = GPT2Config(vocab_size=384, n_layer=4, n_head=4, n_embd=128, bos_token_id=0, eos_token_id=1)
        >>> canaries = draw_canaries(CanaryTemplate("pin {pin}", pin=Digits(3)), {1: 4}, controls=4, seed=0)
        >>> plan = plan_cost(config, ByT5Tokenizer(), canaries, tokens_per_second=1000.0)
        >>> plan.method, sorted(plan.parts), plan.full.tokens > 111     # the inner tokens of 1,000 texts, and a probe
        ('Enumerate()', ['probe', 'texts'], True)
    """
    instance_of("canaries", canaries, CanarySet, "Make one with draw_canaries(template, ...).")
    check_tokenizer(tokenizer)
    _check_config(config)
    if scoring_mode is not None:
        one_of("scoring_mode", scoring_mode, list(_MODES), "Omit scoring_mode.")
    if tokens_per_second is not None:
        remedy = "Omit tokens_per_second for a plan without times."
        tokens_per_second = real_number("tokens_per_second", tokens_per_second, "must be above 0", remedy, above=0.0)
    remedy = "Omit seconds_per_pass."
    per_pass = real_number("seconds_per_pass", seconds_per_pass, "must be at least 0", remedy, at_least=0.0)
    options = cast(MeasureOptions, {"method": method, **settings})
    if references is not None:
        options["references"] = references
    asked = MeasureSettings.of("plan_cost", **options)
    skeleton = Skeleton(config, _dtype(dtype, config))
    # The arguments of the measurement that are not part of the method.
    around = cast(FurtherOptions, {name: value for name, value in settings.items() if name not in asked.flat})
    mode = scoring_mode or skeleton.fastest_mode(_longest(tokenizer, canaries, asked))
    memory = LiveBytes()
    model = StandIn(skeleton, mode, memory)
    memory.ignore([*model.parameters(), *model.buffers()])
    with memory:
        meter, watched, choice = _meter(asked.method, model, tokenizer, canaries, around)
        model.begin(wants_parts=True)
        meter.measure(model)
        calls = model.finished_calls()
    unmemorized = unmemorized_peak = None
    if isinstance(watched.inner, (Auto, Importance)):
        # A new meter is needed: this one has already determined how the model is read.
        fresh, _, _ = _meter(asked.method, model, tokenizer, canaries, around)
        model.begin(wants_parts=False)
        with memory:
            fresh.measure(model)
        unmemorized = _spent(model.finished_calls())
        unmemorized_peak, _ = _peak_bytes(skeleton, model.calls)
    peak, caches = _peak_bytes(skeleton, [call for call in calls if call.stage != _AGAIN])
    return CostPlan(
        parameters=skeleton.parameters,
        dtype=str(skeleton.dtype).removeprefix("torch."),
        scoring_mode=mode,
        space_size=canaries.template.space_size,
        canaries=len(canaries),
        method=repr(watched.inner),
        choice=choice,
        parts=_parts(calls),
        unmemorized=unmemorized,
        weight_bytes=skeleton.weight_bytes,
        peak_bytes=peak,
        cache_bytes=caches,
        unmemorized_peak_bytes=unmemorized_peak,
        tokens_per_second=math.nan if tokens_per_second is None else tokens_per_second,
        seconds_per_pass=per_pass,
    )


_AGAIN = "texts again"


@dataclass(frozen=True, kw_only=True)
class _Watched(Method):
    """A method whose parts are observed.

    Attributes:
        inner: the observed method.
        model: the stand-in, which is told which part its calls belong to. While `wants_parts` is set, each part runs
            separately, up to its budget.
    """

    name = "auto"
    inner: Method
    model: StandIn = field(repr=False)

    def competitors(self, canaries: CanarySet, encoder: Encoder, seed: int) -> EncodedTexts:
        return self.inner.competitors(canaries, encoder, seed)

    def estimate(self, measured: Measurement) -> Estimated:
        if not self.model.wants_parts:
            return self.inner.estimate(measured)
        self.model.stage = _AGAIN  # without the probe, whose result is known then
        measured.scorer.sequence_bits(measured.encoded)
        parts = _parts_of(self.inner)
        for stage, method in parts.items():
            self.model.stage = stage
            found = method.estimate(measured)
        return found if parts else self.inner.estimate(measured)


class _WatchedSearch(_Watched):
    searches = True


class _AllDraws(Importance):
    """Makes as many draws as allowed, whatever each is worth."""

    def draws_needed(self, estimates: Sequence[CostEstimate]) -> int:
        return self.references


def _parts_of(method: Method) -> dict[PartName, Method]:
    """Returns the parts of a method besides scoring texts, set so that they stop only at their budget."""
    parts: dict[PartName, Method] = {}
    if isinstance(method, (Auto, Importance)):
        parts["references"] = _AllDraws(references=method.references, precision_bits=math.ulp(0.0))
    if isinstance(method, Auto):
        parts["search"] = Bounded(max_expansions=min(method.max_expansions, method.references))
    elif isinstance(method, Bounded):
        parts["search"] = method
    return parts


def _meter(
    asked: Method, model: StandIn, tokenizer: Any, canaries: CanarySet, around: FurtherOptions
) -> tuple[ExposureMeter, _Watched, str]:
    """Returns the meter of the method that will be used when `asked` is requested, and the reason if it differs."""

    def of(method: Method) -> tuple[ExposureMeter, _Watched]:
        watched = (_WatchedSearch if method.searches else _Watched)(inner=method, model=model)
        return ExposureMeter(canaries, tokenizer, method=watched, **around), watched

    size = canaries.template.space_size
    method, choice = choose(asked, size)
    try:
        return *of(method), choice
    except InputError as error:
        method, choice = choose(asked, size, error)
        return *of(method), choice


def _spent(calls: Iterable[Call]) -> Spent:
    found = [Spent(tokens=call.tokens, passes=1, own_seconds=call.own_seconds) for call in calls]
    return sum(found, Spent(tokens=0, passes=0, own_seconds=0.0))


def _parts(calls: list[Call]) -> dict[PartName, Spent]:
    by_stage: dict[str, list[Call]] = {}
    for call in calls:
        by_stage.setdefault(call.stage, []).append(call)
    first, texts = _spent(by_stage.pop("", [])), _spent(by_stage.pop(_AGAIN, []))
    probe = Spent(
        tokens=first.tokens - texts.tokens,
        passes=first.passes - texts.passes,
        own_seconds=max(0.0, first.own_seconds - texts.own_seconds),
    )
    rest = {cast(PartName, stage): _spent(own) for stage, own in by_stage.items()}
    return {"probe": probe, "texts": texts, **rest}


def _peak_bytes(skeleton: Skeleton, calls: list[Call]) -> tuple[int, int]:
    """Returns the peak bytes of tensors besides the weights, and the peak bytes in caches."""
    cached, layers = skeleton.cached_token_bytes(), StandIn.layers_of(skeleton.config)
    width = skeleton.dtype.itemsize * skeleton.input_embedding[1]

    def in_caches(tokens: int) -> int:
        return tokens * cached // layers

    def roughly(call: Call) -> int:
        shape = call.shape
        masked = shape.rows * shape.tokens * (shape.past + shape.tokens) * skeleton.dtype.itemsize
        return in_caches(call.cached_before) + call.tokens * (cached + 12 * width) + masked + call.bytes_behind

    added: dict[CallShape, int] = {}
    peak = 0
    for call in sorted(calls, key=roughly, reverse=True)[:_CALLS_LOOKED_AT]:
        if call.shape not in added:
            added[call.shape] = skeleton.call_bytes(call.shape)
        # After a call, its caches, its hidden states and the logits computed from them are in memory.
        during = in_caches(call.cached_before) + added[call.shape]
        behind = in_caches(call.cached_after) + call.tokens * width
        peak = max(peak, call.bytes_before + during, call.bytes_behind + behind)
    return peak, in_caches(max((call.cached_after for call in calls), default=0))


def _longest(tokenizer: Any, canaries: CanarySet, asked: MeasureSettings) -> int:
    """Returns the number of tokens of the longest canary."""
    encoder = Encoder.of(tokenizer, end_token=asked.end_token, context=asked.context)
    encoded = without_secrets(canaries, lambda: encoder.encode(texts_of(canaries)))
    return int(encoded.matrix_NL.shape[1])


def _check_config(config: Any) -> None:
    instance_of("config", config, PretrainedConfig, "Load it with AutoConfig.from_pretrained(...).")
    names = getattr(config, "architectures", None) or []
    if getattr(config, "is_encoder_decoder", False) or any("MaskedLM" in str(name) for name in names):
        rule = "must be that of a causal language model: no other costs can be planned"
        raise InputError("config", rule, type(config).__name__, "Measure with few references, and scale the time.")


def _dtype(name: str | None, config: PretrainedConfig) -> torch.dtype:
    own = str(getattr(config, "dtype", None)).removeprefix("torch.")
    name = (own if own in _DTYPES else "float32") if name is None else name
    return _DTYPES[one_of("dtype", name, list(_DTYPES), "Use dtype='float32'.")]
