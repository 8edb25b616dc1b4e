"""Measures the exposure of canaries under a model: the paper's measurement, once or at every step of a training.

`ExposureMeter` prepares everything but the model, and can then measure any number of times. `measure_exposure`
measures once; `ExposureMeasure` is the same as a measure for `MeasureCallback`.

Shapes: K canaries, inserted ones first; N texts that they are compared with; L tokens.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, NamedTuple, Unpack, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hf_exposure.canaries import Canary, CanarySet, is_uniform_draw
from hf_exposure.canaries.secrecy import without_secrets
from hf_exposure.checks import check_tokenizer, flag, instance_of
from hf_exposure.context import SourceTemplate, source_for
from hf_exposure.data.canary_tokens import canary_tokens
from hf_exposure.data.delivery_rows import masking_probability
from hf_exposure.data.ledger import KINDS, DoseLedger
from hf_exposure.errors import InputError
from hf_exposure.estimators import CostEstimate, control_test, epsilon_lower_bound
from hf_exposure.estimators.epsilon import Claim
from hf_exposure.estimators.estimate import ExposureFigures
from hf_exposure.extraction import TokenAutomaton, UniformPaths, build_automaton, check_template
from hf_exposure.measures.base_model import BaseFigures, BaseModel, check_base_model
from hf_exposure.measures.described import describe_model, package_versions
from hf_exposure.measures.methods import Measurement, Method, MethodName, seed_stream, texts_of
from hf_exposure.measures.protocol import SeenBatch, TrainingStart
from hf_exposure.measures.search_methods import choose
from hf_exposure.measures.settings import REMEDIES, FurtherOptions, MeasureOptions, MeasureSettings, in_common
from hf_exposure.records import (
    CanaryDose,
    Doses,
    ExposureEstimate,
    ExposureReport,
    ReferenceCosts,
    RunFacts,
    Uncounted,
)
from hf_exposure.records.doses import expected_doses
from hf_exposure.runtime.job import check_alike
from hf_exposure.runtime.model_state import evaluating, unwrap_model
from hf_exposure.runtime.processes import SINGLE_PROCESS, Processes
from hf_exposure.runtime.weights_hash import weights_sha256
from hf_exposure.scoring import EncodedTexts, Encoder, MaskedScorer, Scorer, make_scorer
from hf_exposure.scoring.arguments import check_module, context_length
from hf_exposure.scoring.select import is_masked_class

ScorerMaker = Callable[[nn.Module], Scorer]


@dataclass(frozen=True, eq=False)
class _Prepared:
    """The prepared parts of a measurement, which depend on how the kind of model encodes a text.

    Attributes:
        method, choice: the method in use, and the report's note on that choice (`choose`).
        encoded: the canaries, then the texts that they are compared with.
        automaton, uniform: the template's token automaton and uniform draws from it, if the method searches.
    """

    method: Method
    choice: str
    encoded: EncodedTexts
    automaton: TokenAutomaton | None
    uniform: UniformPaths | None


class _Evaluation(NamedTuple):
    """Log-perplexities of K canaries under one model, one estimate for each, and further facts for the report."""

    costs_K: NDArray[np.float64]
    estimates: list[CostEstimate]
    leads_K: NDArray[np.float64]
    references: ReferenceCosts | None
    notes: tuple[str, ...]
    mode: str
    complete_search: bool


class ExposureMeter:
    """Measures exposure at any step of a training after one preparation: the object behind the callback.

    References are drawn and encoded on construction, so `measure` costs forward passes and little else.

    Args:
        canaries: the set whose exposure is measured.
        tokenizer: the model's tokenizer; never changed.
        scorer: a function that makes the scorer of a model, for models that `log_perplexity` cannot score, such as
            classifiers (`LabelScorer`). The tokenizer is then not used and may be None, and the scorer itself handles
            `source`, `context` and `end_token`.
        across_processes: whether to share the work among all processes of the initialized `torch.distributed` job, as
            `ExposureCallback` does; every process must then measure, with the same canaries, settings and tokenizer,
            and all get the same report.
        **settings: the optional arguments below.
        method: an object with its own settings, or its name with those settings as arguments of this call:
            `Importance(references=64)` is `method="importance", references=64`. `Auto` ("auto", the default) uses
            exact methods where they are cheap; `Enumerate` ("enumerate") scores every text of the space; `Sample`
            ("sample") compares with uniform references; `SkewNormal` ("skew_normal") extrapolates from them, as the
            paper does; `Importance` ("importance") draws weighted references from the model itself; `Bounded`
            ("bounded") searches for the exact rank.
        references: the maximum number of drawn references (in a smaller space, all other texts); 4096 by default.
        max_expansions: the budget of one search, 100,000 by default; for "auto", at most `references`.
        precision_bits: the width of the intervals at which drawing of weighted references stops, 0.25 by default.
        accept_bad_fit: whether to return skew-normal figures of a bad fit too.
        seed: the seed of all draws, 0 by default; it is in the report.
        confidence_level: the level of all intervals, 0.95 by default.
        end_token: whether the end of each text is scored.
        delta: the delta of the (epsilon, delta) guarantee whose epsilon is bounded by the coins of
            `draw_canaries(coin_flips=N)` and by certified ranks; 0 by default. Above 0, coins refute Gaussian claims
            too (`epsilon_lower_bound`).
        source: the input of an encoder-decoder model: one fixed text, or a text with the template's own holes, which
            are filled with the same secret as the canary or reference ("My number is {number}"). The latter allows no
            search.
        context: the `CanaryContext` that the canaries were inserted in.
        max_batch_tokens: as for `log_perplexity`.
        lead: whether to search for the likeliest text that was not inserted, and report each canary's lead over it.
            This is free if all texts are scored; otherwise it takes one more search, within the budget of the method.

    Attributes:
        base: the exposures under a base model, with its fingerprint if it is the model without its adapters.
        is_masked: whether the last measurement found a masked language model; None before the first.

    Raises:
        InputError: a method or argument is unknown, a number is out of range, a setting is given next to a method
            object, the space is too large to enumerate, or `Bounded` or `Importance` is given and a search cannot
            handle the tokenizer or template.
        ProcessesDifferError: the processes of a job have different canaries, settings or tokenizers. It is raised at
            the first measurement, on all processes.

    Example:
        >>> from transformers import ByT5Tokenizer
        >>> from hf_exposure import CanaryTemplate, Digits, Importance, draw_canaries
        >>> canaries = draw_canaries(CanaryTemplate("pin {pin}", pin=Digits(9)), {1: 2}, controls=2, seed=0)
        >>> meter = ExposureMeter(canaries, ByT5Tokenizer(), method=Importance(references=64), seed=3)
        >>> meter.settings.method                               # meter.measure(model) gives a report
        Importance(references=64, precision_bits=0.25)
    """

    def __init__(
        self,
        canaries: CanarySet,
        tokenizer: Any,
        *,
        scorer: ScorerMaker | None = None,
        across_processes: bool = False,
        **settings: Unpack[MeasureOptions],
    ) -> None:
        self.settings = MeasureSettings.of(**settings)
        self.canaries, self.tokenizer, self._make_scorer = canaries, tokenizer, scorer
        self._across_processes, self._compared = across_processes, False
        self._reading: Any = None
        self.is_masked: bool | None = None
        instance_of("canaries", canaries, CanarySet, "Make one with draw_canaries(template, ...).")
        if scorer is None:
            check_tokenizer(tokenizer)
        else:
            _check_own_scorer(scorer, self.settings)
        flag("across_processes", across_processes)
        check_template(canaries.template, end_token=self.settings.end_token)
        self._uniform_draw = is_uniform_draw(canaries)
        self._source = source_for(self.settings.source, canaries.template)
        self._choose(self._why_no_search(None))  # impossible methods are refused now, before there is a model
        self.base = BaseFigures(
            lambda base: [estimate.exposure_bits for estimate in self._evaluate(base).estimates], self._processes_of
        )
        self._prepared: dict[tuple[Any, ...], _Prepared] = {}
        if self._source is None and scorer is None:
            # Encode as for most models. The encoding for a decoder is only known with the model.
            without_secrets(canaries, self._prepare_plainly)

    def check_fits(self, model: nn.Module) -> None:
        """Raises an `InputError` if a canary is longer than the model's context, before the first measurement."""
        check_module("model", model)
        longest = context_length(model)
        for prepared in self._prepared.values():
            tokens = prepared.encoded.matrix_NL.shape[1]
            if longest is not None and longest < tokens:
                rule = f"must fit the model's context of {longest} tokens"
                remedy = "Use a shorter template or context, or a model with a longer one."
                raise InputError("canaries", rule, f"{tokens} tokens", remedy)

    def check_alike(self, processes: Processes, others: Mapping[str, object] | None = None) -> None:
        """Raises a `ProcessesDifferError` on all processes unless they measure the same texts in the same way.

        Args:
            processes: the processes, each of which must make this call.
            others: further values that must be the same, by name.
        """
        if processes.count == 1:
            return
        encoded = [prepared.encoded for prepared in self._prepared.values()]
        values = in_common(self.canaries, self.settings, self.tokenizer, encoded, others or {})
        check_alike(processes, values, REMEDIES)

    def measure(self, model: nn.Module, *, base_model: BaseModel | None = None) -> ExposureReport:
        """Measures the exposure of every canary under `model` in its present state. The model is left as it was found.

        Args:
            model: the model to measure.
            base_model: a model that did not see the canaries, or "without_adapter" for `model` with its PEFT adapters
                off. It is measured too, and again only if its weights have changed.

        Raises:
            InputError: `base_model` is "without_adapter", and the adapters cannot be switched off, other weights are
                trained too, or the model without its adapters has changed since the first measurement.
            NonFiniteScoreError: the model returned NaN.
        """
        check_module("model", model)
        check_base_model(model, base_model)
        return without_secrets(self.canaries, lambda: self._measured(model, base_model))

    def _measured(self, model: nn.Module, base_model: BaseModel | None) -> ExposureReport:
        started, measured_at = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
        model = unwrap_model(model)
        found = self._evaluate(model)
        base = [math.nan] * len(self.canaries) if base_model is None else self.base.of(model, base_model)
        costs_K, inserted = found.costs_K, len(self.canaries.inserted)
        tested = control_test(costs_K[:inserted], costs_K[inserted:]) if self.canaries.controls else None
        template, epsilons = self.canaries.template, epsilons_of(self.canaries, costs_K, self.settings)
        return ExposureReport(
            estimates=tuple(
                _estimate_of(canary, float(cost), figures, self._space_bits(canary), float(lead), own_base)
                for canary, cost, figures, lead, own_base in zip(
                    self.canaries, costs_K, found.estimates, found.leads_K, base, strict=True
                )
            ),
            template=template.text,
            spaces={name: repr(space) for name, space in template.spaces.items()},
            space_size=template.space_size,
            manifest_hash=self.canaries.manifest_hash,
            settings=self.settings.to_dict(),
            p_value=tested.p_value if tested else math.nan,
            auc=tested.auc if tested else math.nan,
            auc_low=tested.auc_low if tested else math.nan,
            auc_high=tested.auc_high if tested else math.nan,
            seconds=time.perf_counter() - started,
            model=describe_model(model),
            scoring_mode=found.mode,
            versions=dict(package_versions()),
            epsilon=epsilons[0] if epsilons else None,
            gaussian_epsilons=tuple(epsilons[1:]),
            references=found.references,
            notes=found.notes,
            run=RunFacts(measured_at=measured_at),
            uniform_draw=self._uniform_draw,
            complete_search=found.complete_search,
        )

    def _choose(self, why_no_search: str | InputError) -> tuple[Method, str]:
        return choose(self.settings.method, self.canaries.template.space_size, why_no_search)

    def _prepare_plainly(self) -> None:
        settings = self.settings
        self._prepare(Encoder.of(self.tokenizer, end_token=settings.end_token, context=settings.context), "")

    def _prepare(self, encoder: Encoder, why_no_search: str) -> _Prepared:
        """The encodings by `encoder`, computed once and cached."""
        method, choice = self._choose(why_no_search)
        key = (encoder.leading, encoder.ending, encoder.first_scored, method, choice)
        if key not in self._prepared:
            template, texts = self.canaries.template, texts_of(self.canaries)
            automaton, seed = None, self.settings.seed
            if method.searches:
                try:
                    automaton = build_automaton(template, encoder, also=texts)
                except InputError as error:
                    method, choice = self._choose(error)
            encoded = encoder.encode(texts).followed_by(method.competitors(self.canaries, encoder, seed))
            uniform = None if automaton is None else UniformPaths(template, seed_stream("uniform draws", seed))
            self._prepared[key] = _Prepared(method, choice, encoded, automaton, uniform)
        return self._prepared[key]

    def _why_no_search(self, scorer: Scorer | None) -> str:
        """Why prefixes of texts cannot be scored; "" if they can."""
        if scorer is not None and scorer.why_no_search:
            return scorer.why_no_search
        return "the source contains the secret too" if isinstance(self._source, SourceTemplate) else ""

    def _processes_of(self, model: nn.Module) -> Processes:
        return Processes.of_job(model) if self._across_processes else SINGLE_PROCESS

    def _evaluate(self, model: nn.Module) -> _Evaluation:
        """Scores the canaries and the texts that they are compared with, and estimates their exposures."""
        processes, settings = self._processes_of(model), self.settings
        # The scorer's own calls of `evaluating` then find nothing to switch.
        with processes.barrier(), evaluating(model):
            first, self._compared = not self._compared, True
            if first:
                self.check_alike(processes)
            if self._make_scorer is not None:
                scorer = self._make_scorer(model)
            else:
                scorer = make_scorer(
                    model,
                    self.tokenizer,
                    source=self._source,
                    end_token=settings.end_token,
                    max_batch_tokens=settings.max_batch_tokens,
                    processes=processes,
                    context=settings.context,
                    reading=self._reading,
                )
            self.is_masked = isinstance(scorer, MaskedScorer)
            prepared = self._prepare(scorer.encoder, self._why_no_search(scorer))
            if first:  # some kinds of models need their own encodings
                self.check_alike(processes)
            try:
                return self._estimate(prepared, scorer)
            except InputError:
                if prepared.automaton is None or not scorer.why_no_search:
                    raise
                # This is only known now, from the texts themselves or from the search.
                return self._estimate(self._prepare(scorer.encoder, scorer.why_no_search), scorer)

    def _estimate(self, prepared: _Prepared, scorer: Scorer) -> _Evaluation:
        """Estimates exposures by the prepared method.

        Raises:
            InputError: the method searches, and the scorer does not support search.
        """
        bits = scorer.sequence_bits(prepared.encoded)
        if prepared.automaton is not None and scorer.why_no_search:
            raise InputError("model", "must allow a search", scorer.why_no_search, "Use method='sample'.")
        costs_K, competitor_costs_N = np.split(bits, [len(self.canaries)])
        measurement = Measurement(
            canaries=self.canaries,
            scorer=scorer,
            costs_K=costs_K,
            competitor_costs_N=competitor_costs_N,
            encoded=prepared.encoded,
            automaton=prepared.automaton,
            uniform=prepared.uniform,
            confidence_level=self.settings.confidence_level,
            seed=self.settings.seed,
        )
        estimates, references = prepared.method.estimate(measurement)
        leads_K = np.full(len(costs_K), np.nan)
        if self.settings.lead:
            leads_K = prepared.method.leads(measurement, estimates)
        self._reading = scorer.reading
        notes = tuple(note for note in (scorer.note, prepared.choice) if note)
        complete = prepared.automaton is None or prepared.automaton.exactness == "proven"
        return _Evaluation(costs_K, estimates, leads_K, references, notes, scorer.mode or "", complete)

    def _space_bits(self, canary: Canary) -> float:
        """log2 |R'|, where R' is the space without the other inserted canaries."""
        others = len(self.canaries.inserted) - (not canary.is_control)
        return math.log2(self.canaries.template.space_size - others)


def measure_exposure(
    model: nn.Module,
    tokenizer: Any,
    canaries: CanarySet,
    method: Method | MethodName = "auto",
    references: int | None = None,
    *,
    base_model: BaseModel | None = None,
    scorer: ScorerMaker | None = None,
    across_processes: bool = False,
    **settings: Unpack[FurtherOptions],
) -> ExposureReport:
    """Measures the exposure of every canary of a set under a model: how far it ranks above a random text of its
    template.

    `exposure(s[r]) = log2|R'| - log2 rank(s[r])` in bits, where the rank counts texts of the same template that the
    model finds at least as likely (ties count against the canary) and R' leaves out the other inserted canaries. It
    lies in [0, log2|R'|]. For a canary that was not memorized, it exceeds x bits with probability at most 2^-x.

    Source: Carlini et al. 2019, "The Secret Sharer", Definitions 2 and 4, Section 4.2.

    Args:
        model: a causal language model, an encoder-decoder one (with `source`) or a masked one; left as it was found.
        tokenizer: its tokenizer.
        canaries: the set of inserted canaries and held-out controls.
        method: an object such as `Importance(references=64)`, which has its own settings, or a name: "auto",
            "enumerate", "sample", "skew_normal", "importance" or "bounded", with those settings as arguments.
        references: the maximum number of texts that the canaries are compared with; 4096 by default.
        base_model: a model that did not see the canaries, or "without_adapter" for `model` with its PEFT adapters off;
            its exposures are reported too.
        scorer: a function that makes the scorer of the model, as for `ExposureMeter`; the tokenizer may then be None.
        across_processes, **settings: arguments of `ExposureMeter`, which describes them all and is the class for
            repeated measurements: seed, max_expansions, precision_bits, confidence_level, end_token, accept_bad_fit,
            delta, source, context, max_batch_tokens, lead.

    Returns:
        An `ExposureReport`, with estimates in the set's order, inserted canaries first.

    Raises:
        InputError: as for `ExposureMeter`.
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
    chosen = cast(MeasureOptions, {"method": method, **settings})
    if references is not None:
        chosen["references"] = references
    meter = ExposureMeter(canaries, tokenizer, scorer=scorer, across_processes=across_processes, **chosen)
    report = meter.measure(model, base_model=base_model)
    return report.with_run(weights_sha256=weights_sha256(model))


def _check_own_scorer(scorer: object, settings: MeasureSettings) -> None:
    if not callable(scorer):
        remedy = "Write scorer=lambda model: LabelScorer(model, inputs, classes=10)."
        raise InputError("scorer", "must be a function from a model to its scorer", type(scorer).__name__, remedy)
    for name in ("source", "context", "end_token"):
        if getattr(settings, name):
            rule = "does not go with a scorer of your own"
            raise InputError(name, rule, type(getattr(settings, name)).__name__, "Let the scorer handle it.")


def epsilons_of(canaries: CanarySet, costs_K: NDArray[np.float64], settings: MeasureSettings) -> list[dict[str, Any]]:
    """What the coins refute, computed from the canaries' log-perplexities in bits: (epsilon, delta)-privacy, and with
    a delta above 0 the two Gaussian claims. Empty without coins of both outcomes, since fixed controls give no bound
    on epsilon.
    """
    coins = [canary.coin for canary in canaries]
    flipped_K = np.array([coin is not None for coin in coins])
    included = np.array([bool(coin) for coin in coins])[flipped_K]
    if not included.any() or included.all():
        return []
    claims: tuple[Claim, ...] = get_args(Claim) if settings.delta > 0.0 else ("approximate_dp",)
    bounds = [
        epsilon_lower_bound(
            costs_K[flipped_K],
            included,
            delta=settings.delta,
            confidence_level=settings.confidence_level,
            claim=claim,
        )
        for claim in claims
    ]
    return [asdict(bound) for bound in bounds]


# What an estimate of a cost has in common with that of a canary.
_SHARED = {each.name for each in fields(ExposureFigures)}


def _estimate_of(
    canary: Canary,
    cost: float,
    figures: CostEstimate,
    space_bits: float,
    lead_bits: float,
    base_exposure_bits: float,
) -> ExposureEstimate:
    """An estimator's result for a cost, with the canary's id."""
    shared = {name: value for name, value in vars(figures).items() if name in _SHARED}
    return ExposureEstimate(
        canary_id=canary.id,
        repetitions=canary.repetitions,
        log_perplexity_bits=cost,
        base_exposure_bits=base_exposure_bits,
        # Use one NaN object for all undefined figures, so that equal reports compare equal.
        guessing_entropy_bits=math.nan if math.isnan(figures.exposure_bits) else space_bits - figures.exposure_bits,
        lead_bits=math.nan if math.isnan(lead_bits) else lead_bits,
        **shared,
    )


_PREFIX = "eval_exposure_"


class ExposureMeasure:
    """The exposure of a set of canaries, and how often training has used each of them.

    `ExposureCallback` adds delivery checks and limits.

    Args:
        canaries: the inserted set.
        base_model: a base model to measure too, as for `measure_exposure`.
        count_doses: whether to count in the training batches how often each canary contributes to the loss (`doses`).
        scorer: a function that makes the scorer of a model, as for `ExposureMeter`; no tokenizer is needed then.
        **measure_arguments: the arguments of `ExposureMeter`.

    Attributes:
        meter: the meter, made by the first `prepare` and kept while the tokenizer stays the same.

    Raises:
        InputError: an argument is unknown or a value is out of range.
    """

    name = "exposure"
    # All other figures grow with memorization, or cost time.
    larger_is_better = frozenset({f"{_PREFIX}p_value"})
    state_is_shared = True

    def __init__(
        self,
        canaries: CanarySet,
        *,
        base_model: BaseModel | None = None,
        count_doses: bool = True,
        scorer: ScorerMaker | None = None,
        **measure_arguments: Unpack[MeasureOptions],
    ) -> None:
        instance_of("canaries", canaries, CanarySet, "Make one with draw_canaries(template, ...).")
        # Refuse bad arguments at construction, not when training starts.
        MeasureSettings.of("ExposureCallback or measure_exposure", **measure_arguments)
        flag("count_doses", count_doses)
        self.canaries, self.base_model, self.measure_arguments = canaries, base_model, measure_arguments
        self._tally = _DoseTally(len(canaries))
        if count_doses:
            self.on_batch = self._see
        self.scorer, self.needs_tokenizer = scorer, scorer is None
        self.meter: ExposureMeter | None = None
        self._model: weakref.ref[nn.Module] | None = None

    def prepare(self, start: TrainingStart) -> None:
        """Draws and encodes the texts that the canaries are compared with.

        Raises:
            InputError: a canary is longer than the model's context, or the base model does not suit this model.
            ProcessesDifferError: the processes of the job have different canaries, settings or tokenizers.
        """
        check_base_model(start.model, self.base_model)
        if self.meter is None or self.meter.tokenizer is not start.tokenizer:
            across_processes = start.processes.count > 1
            self.meter = ExposureMeter(
                self.canaries,
                start.tokenizer,
                scorer=self.scorer,
                across_processes=across_processes,
                **self.measure_arguments,
            )
        self.meter.check_fits(start.model)
        base = self.base_model if isinstance(self.base_model, str) else type(self.base_model).__name__
        counts = hasattr(self, "on_batch")  # the sum over processes needs all of them
        self.meter.check_alike(start.processes, {"base_model": base, "count_doses": counts})
        if self.base_model == "without_adapter":
            self._model = weakref.ref(start.model)
            self.meter.base.begin(start.model)
        self._tally = self._new_tally(self.meter, start)

    def metric_names(self) -> list[str]:
        """The documented keys, with those of controls if there are any."""
        names = ["mean", "median", "max", "rank1_fraction", "seconds"]
        names += [f"x{repetitions}_mean" for repetitions in self.canaries.repetition_counts]
        names += ["controls_mean", "p_value"] if self.canaries.controls else []
        names += ["rank_epsilon"] if is_uniform_draw(self.canaries) else []
        return [_PREFIX + name for name in names]

    def measure(self, model: nn.Module) -> ExposureReport:
        """The report on every canary."""
        assert self.meter is not None, "prepare comes first"
        self._tally.sum_up()
        report = self.meter.measure(model, base_model=self.base_model)
        if self.meter.is_masked:
            self._tally.give_up(Uncounted.RANDOM_MASKS)
        return report

    def doses(self, epochs: float, *, together: bool = False) -> Doses:
        """How often each canary has contributed to the loss, and how often it should have.

        Args:
            epochs: the number of passes over the data until now.
            together: whether every process makes this call, and all get the present counts. Otherwise, in a job of
                several processes, the counts are those of the last measurement or checkpoint.
        """
        if together or self._tally.is_alone:
            self._tally.sum_up()
        uncounted = self._tally.uncounted
        if uncounted is None and epochs > 0.0 and not self._tally.batches:
            uncounted = Uncounted.NO_BATCHES
        return self._doses(self._tally.counts_K4, uncounted, epochs)

    def doses_of(self, state: Mapping[str, Any] | None, epochs: float) -> Doses:
        """Like `doses`, at the checkpoint for which `state_dict` returned `state`; None for a checkpoint without a
        state.
        """
        if self._tally.uncounted is not None:
            return Doses(uncounted=self._tally.uncounted)
        then = _DoseTally(len(self.canaries), self._tally.ledger, uncounted=Uncounted.RESUMED_WITHOUT_COUNTS)
        then.load_state_dict(state or {})
        return self._doses(then.counts_K4, then.uncounted, epochs)

    def _doses(self, counts_K4: NDArray[np.int64], uncounted: Uncounted | None, epochs: float) -> Doses:
        if uncounted is not None:
            return Doses(uncounted=uncounted)
        counted = []
        for canary, kinds in zip(self.canaries, counts_K4.tolist(), strict=True):
            whole, partly, masked, cut = kinds
            least, most = expected_doses(canary.repetitions, epochs)
            counted.append(
                CanaryDose(
                    canary_id=canary.id,
                    whole=whole,
                    partly=partly,
                    masked=masked,
                    cut=cut,
                    repetitions=canary.repetitions,
                    least=least,
                    most=most,
                )
            )
        return Doses(counted=tuple(counted))

    def state_dict(self) -> dict[str, Any]:
        """The counted doses, and the fingerprint of the base model if it is the model without its adapters.

        Every process must make this call.
        """
        logits = None if self.meter is None else self.meter.base.logits
        base = {} if logits is None or self.base_model != "without_adapter" else {"base_logits": logits}
        return {**base, **self._tally.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues counting where the run was stopped, and compares its base model with the original one.

        Raises:
            InputError: the base model has changed.
        """
        self._tally.load_state_dict(state)
        model = None if self._model is None else self._model()
        if self.meter is not None and model is not None and "base_logits" in state:
            self.meter.base.resume(state["base_logits"], model)

    @staticmethod
    def record_from_dict(values: Mapping[str, Any]) -> ExposureReport:
        """The report of a line of the log."""
        return ExposureReport.from_dict(values)

    def _see(self, batch: SeenBatch) -> None:
        if self._tally.ledger is not None:
            self._tally.ledger.see(batch.inputs)

    def _new_tally(self, meter: ExposureMeter, start: TrainingStart) -> _DoseTally:
        """A new tally without counts, or one that records why counting is impossible."""
        count = len(self.canaries)
        if not hasattr(self, "on_batch"):
            return _DoseTally(count, uncounted=Uncounted.SWITCHED_OFF)
        if start.tokenizer is None:
            return _DoseTally(count, uncounted=Uncounted.NO_TOKENIZER)
        collator = getattr(start.train_dataloader, "collate_fn", None)
        if is_masked_class(start.model) or masking_probability(collator) is not None:
            return _DoseTally(count, uncounted=Uncounted.RANDOM_MASKS)
        source, context = meter.settings.source, meter.settings.context
        patterns = without_secrets(
            self.canaries,
            lambda: canary_tokens(start.tokenizer, tuple(self.canaries), context, target=source is not None),
        )
        config = getattr(unwrap_model(start.model), "config", None)
        is_encoder_decoder = source is not None or bool(getattr(config, "is_encoder_decoder", False))
        ledger = DoseLedger(patterns, count, labels_are_text=is_encoder_decoder)
        # Earlier counts are in the checkpoint, or lost.
        lost = Uncounted.RESUMED_WITHOUT_COUNTS if start.step else None
        lost = Uncounted.BEGUN_AGAIN if start.begins_again else lost
        return _DoseTally(count, ledger, start.processes, uncounted=lost)


class _DoseTally:
    """The sum of the ledgers of all processes, with the counts of the run before it was stopped.

    Attributes:
        counts_K4: the counts at the last `sum_up`, or of the checkpoint.
        batches: the number of batches seen at the same time.
        uncounted: why the counts are unknown; None if they are known.
    """

    def __init__(
        self,
        canaries: int,
        ledger: DoseLedger | None = None,
        processes: Processes = SINGLE_PROCESS,
        uncounted: Uncounted | None = Uncounted.SWITCHED_OFF,
    ) -> None:
        self.ledger, self._processes, self.uncounted = ledger, processes, uncounted
        self.counts_K4 = self._before_K4 = np.zeros((canaries, len(KINDS)), dtype=np.int64)
        self.batches = self._batches_before = 0

    @property
    def is_alone(self) -> bool:
        return self._processes.count == 1

    def sum_up(self) -> None:
        """Every process must make this call."""
        if self.ledger is None:
            return
        summed = self._processes.all_reduce_sum(self._own)
        (batches,), counts, reasons = np.split(summed, [1, 1 + self.counts_K4.size])
        self.batches = self._batches_before + int(batches)
        self.counts_K4 = self._before_K4 + counts.reshape(self.counts_K4.shape).astype(np.int64)
        found = [reason for reason, processes in zip(Uncounted, reasons, strict=True) if processes]
        if found:
            self.give_up(found[0])

    def give_up(self, reason: Uncounted) -> None:
        """Records why counting is impossible; the first reason is kept."""
        self.uncounted = self.uncounted or reason

    def state_dict(self) -> dict[str, Any]:
        if self.ledger is None:
            return {}
        self.sum_up()
        reason = "" if self.uncounted is None else self.uncounted.value
        return {"doses": torch.from_numpy(self.counts_K4.copy()), "batches": self.batches, "uncounted": reason}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.ledger is not None and "doses" in state and state["doses"].shape == self.counts_K4.shape:
            self.counts_K4 = self._before_K4 = state["doses"].numpy().copy()
            self.batches = self._batches_before = int(state["batches"])
            before = Uncounted(state["uncounted"]) if state["uncounted"] else None
            self.uncounted = before if self.uncounted is Uncounted.RESUMED_WITHOUT_COUNTS else self.uncounted or before

    def _own(self) -> NDArray[np.float64]:
        """This process's batches, its counts, and a flag for each reason. Exact up to 2^53."""
        assert self.ledger is not None
        counts_K4 = self.ledger.counts_K4()
        reasons = [self.ledger.uncounted is reason for reason in Uncounted]
        return np.concatenate([[self.ledger.batches], counts_K4.ravel(), reasons]).astype(np.float64)
