"""Canaries and a model in, a report out: the paper's measurement, step by step."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from torch import nn

from hf_exposure.canaries import CanarySet
from hf_exposure.canaries.secrecy import without_secrets
from hf_exposure.canaries.space import distinct_indices
from hf_exposure.checks import check_tokenizer, flag, instance_of, known_names, whole_number
from hf_exposure.errors import InputError, rows_named
from hf_exposure.estimators import control_test
from hf_exposure.estimators.estimate import CostEstimate
from hf_exposure.extraction import TokenAutomaton, UniformPaths, build_automaton, check_template, enumerate_texts
from hf_exposure.extraction.sampled_encodings import AUDITED_ENCODINGS
from hf_exposure.limits import MOST_BATCH_TOKENS, MOST_ENUMERATED
from hf_exposure.measures.base_model import BaseExposures, BaseModel, check_base_model
from hf_exposure.measures.in_common import REMEDIES, in_common
from hf_exposure.measures.methods import Occasion, epsilon_of, seed_stream
from hf_exposure.measures.settings import MeasureSettings, Method
from hf_exposure.records import ExposureEstimate, ExposureReport, ReferenceCosts
from hf_exposure.runtime.job import check_alike
from hf_exposure.runtime.model_state import bare
from hf_exposure.runtime.processes import ALONE, Processes
from hf_exposure.scoring import EncodedTexts, Encoder, MaskedScorer, Scorer, SourceTemplate, make_scorer, source_for
from hf_exposure.scoring.arguments import check_module, context_length

_PACKAGES = ("hf-exposure", "torch", "transformers", "numpy", "scipy")
_NEED_SEARCH = ("bounded", "importance")


@dataclass(frozen=True, eq=False)
class _Prepared:
    """What a measurement needs beside a model: it depends on how the model's kind reads a text.

    Attributes:
        encoded: the canaries, then what they are compared with.
        automaton, uniform: of the template, where the method may search, and uniform draws from it.
        no_search: why it may not; "" where it does not want to.
        places_in_space: as `Occasion` takes them.
    """

    encoded: EncodedTexts
    automaton: TokenAutomaton | None
    uniform: UniformPaths | None
    no_search: str
    places_in_space: np.ndarray


class ExposureMeter:
    """A measurement that is prepared once and taken at any moment of a training: the object under the callback.

    References are drawn and encoded on construction, so `measure` costs forward passes and little else.

    Args:
        canaries: the set whose exposure is measured.
        tokenizer: the model's tokenizer; never changed.
        method: "enumerate" scores every text of the space; "sample" compares with uniform references; "skew_normal"
            extrapolates from them, as the paper does; "importance" draws weighted references from the model itself,
            precise from 1 bit to log2|R|; "bounded" searches for the exact rank. "auto" takes the exact answer where
            it is cheap: enumeration for a space no larger than `references`, search with at most so many expansions
            for a canary that may rank so high, weighted references for the rest (uniform ones where the tokenizer
            allows no search).
        references: how many are drawn, at most (all others of the space, where it is smaller).
        seed: of those draws, in the report.
        max_expansions: budget of one search; that of "auto" is `references` where they are fewer.
        precision_bits: width of the interval at which weighted references stop being drawn.
        confidence_level: of every interval.
        end_token: whether the end of each text is scored.
        max_batch_tokens: as for `log_perplexity`.
        across_processes: share the work among all processes of the initialised `torch.distributed` job, as
            `ExposureCallback` does; every process must then measure, with the same canaries, settings and tokenizer,
            and all get the same report.
        **more: the other fields of `MeasureSettings`: `accept_bad_fit` gives skew-normal figures of a bad fit, `delta`
            is that of the differential privacy whose epsilon the coins of `draw_canaries(coin_flips=N)` bound;
            `source` is what an encoder-decoder model reads: one fixed text, or with the template's own holes in it a
            text for each canary and reference, the same secret in both ("My number is {number}"), which allows no
            search; `context` is the `CanaryContext` that the canaries were inserted in.

    Raises:
        InputError: an unknown method, a number out of range, a space too large to enumerate, a tokenizer or template
            that search cannot handle with `method="bounded"` or "importance".
        ProcessesDifferError: at the first measurement of a job, on all its processes, where they were given other
            canaries, settings or tokenizers.
    """

    def __init__(
        self,
        canaries: CanarySet,
        tokenizer: Any,
        *,
        method: Method = "auto",
        references: int = 4096,
        max_batch_tokens: int | None = None,
        across_processes: bool = False,
        **more: Any,
    ) -> None:
        known_names(more, [field.name for field in fields(MeasureSettings)], "measure_exposure")
        self.settings = MeasureSettings(method=method, references=references, **more)
        self.canaries, self.tokenizer, self._max_batch_tokens = canaries, tokenizer, max_batch_tokens
        self._across_processes, self._compared = across_processes, False
        instance_of("canaries", canaries, CanarySet, "Make one with draw_canaries(template, ...).")
        check_tokenizer(tokenizer)
        flag("across_processes", across_processes)
        if max_batch_tokens is not None:
            remedy = "Leave it out for a default that fits."
            whole_number("max_batch_tokens", max_batch_tokens, 1, MOST_BATCH_TOKENS, remedy)
        check_template(canaries.template, end_token=self.settings.end_token)
        size = canaries.template.space_size
        # What is done: "auto" over a small space is enumeration.
        self.method: Method = "enumerate" if method == "auto" and size <= references else method
        if self.method == "enumerate" and size > MOST_ENUMERATED:
            raise InputError(
                "method",
                f"'enumerate' takes spaces of at most {MOST_ENUMERATED} texts",
                f"a space of {size}",
                "Use method='auto'.",
            )
        self._source = source_for(self.settings.source, canaries.template)
        self._base = BaseExposures(
            lambda base: [estimate.exposure_bits for estimate in self._estimate(base)[1]], self._processes_of
        )
        self._prepared: dict[tuple[Any, ...], _Prepared] = {}
        if self._source is None:
            # As most models read a text. How a decoder does is known with the model.
            without_secrets(canaries, self._prepare_plainly)
        else:
            self._check_search(self._why_no_search(None))

    def check_fits(self, model: nn.Module) -> None:
        """Raise an `InputError` if a canary is longer than the model's context: now, not at the first measurement."""
        check_module("model", model)
        longest = context_length(model)
        for prepared in self._prepared.values():
            tokens = prepared.encoded.matrix_NL.shape[1]
            if longest is not None and longest < tokens:
                rule = f"must fit the model's context of {longest} tokens"
                remedy = "Use a shorter template or context, or a model with a longer one."
                raise InputError("canaries", rule, f"{tokens} tokens", remedy)

    def check_alike(self, processes: Processes, others: Mapping[str, object] | None = None) -> None:
        """Raise a `ProcessesDifferError` on all processes unless they measure the same texts in the same way.

        Args:
            processes: every one of them must make this call.
            others: further values that must be the same, by name.
        """
        if processes.count == 1:
            return
        settings = {"max_batch_tokens": self._max_batch_tokens, **(others or {})}
        encoded = [prepared.encoded for prepared in self._prepared.values()]
        values = in_common(self.canaries, self.settings, self.tokenizer, encoded, settings)
        check_alike(processes, values, REMEDIES)

    def measure(self, model: nn.Module, *, base_model: BaseModel | None = None) -> ExposureReport:
        """The exposure of every canary under `model` as it is now. The model is left as it was found.

        Args:
            model: to measure.
            base_model: measured beside: a model that did not see the canaries, or "without_adapter" for `model` with
                its PEFT adapters off. Measured anew only when its weights have changed.

        Raises:
            InputError: `base_model="without_adapter"` where nothing can be switched off, or not all that is trained.
            NonFiniteScoreError: the model returned NaN.
        """
        check_module("model", model)
        check_base_model(model, base_model)
        return without_secrets(self.canaries, lambda: self._measured(model, base_model))

    def _measured(self, model: nn.Module, base_model: BaseModel | None) -> ExposureReport:
        started = time.perf_counter()
        model = bare(model)
        costs, estimates, notes, references, mode = self._estimate(model)
        base = [math.nan] * len(estimates) if base_model is None else self._base.bits(model, base_model)
        inserted = len(self.canaries.inserted)
        audit = control_test(costs[:inserted], costs[inserted:]) if self.canaries.controls else None
        template = self.canaries.template
        return ExposureReport(
            estimates=tuple(
                ExposureEstimate(
                    canary_id=canary.id,
                    repetitions=canary.repetitions,
                    log_perplexity_bits=float(cost),
                    exposure_bits=estimate.exposure_bits,
                    low_bits=estimate.low_bits,
                    high_bits=estimate.high_bits,
                    rank_low=estimate.rank_low,
                    rank_high=estimate.rank_high,
                    method=estimate.method,
                    bound=estimate.bound,
                    note=estimate.note,
                    base_exposure_bits=base_bits,
                )
                for canary, cost, estimate, base_bits in zip(self.canaries, costs, estimates, base, strict=True)
            ),
            template=template.text,
            spaces={name: repr(space) for name, space in template.spaces.items()},
            space_size=template.space_size,
            manifest_hash=self.canaries.manifest_hash,
            settings=asdict(self.settings),
            p_value=audit.p_value if audit else math.nan,
            auc=audit.auc if audit else math.nan,
            auc_low=audit.auc_low if audit else math.nan,
            auc_high=audit.auc_high if audit else math.nan,
            seconds=time.perf_counter() - started,
            model=_describe(model),
            scoring_mode=mode,
            versions=dict(_versions()),
            epsilon=epsilon_of(self.canaries, costs, self.settings),
            references=references,
            notes=notes,
        )

    def _prepare_plainly(self) -> None:
        settings = self.settings
        self._prepare(Encoder(self.tokenizer, end_token=settings.end_token, context=settings.context), "")

    def _prepare(self, encoder: Encoder, why_no_search: str) -> _Prepared:
        """The encodings as `encoder` reads texts, made once and kept."""
        key = (encoder.leading, encoder.ending, encoder.first_scored, why_no_search)
        if key not in self._prepared:
            template = self.canaries.template
            automaton, no_search = self._find_automaton(encoder, why_no_search)
            own = encoder.encode([canary.text for canary in self.canaries])
            if self.method == "enumerate" and automaton is not None:
                others = enumerate_texts(automaton, encoder.first_scored)
            else:
                texts = [] if automaton is not None else self.references()
                if self.method == "enumerate":
                    texts = [template.text_at(index) for index in range(template.space_size)]
                others = rows_named(lambda _: "a text of the template", lambda: encoder.encode(texts))
            encoded = own.followed_by(others)
            seed = seed_stream("uniform draws", self.settings.seed)
            uniform = UniformPaths(template, seed) if automaton is not None else None
            places = self._places_in_space(encoded)
            self._prepared[key] = _Prepared(encoded, automaton, uniform, no_search, places)
        return self._prepared[key]

    def _find_automaton(self, encoder: Encoder, why_no_search: str) -> tuple[TokenAutomaton | None, str]:
        """The template's automaton where the method may use one, or the reason why there is none."""
        # A small space is encoded text by text as fast as its automaton is audited.
        encode_all = self.method == "enumerate" and self.canaries.template.space_size <= AUDITED_ENCODINGS
        if self.method in ("sample", "skew_normal") or encode_all:
            return None, ""
        self._check_search(why_no_search)
        try:
            if why_no_search and self.method == "auto":
                return None, f"no search, uniform references instead: {why_no_search}"
            own, one_path = [canary.text for canary in self.canaries], self.method == "enumerate"
            return build_automaton(self.canaries.template, encoder, one_path=one_path, also=own), ""
        except InputError as error:
            if self.method in _NEED_SEARCH:
                raise
            reason = f"no search, uniform references instead: {error}"
            return None, reason if self.method == "auto" else ""

    def _why_no_search(self, scorer: Scorer | None) -> str:
        """Why a prefix of a text has no score; "" where it has one."""
        if scorer is not None and scorer.why_no_search:
            return scorer.why_no_search
        return "the source holds the secret too" if isinstance(self._source, SourceTemplate) else ""

    def _check_search(self, why_not: str) -> None:
        if why_not and self.method in _NEED_SEARCH:
            rule = f"must be 'auto', 'enumerate', 'sample' or 'skew_normal' here, since {why_not}"
            raise InputError("method", rule, self.method, "Use method='auto'.")

    def references(self) -> list[str]:
        """Uniform draws of what is no canary."""
        template, size = self.canaries.template, self.canaries.template.space_size
        taken = [template.index_of(canary.text) for canary in self.canaries]
        # A stream of its own: with the draw's seed, the references would go on where the canaries ended.
        drawn = distinct_indices(size, seed_stream("references", self.settings.seed), taken)
        count = min(self.settings.references, size - len(taken))
        return [template.text_at(index) for index in itertools.islice(drawn, count)]

    def _places_in_space(self, encoded: EncodedTexts) -> np.ndarray:
        """(K,) where each canary stands among the competitors, when those are the whole space; else empty."""
        if self.method != "enumerate":
            return np.zeros(0, dtype=np.int64)
        # Equal texts end at one vertex of the token tree.
        ends = encoded.tree.vertices.last_of_sequence
        own, space = ends[: len(self.canaries)], ends[len(self.canaries) :]
        order = np.argsort(space)
        return order[np.searchsorted(space, own, sorter=order)]

    def _processes_of(self, model: nn.Module) -> Processes:
        return Processes.of_job(model) if self._across_processes else ALONE

    def _estimate(
        self, model: nn.Module
    ) -> tuple[np.ndarray, list[CostEstimate], tuple[str, ...], ReferenceCosts | None, str]:
        """Costs (K,) of the canaries in bits, one estimate for each, and what the report says besides."""
        processes = self._processes_of(model)
        with processes.together():
            first, self._compared = not self._compared, True
            if first:
                self.check_alike(processes)
            scorer = make_scorer(
                model,
                self.tokenizer,
                source=self._source,
                end_token=self.settings.end_token,
                max_batch_tokens=self._max_batch_tokens,
                processes=processes,
                context=self.settings.context,
            )
            prepared = self._prepare(scorer.encoder, self._why_no_search(scorer))
            if first:  # some kinds of models need encodings of their own
                self.check_alike(processes)
            bits = scorer.sequence_bits(prepared.encoded)
            if prepared.automaton is not None and scorer.why_no_search:
                # Seen only now, on the texts themselves.
                prepared = self._prepare(scorer.encoder, scorer.why_no_search)
                bits = scorer.sequence_bits(prepared.encoded)
            costs, competitors = bits[: len(self.canaries)], bits[len(self.canaries) :]
            occasion = Occasion(
                self.canaries,
                self.settings,
                prepared.automaton,
                prepared.uniform,
                scorer,
                costs,
                competitors,
                prepared.places_in_space,
            )
            estimates = getattr(occasion, self.method)()
        kind = scorer.note if isinstance(scorer, MaskedScorer) else ""
        notes = tuple(note for note in (kind, prepared.no_search) if note)
        uniform = np.concatenate([competitors, *occasion.uniform_costs])
        spread = ReferenceCosts.of(uniform, whole_space=self.method == "enumerate")
        return costs, estimates, notes, spread, scorer.mode or ""


def measure_exposure(
    model: nn.Module,
    tokenizer: Any,
    canaries: CanarySet,
    method: Method = "auto",
    references: int = 4096,
    seed: int = 0,
    max_expansions: int = 100_000,
    precision_bits: float = 0.25,
    confidence_level: float = 0.95,
    base_model: BaseModel | None = None,
    end_token: bool = False,
    max_batch_tokens: int | None = None,
    source: str | None = None,
    **more: Any,
) -> ExposureReport:
    """The exposure of every canary of a set under a model: how much likelier it is than chance made it.

    `exposure(s[r]) = log2|R'| - log2 rank(s[r])` in bits, where the rank counts texts of the same template that the
    model finds at least as likely (ties count against the canary) and R' leaves out the other inserted canaries. It
    lies in [0, log2|R'|]; of a canary that was not memorised it exceeds x bits with probability at most 2^-x.

    Source: Carlini et al. 2019, "The Secret Sharer", Definitions 2 to 4 and Section 4.3.

    Args:
        model: a causal language model, an encoder-decoder one (with `source`) or a masked one; left as it was found.
        tokenizer: its tokenizer.
        canaries: inserted ones and held-out controls.
        base_model: a model that did not see the canaries, or "without_adapter" for `model` with its PEFT adapters
            off: its exposures are reported beside.
        source: what an encoder-decoder model reads, fixed or with the template's holes (see `ExposureMeter`).

    The other arguments are those of `ExposureMeter`, which prepares a measurement that is taken many times.

    Returns:
        `ExposureReport`, its estimates in the set's order, inserted canaries first.

    Raises:
        InputError: as `ExposureMeter`.
        NonFiniteScoreError: the model returned NaN.

    Example:
        >>> from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel
        >>> from hf_exposure import CanaryTemplate, Digits, draw_canaries
        >>> canaries = draw_canaries(CanaryTemplate("pin {pin}", pin=Digits(3)), {1: 2}, controls=2, seed=0)
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16))
        >>> report = measure_exposure(model, ByT5Tokenizer(), canaries)
        >>> [estimate.method for estimate in report.estimates]
        ['enumerate', 'enumerate', 'enumerate', 'enumerate']
    """
    meter = ExposureMeter(
        canaries,
        tokenizer,
        method=method,
        references=references,
        seed=seed,
        max_expansions=max_expansions,
        precision_bits=precision_bits,
        confidence_level=confidence_level,
        end_token=end_token,
        max_batch_tokens=max_batch_tokens,
        source=source,
        **more,
    )
    return meter.measure(model, base_model=base_model)


def _describe(model: nn.Module) -> dict[str, Any]:
    """What the report says of the model: nothing that computing on it could change."""
    parameters = list(model.parameters())
    config = getattr(model, "config", None)
    return {
        "class": type(model).__name__,
        "name": getattr(config, "_name_or_path", "") or "",
        "revision": getattr(config, "_commit_hash", None),
        "parameters": sum(p.numel() for p in parameters),
        "dtype": str(parameters[0].dtype).removeprefix("torch.") if parameters else "",
    }


@cache
def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
