"""One measurement of a set of canaries: what `measure_exposure` returns."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Required

import numpy as np
from pydantic import ConfigDict, Field, GetPydanticSchema, PlainSerializer, Strict
from pydantic_core import core_schema
from typing_extensions import TypedDict

from hf_exposure.canaries import CanarySet
from hf_exposure.checks import flag, instance_of, path_of, real_number
from hf_exposure.errors import InputError
from hf_exposure.estimators import RankEpsilon
from hf_exposure.fields import WHOLE, Amount, Count, Figure, Flag, Rank, Real, Seed, Share, Values, plain
from hf_exposure.files import read_json
from hf_exposure.presenting import Presented
from hf_exposure.records.documents import DocumentFormat
from hf_exposure.records.doses import CanaryDose, Doses
from hf_exposure.records.estimates import ExposureEstimate
from hf_exposure.records.groups import RepetitionGroup, group_by_repetitions
from hf_exposure.records.identity import IDENTITY, refuse_mixture
from hf_exposure.records.rank_epsilons import rank_epsilons
from hf_exposure.records.references import ReferenceCosts
from hf_exposure.records.run_facts import Outcome, RunFacts, outcome_of
from hf_exposure.records.validity import Delivery, Validity

REPORT_FILE = "report.json"


class _Settings(TypedDict, total=False):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    confidence_level: Required[Annotated[Real, Field(ge=0, le=1)]]
    seed: Seed
    delta: Annotated[Real, Field(ge=0, lt=1)]
    method: str


def _checked_settings(_: Any, handler: Any) -> core_schema.CoreSchema:
    def checked(values: Any, check: Any) -> dict[str, Any]:
        check(values)
        return dict(values)  # in the order given

    return core_schema.no_info_wrap_validator_function(checked, handler.generate_schema(_Settings))


Settings = Annotated[
    Mapping[str, Any],
    GetPydanticSchema(_checked_settings),
    PlainSerializer(plain),
]


@dataclass(frozen=True, kw_only=True)
class ExposureReport(Presented):
    """The exposure of every canary under one state of a model. It contains no secret: only ids, no texts, and not the
    seed of the draw.

    Attributes:
        estimates: one for each canary, inserted ones first, then controls, in their set's order.
        template: the template's text, with its holes in braces.
        spaces: the space of each hole.
        space_size: |R|, an exact int; it may exceed 2^53.
        manifest_hash: salted hash of the canary set.
        settings: arguments of the measurement, with its seed. The seed of the draw is secret and is not stored.
        p_value: one-sided rank test of inserted against controls, on log-perplexities; NaN without controls.
        auc: share of (inserted, control) pairs in which the inserted one is likelier.
        auc_low, auc_high: ends of the confidence interval of `auc`.
        epsilon: the bound on epsilon of differential privacy from the coins (the fields of `EpsilonBound`), for adding
            or removing one row. None if no coins were flipped. Its `epsilon` is None and its `void` is True if a
            canary with a coin was trained on more or less often than its coin says. Bounds from ranks are in
            `rank_epsilons`.
        gaussian_epsilons: bounds from the same coins for claims about Gaussian noise, if delta is above 0; `claim`
            names each. They are void if `epsilon` is.
        seconds: wall time of the measurement.
        model: class, number of parameters, dtype, name and revision of the model, and the library that quantized it.
        scoring_mode: the scoring mode, as named by `CausalScorer`; "" in reports that do not say.
        dataset: facts about the data set into which the canaries were inserted, such as its name, if known.
        versions: versions of the packages used.
        step, epoch: step and epoch of the training run, if there was one.
        references: costs of uniform texts of the template as a histogram; None if the method scored none.
        delivery: how many of the inserted canaries were trained on; None if the training data were not checked.
        doses: how often each canary was actually trained on, as counted in the training batches, or why that was not
            counted; None outside a training.
        notes: notes about all canaries, such as the fit of the skew-normal law.
        run: the facts that identify the measurement: its time, call, weights and threshold; None in reports that do
            not say. Reports with equal figures are equal, even if their runs differ.
        uniform_draw: whether the secrets were drawn uniformly by `draw_canaries`; otherwise ranks give no bound on
            epsilon.
        complete_search: whether it is proven that certified ranks count every text of the template; False if that was
            only audited on samples, and in reports that do not say.

    Example:
        >>> report = ExposureReport(estimates=(), template="pin {pin}", spaces={"pin": "digits:4"}, space_size=10**4,
        ...     manifest_hash="", settings={"confidence_level": 0.95})
        >>> round(report.log2_space_size, 2)
        13.29
    """

    kind: ClassVar[str] = "exposure"

    estimates: tuple[ExposureEstimate, ...]
    template: str
    spaces: Mapping[str, str]
    space_size: Rank
    manifest_hash: str
    settings: Settings
    p_value: Share = math.nan
    auc: Share = math.nan
    auc_low: Share = math.nan
    auc_high: Share = math.nan
    epsilon: Values | None = None
    gaussian_epsilons: tuple[Values, ...] = ()
    seconds: Amount = math.nan
    model: Values = field(default_factory=dict)
    scoring_mode: str = ""
    dataset: Values = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    step: Count | None = None
    epoch: Real | None = None
    references: ReferenceCosts | None = None
    delivery: Delivery | None = None
    doses: Doses | None = None
    notes: tuple[str, ...] = ()
    run: RunFacts | None = field(default=None, compare=False)
    uniform_draw: Flag = False
    complete_search: Flag = False

    @property
    def log2_space_size(self) -> float:
        """log2 |R|, in bits."""
        return math.log2(self.space_size)

    @property
    def inserted(self) -> tuple[ExposureEstimate, ...]:
        """Estimates of the canaries that were inserted."""
        return tuple(estimate for estimate in self.estimates if not estimate.is_control)

    @property
    def controls(self) -> tuple[ExposureEstimate, ...]:
        """Estimates of the held-out canaries."""
        return tuple(estimate for estimate in self.estimates if estimate.is_control)

    @property
    def validity(self) -> Validity:
        """Whether the figures are a valid test of memorization. An invalid run has no verdict."""
        return Validity.UNCHECKED if self.delivery is None else self.delivery.validity

    @property
    def outcome(self) -> Outcome:
        """PASS or FAIL under the threshold of the run, INVALID if canaries were not trained on, or no threshold."""
        return outcome_of(self)

    def with_run(self, **facts: Any) -> ExposureReport:
        """The report with some of its `RunFacts` replaced: `report.with_run(threshold_bits=4.0).outcome`.

        Example:
            >>> report = ExposureReport(estimates=(), template="pin {pin}", spaces={}, space_size=10**4,
            ...     manifest_hash="", settings={"confidence_level": 0.95})
            >>> report.with_run(name="nightly").run.name
            'nightly'
        """
        return replace(self, run=replace(self.run or RunFacts(), **facts))

    @cached_property
    def groups(self) -> tuple[RepetitionGroup, ...]:
        """One group for each repetition count, controls (0 repetitions) first."""
        level, bounds = self.settings["confidence_level"], None
        if not self.why_no_rank_epsilon:
            bounds = rank_epsilons(self.estimates, self.space_size, level, self.settings.get("delta", 0.0))
        return group_by_repetitions(self.estimates, self.log2_space_size, level, bounds)

    @property
    def why_no_rank_epsilon(self) -> str:
        """Why the ranks give no bound on epsilon of differential privacy; "" if they do, even if the bound is 0."""
        if not self.inserted:
            return "no canary was inserted"
        if not self.uniform_draw:
            return "it is not known that the secrets were drawn uniformly"
        if not self.complete_search:
            return "it is not proven that certified ranks count every text of the template"
        return ""

    @property
    def rank_epsilons(self) -> Mapping[int, RankEpsilon]:
        """The bounds on epsilon of differential privacy from ranks, by repetitions; empty if `why_no_rank_epsilon`
        gives a reason.

        The record is a canary with all its repetitions. The bounds of all counts hold together, so the largest may be
        chosen; this is not so for several reports of one training.
        """
        return {group.repetitions: group.rank_epsilon for group in self.groups if group.rank_epsilon is not None}

    @property
    def memorization_p_value(self) -> float:
        """The p-value of the most memorized repetition count under the hypothesis that nothing was memorized.

        The smallest p-value of the groups times their number (Bonferroni), at most 1; NaN without controls. Unlike
        `p_value`, it is not diluted by repetition counts without memorization.
        """
        tested = [group.corrected_p_value for group in self.groups if group.repetitions]
        return min(tested) if tested and not np.isnan(tested).any() else math.nan

    @property
    def memorisation_p_value(self) -> float:
        """The earlier spelling of `memorization_p_value`."""
        return self.memorization_p_value

    def with_doses(self, doses_per_epoch: Mapping[str, float], epochs: float) -> ExposureReport:
        """The report with each canary's effective dose after this many epochs; for ids that are not given it stays
        NaN.

        Example:
            >>> report = ExposureReport(estimates=(), template="pin {pin}", spaces={"pin": "digits:4"},
            ...     space_size=10**4, manifest_hash="", settings={"confidence_level": 0.95})
            >>> report.with_doses({}, 2.0) == report
            True
        """
        if not isinstance(doses_per_epoch, Mapping):
            remedy = "Pass DeliveryReport.doses_per_epoch."
            raise InputError("doses_per_epoch", "must be a mapping", type(doses_per_epoch).__name__, remedy)
        epochs = real_number("epochs", epochs, "must be at least 0", "Pass state.epoch.", at_least=0.0)
        estimates = (
            replace(one, effective_dose=epochs * doses_per_epoch.get(one.canary_id, math.nan))
            for one in self.estimates
        )
        return replace(self, estimates=tuple(estimates))

    def with_counted_doses(self, doses: Doses, coins: Collection[str] = ()) -> ExposureReport:
        """The report with counted doses: each canary's `effective_dose` is its count, if there is one.

        Bounds on epsilon from coins assume that training followed the coins. If a canary with a coin was trained on
        more or less often than its coin says, the bounds are void. Bounds from ranks hold in any case.

        Args:
            doses: the doses of the canaries of this report.
            coins: ids of the canaries with coins.

        Example:
            >>> from hf_exposure.records import CanaryDose, Doses
            >>> report = ExposureReport(estimates=(), template="pin {pin}", spaces={"pin": "digits:4"},
            ...     space_size=10**4, manifest_hash="", settings={}, epsilon={"epsilon": 1.2, "canaries": 80})
            >>> doses = Doses(counted=(CanaryDose(canary_id="a", whole=0, repetitions=1, least=1, most=1),))
            >>> report.with_counted_doses(doses, coins=["a"]).epsilon
            {'epsilon': None, 'canaries': 80, 'void': True}
        """
        whole = {one.canary_id: float(one.whole) for one in doses.counted}
        estimates = tuple(
            replace(one, effective_dose=whole.get(one.canary_id, one.effective_dose)) for one in self.estimates
        )
        bounds = () if self.epsilon is None else (self.epsilon, *self.gaussian_epsilons)
        if any(one.canary_id in coins for one in doses.differing):
            bounds = tuple({**bound, "epsilon": None, "void": True} for bound in bounds)
        epsilon, *gaussian = bounds or (None,)
        return replace(self, estimates=estimates, doses=doses, epsilon=epsilon, gaussian_epsilons=tuple(gaussian))

    def push_to_hub(self, repo_id: str, **arguments: Any) -> str:
        """Writes the rounded figures into the card of a model on the Hub, and files next to it, in one commit.

        Args:
            repo_id: "user/model".
            **arguments: the arguments of `hf_exposure.hub.push_to_hub`: create_pr, token, folder, revision, private,
                canaries.

        Returns:
            The address of the commit, or of the pull request.
        """
        return str(self.presented("push", repo_id, **arguments))

    def metrics(self) -> dict[str, float]:
        """The figures to log, as plain floats. Those of controls are absent if there are none.

        `eval_exposure_invalid` is present, as 1.0, only in an invalid run, so that its curves at chance level are not
        mistaken for a good result.

        `rank_epsilon` is present if the secrets were drawn uniformly: the largest of the groups' bounds, at the
        settings' delta and for a canary with all its repetitions; NaN if ranks give no bound on epsilon.

        `rank1_fraction` counts the canaries that are certainly the likeliest of their template; methods without
        certified ranks add nothing to it.
        """
        bits = np.array([estimate.exposure_bits for estimate in self.inserted] or [math.nan])
        first = [float(estimate.rank_high == 1) for estimate in self.inserted] or [math.nan]
        figures = {
            "eval_exposure_mean": bits.mean(),
            "eval_exposure_median": np.median(bits),
            "eval_exposure_max": bits.max(),
            "eval_exposure_rank1_fraction": np.mean(first),
            "eval_exposure_seconds": self.seconds,
        }
        for group in self.groups:
            if group.repetitions:
                figures[f"eval_exposure_x{group.repetitions}_mean"] = group.mean_bits
            else:
                figures["eval_exposure_controls_mean"] = group.mean_bits
                figures["eval_exposure_p_value"] = self.p_value
        if self.uniform_draw:
            bounds = [bound.epsilon for bound in self.rank_epsilons.values()]
            figures["eval_exposure_rank_epsilon"] = max(bounds, default=math.nan)
        if self.validity is Validity.INVALID:
            figures["eval_exposure_invalid"] = 1.0
        return {key: float(value) for key, value in figures.items()}

    def to_dict(self, *, include_secrets: bool = False, canaries: CanarySet | None = None) -> dict[str, Any]:
        """Plain values for JSON, as described by `report.schema.json`; None for figures that are not finite.

        Args:
            include_secrets: whether to add `secrets`, the text of each canary by its id. The report has no texts, so
                `canaries` must provide them.
            canaries: the set that was measured.

        Raises:
            InputError: secrets are requested without canaries, or with another set.
        """
        flag("include_secrets", include_secrets)
        if canaries is not None:
            remedy = "Pass canaries=CanarySet.load(the file that was measured)."
            instance_of("canaries", canaries, CanarySet, remedy)
        derived = {
            "validity": self.validity.value,
            "outcome": self.outcome.value,
            "metrics": plain(self.metrics()),
            "groups": [_group_values(group) for group in self.groups],
        }
        values = {**EXPOSURE_REPORT.write(self), **derived}
        if not include_secrets:
            return values
        if canaries is None or canaries.manifest_hash != self.manifest_hash:
            received = None if canaries is None else f"another set, of template {canaries.template.text!r}"
            rule = f"must be the set that was measured, of template {self.template!r}, with include_secrets=True"
            raise InputError("canaries", rule, received, "Pass canaries=CanarySet.load(the file that was measured).")
        return {**values, "secrets": {canary.id: canary.text for canary in canaries}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ExposureReport:
        """The report from the values of `to_dict`. Secrets among the values are not read.

        Raises:
            InputError: the format differs, the schema is newer, or a field is missing or of the wrong type.
        """
        report = EXPOSURE_REPORT.read(values)
        return replace(report, estimates=tuple(_completed(report, values["estimates"])))

    @classmethod
    def load(cls, path: str | Path) -> ExposureReport:
        """Reads a report that `save` wrote.

        Args:
            path: `report.json`, or its folder.

        Raises:
            InputError: there is no such file, its JSON is damaged or cut off, files of another measurement are next to
                it, or `from_dict` refuses it.
        """
        values = read_report_file(path)
        try:
            report = cls.from_dict(values)
        except InputError as error:
            raise InputError(f"{path}: {error.argument}", error.rule, error.value, error.remedy) from None
        refuse_mixture(Path(path), values.get(IDENTITY))
        return report

    def save(
        self,
        folder: str | Path,
        history: Sequence[ExposureReport] = (),
        *,
        training_log: Sequence[Mapping[str, Any]] = (),
        include_secrets: bool = False,
        canaries: CanarySet | None = None,
        formats: Sequence[str] = (),
    ) -> list[Path]:
        """Writes `report.json`, `report.html` and, if matplotlib is installed, plots. Only their owner may read them.

        `SHA256SUMS` lists their checksums; its own SHA-256 is the content hash of the report, which `hf-exposure
        verify` computes again.

        The files contain one measurement id, by which `load` detects a folder with files of two reports. Plots of an
        earlier report that this one does not have are removed.

        Args:
            folder: the folder, which is created if missing.
            history: reports of the same run, with or without this one, for the plot of exposure against step.
            training_log: the trainer's `state.log_history`, for the plot of losses and exposure.
            include_secrets, canaries: as for `to_dict`.
            formats: formats in addition to the page and PNG plots. "pdf": `report.pdf`, and each plot as PDF; needs
                fpdf2 (`pip install "hf-exposure[pdf]"`). "svg": each plot as SVG.

        Returns:
            The files written, the checksums last.

        Raises:
            MissingDependencyError: "pdf" is requested and fpdf2 is not installed.
            InputError: a format is unknown, the folder cannot be created or written to, or `to_dict` refuses the
                arguments.
        """
        written: list[Path] = self.presented(
            "save", folder, history, training_log=training_log, include_secrets=include_secrets, canaries=canaries,
            formats=formats,
        )  # fmt: skip
        return written


def _group_values(group: RepetitionGroup) -> dict[str, Any]:
    """The comparison with the controls and the bounds from ranks, for JSON."""
    curve, bound = group.roc, group.rank_epsilon
    values: dict[str, Any] = plain(
        {
            "repetitions": group.repetitions,
            "canaries": group.canaries,
            "p_value": group.p_value,
            "auc": None if curve is None else {"value": curve.auc, "low": curve.auc_low, "high": curve.auc_high},
            "tpr": [asdict(rate) for rate in group.tpr.values()],
            "rank_epsilon": None if bound is None else asdict(bound),
        }
    )
    return values


def read_report_file(path: str | Path) -> dict[str, Any]:
    """The values in a report file, or in the `report.json` of a folder; not yet checked.

    Raises:
        InputError: there is no such file, or its JSON is damaged or cut off.
    """
    path = path_of("path", path)
    file = path / REPORT_FILE if path.is_dir() else path
    try:
        values: dict[str, Any] = read_json(file)
    except OSError as error:
        rule = f"must be a report that can be read ({error.strerror})"
        raise InputError("path", rule, str(file), "Write one with report.save(folder).") from None
    except ValueError:
        rule = "must be complete JSON; this file is damaged or cut off"
        raise InputError("path", rule, str(file), "Restore it from a copy, or measure again.") from None
    return values


def _completed(report: ExposureReport, rows: Sequence[Mapping[str, Any]]) -> Iterator[ExposureEstimate]:
    """The estimates of a report file. In old files without `bound`, it is derived from the figures.

    A published report withholds all log-perplexities. In any other, a log-perplexity of null is infinite: JSON has no
    number for a text of probability 0, and there is no report for a model that returns NaN.
    """
    inserted = len(report.inserted)
    withheld = all(math.isnan(estimate.log_perplexity_bits) for estimate in report.estimates)
    for estimate, row in zip(report.estimates, rows, strict=True):
        if math.isnan(estimate.log_perplexity_bits) and not withheld:
            estimate = replace(estimate, log_perplexity_bits=math.inf)
        if "bound" not in row:
            effective_space_size = report.space_size - inserted + (not estimate.is_control)
            estimate = replace(estimate, bound=estimate.derived_bound(math.log2(max(effective_space_size, 1))))
        yield estimate


class _Envelope(TypedDict, total=False):
    """Further properties of `report.json`.

    Attributes:
        validity: valid: every inserted canary was trained on as often as intended; impaired: some less than intended;
            invalid: at least one was not trained on, and the figures say nothing; unchecked: the training data were
            not checked.
        outcome: pass or fail under the threshold of the run, invalid, or no threshold.
        metrics: the figures as logged during training.
        groups: for each repetition count, controls first: the p-value, AUC and true-positive rates against the
            controls (`TruePositiveRate`), and the bound on epsilon from ranks (`RankEpsilon`), null if there is none.
        history: step, epoch and metrics of earlier measurements of the run.
        measurement_id: the id of the files that were saved together, which the page and the plots contain too.
        secrets: canary id to text; only if requested.
    """

    format: Required[Literal["hf-exposure report"]]
    schema_version: Required[Annotated[int, Strict(), Field(ge=1, le=1), WHOLE]]
    notes: Required[Any]  # always written, although a report can be made without it
    validity: Literal["valid", "impaired", "invalid", "unchecked"]
    outcome: Literal["pass", "fail", "invalid", "no threshold"]
    metrics: Mapping[str, Figure]
    groups: tuple[Mapping[str, Any], ...]
    history: tuple[Mapping[str, Any], ...]
    measurement_id: str
    secrets: Mapping[str, str]


EXPOSURE_REPORT = DocumentFormat(
    name="hf-exposure report",
    version=1,
    record=ExposureReport,
    envelope=_Envelope,
    about="One measurement of the exposure of a set of canaries. All logarithms are base 2, all scores in bits. A "
    "figure that is undefined or not finite is null. Fields may be added within a version; readers must ignore "
    "unknown ones.",
    parts={
        ExposureEstimate: "estimate",
        ReferenceCosts: "references",
        Delivery: "delivery",
        RunFacts: "run_facts",
        Doses: "doses",
        CanaryDose: "canary_dose",
        _Settings: "settings",
    },
)


def report_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of `report.json`, as plain values; `report.schema.json` next to this file.

    Example:
        >>> report_schema()["properties"]["schema_version"]["maximum"]
        1
    """
    return EXPOSURE_REPORT.schema()
