"""One measurement of a set of canaries: what `measure_exposure` returns."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hf_exposure.errors import InputError
from hf_exposure.files import write_aside
from hf_exposure.records import ExposureEstimate
from hf_exposure.report.groups import RepetitionGroup, group_by_repetitions

__all__ = ["SCHEMA_VERSION", "ExposureReport"]

SCHEMA_VERSION = 1
_FORMAT = "hf-exposure report"
_ESTIMATE_FIELDS = {f.name: f.type for f in fields(ExposureEstimate)}


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
        model: class, number of parameters, dtype and name of the model.
        versions: of the packages that took part.
        step, epoch: of the training run, where there was one.
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
    versions: Mapping[str, str] = field(default_factory=dict)
    step: int | None = None
    epoch: float | None = None
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
        tested = [group.p_value for group in self.groups if group.repetitions]
        return min(1.0, len(tested) * min(tested)) if tested and not np.isnan(tested).any() else math.nan

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
        return {key: float(value) for key, value in figures.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON. Figures that are not finite become None."""
        return _plain({"format": _FORMAT, "schema_version": SCHEMA_VERSION, **asdict(self), "metrics": self.metrics()})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ExposureReport:
        """The report that `to_dict` wrote.

        Raises:
            InputError: another format, a newer schema, or a field that is missing or unknown.
        """
        if not isinstance(values, Mapping) or values.get("format") != _FORMAT:
            raise InputError("report", f"must be of format {_FORMAT!r}", type(values).__name__, "Use report.json.")
        if values.get("schema_version", 0) > SCHEMA_VERSION:
            raise InputError(
                "schema_version",
                f"must be at most {SCHEMA_VERSION} for this version of hf_exposure",
                values["schema_version"],
                "Upgrade: pip install --upgrade hf-exposure",
            )
        known = {f.name: f.type for f in fields(cls)}
        restored = {name: _restored(value, str(known[name])) for name, value in values.items() if name in known}
        try:
            restored["estimates"] = tuple(
                ExposureEstimate(**{k: _restored(v, str(_ESTIMATE_FIELDS[k])) for k, v in row.items()})
                for row in values["estimates"]
            )
            return cls(**{**restored, "notes": tuple(values["notes"])})
        except (KeyError, TypeError) as error:
            remedy = "Take the file as it was written, or measure again."
            raise InputError("report", "must hold the fields that to_dict writes", str(error), remedy) from error

    def save(self, folder: str | Path, history: Sequence[ExposureReport] = ()) -> list[Path]:
        """Writes `report.json`, and plots where matplotlib is installed.

        Args:
            folder: made if missing.
            history: reports of the same run, for the plot of exposure against step; with or without this one.

        Returns:
            the files written.
        """
        target = Path(folder)
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            rule = f"must be a folder that can be made ({error.strerror})"
            raise InputError("folder", rule, str(folder), "Name another folder.") from None
        earlier = [{"step": r.step, "epoch": r.epoch, **r.metrics()} for r in history]
        document = {**self.to_dict(), "history": _plain(earlier)}
        written = [write_aside(target / "report.json", json.dumps(document, indent=1) + "\n")]
        # Imported here: a plot is an optional part, a report is not.
        from hf_exposure.report.plots import draw_plots, matplotlib_is_installed

        if matplotlib_is_installed():
            written += draw_plots(self, history, target)
        return written


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _restored(value: Any, annotation: str) -> Any:
    """None stands for a figure that was not finite, except where None is a value of its own."""
    return math.nan if value is None and annotation == "float" else value
