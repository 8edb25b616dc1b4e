"""The dynamics of a training as text for a terminal, and as a page with plots and files for cleanlab.

Noisy-label candidates are the examples with the lowest area under the margin (Pleiss et al. 2020). One training does
not reveal how many of them are wrong; if the noise is known, precision and recall say how well this order finds it.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_exposure.estimators import (
    DataMap,
    ForgettingEvents,
    NoiseCurves,
    area_under_margin,
    data_map,
    exact_memorization_curve,
    forgetting_events,
    noise_curves,
    time_to_fit,
)
from hf_exposure.files import write_aside
from hf_exposure.records.dynamics import DynamicsRecord
from hf_exposure.report import plots
from hf_exposure.report.page import render
from hf_exposure.report.save import make_folder
from hf_exposure.report.table import Table

FloatArray = NDArray[np.float64]

PAGE_FILE, EXAMPLES_FILE = "dynamics.html", "examples.csv"
CLEANLAB_FILES = ("cleanlab_labels.npy", "cleanlab_pred_probs.npy")
MAP_FILE, CURVES_FILE, FORGETTING_FILE = "data_map.png", "accuracy.png", "forgetting.png"
_CANDIDATES = 50
_MOST_POINTS = 5_000
_CAPTIONS = {
    MAP_FILE: (
        "Data map: confidence against variability of each example",
        "Mean probability of the label against its standard deviation over the measurements. Easy examples are at the "
        "upper left, ambiguous ones at the right, hard ones, many of them wrongly labeled, at the lower left.",
    ),
    CURVES_FILE: (
        "Accuracy by step, separately for clean and noisy labels if they are known",
        "Share of the examples that are predicted as the label that was trained on. For a wrong label, this means "
        "memorization. Bands are 95 % intervals.",
    ),
    FORGETTING_FILE: (
        "Histogram of forgetting events",
        "How often an example was right at one measurement and wrong at the next; examples that were never right are "
        "counted apart.",
    ),
}
LIMITS = (
    "Events are counted between measurements: an example that is forgotten and learned again between two of them is "
    "not counted. Measure more often to catch more events.",
    "A small area under the margin, or low confidence, means that the network learned an example late or not at all: "
    "the label may be wrong, or the example rare. Inspect candidates before removing them.",
    "Class probabilities for cleanlab are means over the measurements, for examples that were trained on. cleanlab "
    "expects out-of-sample probabilities: use cross-validation for final decisions.",
)


@dataclass(frozen=True, eq=False)
class Dynamics:
    """The figures computed from a record.

    Attributes:
        record: the record of one training.
        events, map: forgetting events and data map, by example; for a language model, by token.
        margin_area_N: areas under the margin.
        curves: clean and noisy accuracy, if the noise is known.
        candidates: columns in ascending order of their area.
        precision: share of noisy examples among the first candidates, as many as there are noisy examples, so that it
            equals recall; NaN without noise.
    """

    record: DynamicsRecord
    events: ForgettingEvents
    map: DataMap
    margin_area_N: FloatArray
    curves: NoiseCurves | None
    candidates: NDArray[np.int64]
    precision: float


def read_dynamics(run: str | Path, name: str = "dynamics") -> Dynamics:
    """The dynamics of a training, from its output folder.

    Raises:
        InputError: the folder has no record.
    """
    return dynamics_of(DynamicsRecord.load(run, name))


def dynamics_of(record: DynamicsRecord) -> Dynamics:
    """The figures computed from a record."""
    area_N = area_under_margin(record.margin_TN)
    order: NDArray[np.int64] = np.argsort(np.where(np.isnan(area_N), np.inf, area_N), kind="stable")
    curves, precision = None, math.nan
    if record.noisy_N is not None:
        curves = noise_curves(record.correct_TN, record.noisy_N)
        count = int(record.noisy_N.sum())
        if count:
            precision = float(record.noisy_N[order[:count]].mean())
    return Dynamics(
        record=record,
        events=forgetting_events(record.correct_TN),
        map=data_map(record.probability_TN, record.correct_TN),
        margin_area_N=area_N,
        curves=curves,
        candidates=order,
        precision=precision,
    )


def summary(found: Dynamics) -> dict[str, Any]:
    """The main figures as plain values; None for undefined figures."""
    record, events = found.record, found.events
    learned_N = events.first_learned_N >= 0
    fit = time_to_fit(record.correct_TN)
    values: dict[str, Any] = {
        "measurements": len(record.steps_T),
        "columns": len(record.example_N),
        "unit": record.unit,
        "examples": int(len(np.unique(record.example_N))),
        "last_step": _number(record.steps_T[-1]),
        "last_accuracy": _number(np.nanmean(record.correct_TN[-1])),
        "last_loss_bits": _number(np.nanmean(record.loss_bits_TN[-1])),
        "forgetting_events_mean": _number(events.counts_N.mean()),
        "unforgettable_fraction": _number(events.unforgettable_N.mean()),
        "never_learned_fraction": _number((~learned_N).mean()),
        "fit_at_step": None if fit is None else _number(record.steps_T[fit]),
        "lowest_margins": found.candidates[:_CANDIDATES].tolist(),
    }
    if record.unit == "tokens":
        values["exact_memorization"] = exact_memorization_curve(record.correct_TN).tolist()
    if record.noisy_N is not None and found.curves is not None:
        noisy_N = record.noisy_N
        values |= {
            "noisy": int(noisy_N.sum()),
            "last_clean_accuracy": _number(found.curves.clean_T[-1]),
            "last_noisy_accuracy": _number(found.curves.noisy_T[-1]),
            "forgetting_events_clean": _mean_of(events.counts_N, ~noisy_N),
            "forgetting_events_noisy": _mean_of(events.counts_N, noisy_N),
            "noise_found_by_margin": _number(found.precision),
        }
    validation = _validation(record)
    if validation is not None and not np.isnan(validation).all():
        best = int(np.nanargmax(validation))
        values |= {
            "best_validation_accuracy": _number(validation[best]),
            "best_validation_step": _number(record.steps_T[best]),
            "last_validation_accuracy": _number(validation[-1]),
        }
        if found.curves is not None:
            values["noisy_accuracy_at_best"] = _number(found.curves.noisy_T[best])
    return values


def headline(found: Dynamics) -> str:
    """A summary of the training in a sentence or two."""
    values = summary(found)
    unit = values["unit"]
    said = (
        f"{values['columns']:,} {unit} at {values['measurements']} measurements: "
        f"{values['unforgettable_fraction']:.0%} were never forgotten once learned, "
        f"{values['never_learned_fraction']:.0%} were never learned."
    )
    if values.get("noisy"):
        said += f" Of {values['noisy']:,} noisy {unit}, {values['last_noisy_accuracy']:.0%} are memorized"
        said += f" (clean: {values['last_clean_accuracy']:.0%} right)."
    best, last = values.get("best_validation_accuracy"), values.get("last_validation_accuracy")
    if best is not None and last is not None:
        said += f" Validation accuracy was best at step {_step(values['best_validation_step'])}: {best:.3f}"
        said += f", and {last:.3f} at the end."
    return said


def measurements_table(found: Dynamics) -> Table:
    """One row for each measurement; if there are many, a row for evenly spaced ones and the last."""
    record, curves = found.record, found.curves
    validation = _validation(record)
    heads = ["step", "epoch", "loss (bits)", "accuracy"]
    heads += ["clean", "noisy"] if curves is not None else []
    heads += ["validation"] if validation is not None else []
    chosen = np.unique(np.linspace(0, len(record.steps_T) - 1, num=min(len(record.steps_T), 20)).round().astype(int))
    rows = []
    for row in chosen.tolist():
        cells = [
            _step(record.steps_T[row]),
            "" if math.isnan(record.epochs_T[row]) else f"{record.epochs_T[row]:g}",
            f"{np.nanmean(record.loss_bits_TN[row]):.3f}",
            f"{np.nanmean(record.correct_TN[row]):.3f}",
        ]
        if curves is not None:
            cells += [_share(curves.clean_T[row]), _share(curves.noisy_T[row])]
        if validation is not None:
            cells.append(_share(validation[row]))
        rows.append(cells)
    return Table(caption="Measurements", heads=tuple(heads), rows=rows, kinds=("",) * len(heads))


def candidates_table(found: Dynamics, most: int = 20) -> Table:
    """The examples with the lowest area under the margin."""
    record = found.record
    heads = ["row", "label", "area under margin", "confidence", "variability", "forgotten"]
    heads += ["noisy"] if record.noisy_N is not None else []
    rows = []
    for column in found.candidates[:most].tolist():
        place = str(record.example_N[column])
        if record.position_N[column] >= 0:
            place += f", token {record.position_N[column]}"
        cells = [
            place,
            str(record.label_N[column]) if record.label_N[column] >= 0 else "",
            f"{found.margin_area_N[column]:.3f}",
            f"{found.map.confidence_N[column]:.3f}",
            f"{found.map.variability_N[column]:.3f}",
            str(found.events.counts_N[column]),
        ]
        if record.noisy_N is not None:
            cells.append("yes" if record.noisy_N[column] else "no")
        rows.append(cells)
    return Table(caption="Lowest areas", heads=tuple(heads), rows=rows, kinds=("text", *("",) * (len(heads) - 1)))


def dynamics_text(found: Dynamics) -> str:
    """The text that the command line prints."""
    parts = [headline(found), "", str(measurements_table(found)), "", "Candidates for wrong labels, lowest first:"]
    parts.append(str(candidates_table(found, 10)))
    if not math.isnan(found.precision):
        parts.append(f"Of the first candidates, as many as there are noisy labels, {found.precision:.0%} are noisy.")
    return "\n".join(parts)


def record_text(record: DynamicsRecord) -> str:
    """The record as text (`dynamics_text`)."""
    return dynamics_text(dynamics_of(record))


def save_record(record: DynamicsRecord, folder: str | Path) -> list[Path]:
    """Writes the record's page and files (`save_dynamics`)."""
    return save_dynamics(dynamics_of(record), folder)


def record_frame(record: DynamicsRecord) -> Any:
    """The contents of `examples.csv` as a pandas DataFrame."""
    import pandas

    return pandas.read_csv(io.StringIO(_examples_csv(dynamics_of(record))))


def save_dynamics(found: Dynamics, folder: str | Path) -> list[Path]:
    """Writes the page, `examples.csv`, the plots, and two arrays for cleanlab if class probabilities were recorded."""
    target = make_folder("folder", folder)
    written = [write_aside(target / EXAMPLES_FILE, _examples_csv(found), private=True)]
    arrays = cleanlab_input(found.record)
    for name, array in zip(CLEANLAB_FILES, arrays or (None, None), strict=True):
        if array is None:
            (target / name).unlink(missing_ok=True)  # of an earlier report
        else:
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            written.append(write_aside(target / name, buffer.getvalue(), private=True))
    pictures = {}
    if plots.matplotlib_is_installed():
        drawn = {MAP_FILE: _draw_map(found), CURVES_FILE: _draw_curves(found), FORGETTING_FILE: _draw_events(found)}
        for name, figure in drawn.items():
            pictures[name] = plots.as_png(figure)
            written.append(write_aside(target / name, pictures[name], private=True))
    return [*written, write_aside(target / PAGE_FILE, dynamics_page(found, pictures), private=True)]


def cleanlab_input(record: DynamicsRecord) -> tuple[NDArray[np.int64], FloatArray] | None:
    """`labels` and `pred_probs` for `cleanlab.filter.find_label_issues`, one row for each labeled row.

    None for tokens, and if class probabilities were not recorded. Probabilities are means over the measurements.
    """
    if record.class_probability_TNC is None or record.unit == "tokens":
        return None
    mean_NC = np.nanmean(record.class_probability_TNC, axis=0)
    return record.label_N, mean_NC / mean_NC.sum(axis=1, keepdims=True)


def dynamics_page(found: Dynamics, pictures: dict[str, bytes]) -> str:
    """The page as HTML. It loads nothing and runs no script."""
    values = summary(found)
    facts = [
        ("measurements", f"{values['measurements']}, the last at step {_step(found.record.steps_T[-1])}"),
        (values["unit"], f"{values['columns']:,}"),
        ("forgetting events", f"{values['forgetting_events_mean']:.2f} each"),
        ("fit", "not all" if values["fit_at_step"] is None else f"all from step {_step(values['fit_at_step'])}"),
    ]
    if values.get("noisy") and not math.isnan(found.precision):
        facts.append(
            ("noise found by margin", f"{found.precision:.0%} of the first candidates, as many as there is noise")
        )
    return render(
        "dynamics.html.j2",
        script="",
        identity="",
        headline=headline(found),
        facts=facts,
        plots=pictures,
        captions=_CAPTIONS,
        measurements=measurements_table(found),
        candidates=candidates_table(found, _CANDIDATES),
        settings=[(name, value) for name, value in found.record.about.items() if value is not None],
        limits=LIMITS,
        cleanlab=cleanlab_input(found.record) is not None,
    )


def _examples_csv(found: Dynamics) -> str:
    record, buffer = found.record, io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    noisy_N = record.noisy_N
    writer.writerow(
        ["row", "position", "label", "confidence", "variability", "correctness", "area_under_margin",
         "forgetting_events", "first_learned", "unforgettable", "noisy"]
    )  # fmt: skip
    for column in range(len(record.example_N)):
        writer.writerow(
            [
                int(record.example_N[column]),
                int(record.position_N[column]) if record.position_N[column] >= 0 else "",
                int(record.label_N[column]) if record.label_N[column] >= 0 else "",
                *(f"{values[column]:.6g}" for values in (found.map.confidence_N, found.map.variability_N)),
                f"{found.map.correctness_N[column]:.6g}",
                f"{found.margin_area_N[column]:.6g}",
                int(found.events.counts_N[column]),
                int(found.events.first_learned_N[column]),
                int(found.events.unforgettable_N[column]),
                "" if noisy_N is None else int(noisy_N[column]),
            ]
        )
    return buffer.getvalue()


def _groups(found: Dynamics) -> dict[str, NDArray[np.bool_]]:
    noisy_N = found.record.noisy_N
    if noisy_N is None:
        return {found.record.unit: np.ones(len(found.record.example_N), dtype=bool)}
    return {f"clean {found.record.unit}": ~noisy_N, f"noisy {found.record.unit}": noisy_N}


def _draw_map(found: Dynamics) -> Any:
    figure, (axes,) = plots.new_figure("Data map")
    shown = np.zeros(len(found.record.example_N), dtype=bool)
    shown[np.random.default_rng(0).permutation(len(shown))[:_MOST_POINTS]] = True
    for place, (name, chosen) in enumerate(_groups(found).items()):
        kept = chosen & shown
        axes.plot(
            found.map.variability_N[kept], found.map.confidence_N[kept], linestyle="none", markersize=3, alpha=0.6,
            label=name, color=plots.color(place), marker=plots.MARKERS[place], clip_on=False,
        )  # fmt: skip
    axes.set_xlabel("variability (standard deviation of the label's probability)")
    axes.set_ylabel("confidence (its mean)")
    axes.set_ylim(0.0, 1.0)
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=2)
    return figure


def _draw_curves(found: Dynamics) -> Any:
    record, curves = found.record, found.curves
    figure, (axes,) = plots.new_figure("Accuracy while training")
    steps_T = np.where(np.isnan(record.steps_T), np.arange(len(record.steps_T)), record.steps_T)
    lines: list[tuple[str, FloatArray, tuple[FloatArray, FloatArray] | None]] = []
    if curves is None:
        lines.append((f"{record.unit} of the probe", exact_memorization_curve(record.correct_TN), None))
    else:
        lines += [
            ("clean", curves.clean_T, (curves.clean_low_T, curves.clean_high_T)),
            ("noisy, by the label trained on", curves.noisy_T, (curves.noisy_low_T, curves.noisy_high_T)),
        ]
    validation = _validation(record)
    if validation is not None:
        lines.append(("validation", validation, None))
    for place, (name, values_T, band) in enumerate(lines):
        axes.plot(steps_T, values_T, label=name, color=plots.color(place), linestyle=plots.dashes(place))
        if band is not None:
            axes.fill_between(steps_T, *band, color=plots.color(place), alpha=0.15, linewidth=0)
    axes.set_xlabel("step")
    axes.set_ylabel("share right")
    axes.set_ylim(0.0, 1.02)
    plots.whole_steps(axes)
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=3)
    return figure


def _draw_events(found: Dynamics) -> Any:
    figure, (axes,) = plots.new_figure("Forgetting events")
    learned_N = found.events.first_learned_N >= 0
    most = min(int(found.events.counts_N.max(initial=0)), 15)
    groups = _groups(found)
    width = 0.8 / len(groups)
    for place, (name, chosen) in enumerate(groups.items()):
        if not chosen.any():
            continue
        counts = np.bincount(np.minimum(found.events.counts_N[chosen & learned_N], most), minlength=most + 1)
        heights = np.append(counts, (chosen & ~learned_N).sum()) / chosen.sum()
        places = np.arange(len(heights)) + (place - (len(groups) - 1) / 2) * width
        axes.bar(places, heights, width=width, color=plots.color(place), label=name)
    names = [str(count) for count in range(most + 1)]
    names[-1] += " or more" if most == 15 else ""
    axes.set_xticks(np.arange(most + 2), [*names, "never\nlearned"], fontsize=8)
    axes.set_xlabel("forgetting events")
    axes.set_ylabel("share")
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=2)
    return figure


def _validation(record: DynamicsRecord) -> FloatArray | None:
    return next((v for key, v in record.figures_T.items() if key.endswith("_validation_accuracy")), None)


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _mean_of(values_N: NDArray[Any], chosen: NDArray[np.bool_]) -> float | None:
    return float(values_N[chosen].mean()) if chosen.any() else None


def _step(step: Any) -> str:
    return "?" if step is None or math.isnan(step) else f"{int(step):,}"


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"
