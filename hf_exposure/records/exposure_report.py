"""One measurement of a set of canaries: what `measure_exposure` returns."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hf_exposure.canaries import CanarySet
from hf_exposure.checks import flag, instance_of, path_of, real_number
from hf_exposure.errors import InputError
from hf_exposure.estimators.estimate import Bound, bound_of_figures
from hf_exposure.files import make_private_folder, read_json, write_aside
from hf_exposure.records.estimates import ExposureEstimate
from hf_exposure.records.groups import RepetitionGroup, group_by_repetitions
from hf_exposure.records.identity import IDENTITY, PAGE_FILE, PLOT_FILES, identity_of, refuse_mixture
from hf_exposure.records.references import ReferenceCosts
from hf_exposure.records.schema import SCHEMA_VERSION, check_report, report_schema
from hf_exposure.records.validity import Delivery, Validity

REPORT_FILE = "report.json"


@dataclass(frozen=True, kw_only=True)
class ExposureReport:
    """The exposure of every canary at one moment of a model. Holds no secret: ids, no texts, and not the draw's seed.

    Attributes:
        estimates: inserted canaries first, then controls, each in their set's order.
        template: the template's text with its holes, and the space of each hole.
        space_size: |R|, an exact int.
        manifest_hash: salted hash of the canary set.
        settings: arguments of the measurement, with its seed.
        p_value: one-sided rank test of inserted against controls, on log-perplexities; NaN without controls.
        auc: share of (inserted, control) pairs in which the inserted one is likelier, with `auc_low`, `auc_high`.
        epsilon: what the run refutes of differential privacy (the fields of `EpsilonBound`): adding or removing one
            row. None where no coins were flipped: without coins there is no epsilon.
        seconds: wall time of the measurement.
        model: class, number of parameters, dtype, name and revision of the model.
        scoring_mode: how the model was read, as `CausalScorer` names it; "" in reports that do not say.
        dataset: what the canaries were inserted into, where it is known: its name, say.
        versions: of the packages that took part.
        step, epoch: of the training run, where there was one.
        references: costs of uniform texts of the template as a histogram; None where the method scored none.
        delivery: how many of the inserted canaries were trained on; None where the training data were not looked at.
        notes: what concerns all canaries alike (how well the skew-normal fits, say).

    Example:
        >>> report = ExposureReport(estimates=(), template="pin {pin}", spaces={"pin": "digits:4"}, space_size=10**4,
        ...     manifest_hash="", settings={"confidence_level": 0.95})
        >>> round(report.log2_space_size, 2)
        13.29
    """

    estimates: tuple[ExposureEstimate, ...]
    template: str
    spaces: Mapping[str, Any]
    space_size: int
    manifest_hash: str
    settings: Mapping[str, Any]
    p_value: float = math.nan
    auc: float = math.nan
    auc_low: float = math.nan
    auc_high: float = math.nan
    epsilon: Mapping[str, Any] | None = None
    seconds: float = math.nan
    model: Mapping[str, Any] = field(default_factory=dict)
    scoring_mode: str = ""
    dataset: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    step: int | None = None
    epoch: float | None = None
    references: ReferenceCosts | None = None
    delivery: Delivery | None = None
    notes: tuple[str, ...] = ()

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
        """Whether the figures can be read as a test of memorization. An invalid run has no verdict."""
        return Validity.UNCHECKED if self.delivery is None else self.delivery.validity

    @cached_property
    def groups(self) -> tuple[RepetitionGroup, ...]:
        """One group per repetition count, controls (0 repetitions) first."""
        return group_by_repetitions(self.estimates, self.log2_space_size, self.settings["confidence_level"])

    @property
    def memorisation_p_value(self) -> float:
        """How surprising the most memorised repetition count would be, had the model memorised nothing.

        The smallest p-value of the groups times their number (Bonferroni), at most 1; NaN without controls. Unlike
        `p_value`, it is not diluted by repetition counts that left no trace.
        """
        tested = [group.corrected_p_value for group in self.groups if group.repetitions]
        return min(tested) if tested and not np.isnan(tested).any() else math.nan

    def with_doses(self, doses_per_epoch: Mapping[str, float], epochs: float) -> ExposureReport:
        """The report with each canary's effective dose after so many epochs; of ids that are not named it stays NaN.

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

    def push_to_hub(self, repo_id: str, **arguments: Any) -> str:
        """Writes the rounded figures into the card of a model on the Hub, and files beside it, in one commit.

        Args:
            repo_id: "user/model".
            **arguments: those of `hf_exposure.hub.push_to_hub`: create_pr, token, folder, revision, private, canaries.

        Returns:
            the address of the commit, or of the pull request.
        """
        from hf_exposure.hub import push_to_hub

        return push_to_hub(self, repo_id, **arguments)

    def metrics(self) -> dict[str, float]:
        """The figures to log, as plain floats. Those of controls are absent when there are none.

        `eval_exposure_invalid` is there, as 1.0, in an invalid run alone: curves at chance level must not pass for a
        good result.

        `rank1_fraction` counts the canaries that are certainly the likeliest of their template: methods that give no
        certified rank add nothing to it.
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
        if self.validity is Validity.INVALID:
            figures["eval_exposure_invalid"] = 1.0
        return {key: float(value) for key, value in figures.items()}

    def to_dict(self, *, include_secrets: bool = False, canaries: CanarySet | None = None) -> dict[str, Any]:
        """Plain values for JSON, of the shape that `report.schema.json` gives; None for figures that are not finite.

        Args:
            include_secrets: add `secrets`, the text of each canary by its id. A report has none: `canaries` must bring
                them.
            canaries: the set that was measured.

        Raises:
            InputError: secrets without canaries, or those of another set.
        """
        head = {"format": report_schema()["properties"]["format"]["const"], "schema_version": SCHEMA_VERSION}
        flag("include_secrets", include_secrets)
        if canaries is not None:
            remedy = "Pass canaries=CanarySet.load(the file that was measured)."
            instance_of("canaries", canaries, CanarySet, remedy)
        derived = {"validity": self.validity.value, "metrics": self.metrics()}
        values: dict[str, Any] = _plain({**head, **asdict(self), **derived})
        if not include_secrets:
            return values
        if canaries is None or canaries.manifest_hash != self.manifest_hash:
            received = None if canaries is None else f"another set, of template {canaries.template.text!r}"
            rule = f"must be the set that was measured, of template {self.template!r}, with include_secrets=True"
            raise InputError("canaries", rule, received, "Pass canaries=CanarySet.load(the file that was measured).")
        return {**values, "secrets": {canary.id: canary.text for canary in canaries}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ExposureReport:
        """The report that `to_dict` wrote. Secrets, where it was asked to write them, stay in the file.

        Raises:
            InputError: another format, a newer schema, or a field that is missing or of the wrong type.
        """
        check_report(values)
        references, delivery = values.get("references"), values.get("delivery")
        restored = {
            **values,
            "estimates": tuple(_estimates(values["estimates"], values["space_size"])),
            "notes": tuple(values["notes"]),
        }
        if references is not None:
            counts = tuple(references["counts"])
            restored["references"] = _record(ReferenceCosts, {**references, "counts": counts})
        if delivery is not None:
            restored["delivery"] = _record(Delivery, delivery)
        return _record(cls, restored)

    @classmethod
    def load(cls, path: str | Path) -> ExposureReport:
        """The report that `save` wrote.

        Args:
            path: `report.json`, or the folder that holds it.

        Raises:
            InputError: no such file, JSON that is damaged or cut off, files of another measurement next to it, or as
                `from_dict`.
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
    ) -> list[Path]:
        """Writes `report.json`, `report.html`, and plots where matplotlib is installed: for their owner's eyes only.

        The files carry one measurement id, by which `load` notices a folder in which two reports are mixed. Plots of
        an earlier report that this one does not have are removed.

        Args:
            folder: made if missing.
            history: reports of the same run, for the plot of exposure against step; with or without this one.
            training_log: the trainer's `state.log_history`, for the plot of losses beside exposure.
            include_secrets, canaries: as for `to_dict`.

        Returns:
            the files written.

        Raises:
            InputError: a folder that cannot be made or written to, or as `to_dict`.
        """
        for name, records, kind in (("history", history, ExposureReport), ("training_log", training_log, Mapping)):
            if not isinstance(records, Sequence) or not all(isinstance(record, kind) for record in records):
                remedy = "Pass callback.reports, and trainer.state.log_history."
                raise InputError(name, f"must be a list of {kind.__name__}", type(records).__name__, remedy)
        earlier = [{"step": r.step, "epoch": r.epoch, **r.metrics()} for r in history]
        values = self.to_dict(include_secrets=include_secrets, canaries=canaries)
        identity = identity_of([self.to_dict(), earlier, list(training_log)])
        content = {**values, "history": _plain(earlier), IDENTITY: identity}
        document = json.dumps(content, indent=1, allow_nan=False) + "\n"
        # Imported here: what draws and what lays out a page need this class.
        from hf_exposure.report.page import report_page
        from hf_exposure.report.plots import draw_plots, matplotlib_is_installed

        target = make_folder("folder", folder)
        written = [write_aside(target / REPORT_FILE, document, private=True)]
        plots = draw_plots(self, history, target, training_log, identity) if matplotlib_is_installed() else []
        page = report_page(self, {path.name: path.read_bytes() for path in plots}, identity)
        written += [write_aside(target / PAGE_FILE, page, private=True), *plots]
        for name in {PAGE_FILE, *PLOT_FILES} - {path.name for path in written}:
            (target / name).unlink(missing_ok=True)  # of an earlier report
        return written


def make_folder(argument: str, folder: str | Path) -> Path:
    """The folder, made where it is missing, and writable.

    Raises:
        InputError: it cannot be made, or not be written to.
    """
    target = path_of(argument, folder)
    try:
        make_private_folder(target)
        reason = "" if os.access(target, os.W_OK | os.X_OK) else "Permission denied"
    except OSError as error:
        reason = str(error.strerror)
    if reason:
        raise InputError(
            argument,
            f"must be a folder that can be made and written to ({reason})",
            str(folder),
            "Name another folder.",
        )
    return target


def read_report_file(path: str | Path) -> dict[str, Any]:
    """The values in a report file, or in the `report.json` of a folder; not yet checked.

    Raises:
        InputError: no such file, or JSON that is damaged or cut off.
    """
    path = path_of("path", path)
    file = path / REPORT_FILE if path.is_dir() else path
    try:
        values: dict[str, Any] = read_json(file)
    except OSError as error:
        rule = f"must be a report that can be read ({error.strerror})"
        raise InputError("path", rule, str(file), "Write one with report.save(folder).") from None
    except ValueError:
        rule = "must be whole JSON; this file is damaged or cut off"
        raise InputError("path", rule, str(file), "Restore it from a copy, or measure again.") from None
    return values


Record = TypeVar("Record")


def _record(kind: type[Record], values: Mapping[str, Any]) -> Record:
    """A dataclass from checked values. None where a float must be stands for a figure that was not finite."""
    known = {f.name: str(f.type) for f in fields(kind) if f.name in values}  # type: ignore[arg-type]
    return kind(
        **{
            name: math.nan if values[name] is None and annotation == "float" else values[name]
            for name, annotation in known.items()
        }
    )


def _estimates(rows: Sequence[Mapping[str, Any]], space_size: int) -> Iterator[ExposureEstimate]:
    """The estimates of a report file. Files from before `bound` lack it: it is derived from the figures.

    A published report withholds all log-perplexities. In any other, the one that is null is infinite: JSON has no
    number for a text of probability 0, and a model that returns NaN gives no report.
    """
    inserted = sum(row["repetitions"] > 0 for row in rows)
    withheld = all(row["log_perplexity_bits"] is None for row in rows)
    for row in rows:
        estimate = _record(ExposureEstimate, row)
        if row["log_perplexity_bits"] is None and not withheld:
            estimate = replace(estimate, log_perplexity_bits=math.inf)
        if row.get("bound") is None:
            rivals_and_self = space_size - inserted + (not estimate.is_control)
            estimate = replace(estimate, bound=_derived_bound(estimate, math.log2(max(rivals_and_self, 1))))
        yield estimate


def _derived_bound(estimate: ExposureEstimate, most_bits: float) -> Bound:
    return bound_of_figures(
        method=estimate.method,
        exposure_bits=estimate.exposure_bits,
        low_bits=estimate.low_bits,
        high_bits=estimate.high_bits,
        rank_low=estimate.rank_low,
        rank_high=estimate.rank_high,
        most_bits=most_bits,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
