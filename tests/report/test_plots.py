"""Plots exist, are readable by an image library, and show the figures. When they change, people look at them."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_samples import estimate, mixed, report
from scipy import stats

from hf_exposure.errors import MissingDependencyError
from hf_exposure.estimators import SkewNormalFit
from hf_exposure.records import ExposureReport, ReferenceCosts
from hf_exposure.report.comparison import compare_runs
from hf_exposure.report.plots import (
    MARKERS,
    against_utility,
    beside_losses,
    by_repetitions,
    by_step,
    draw_plots,
    of_rates,
    of_references,
    skew_normal_density,
)
from hf_exposure.report.run import Run

pytest.importorskip("matplotlib")


def many_counts() -> ExposureReport:
    counts = [2**power for power in range(8) for _ in range(10)]
    return report(*(estimate(1.0 + 0.09 * i, count) for i, count in enumerate(counts)), estimate(1.4, 0))


def axes_of(figure: Any) -> Any:
    figure.canvas.draw()
    return figure.axes[0]


def boxes_overlap(boxes: list[Any]) -> bool:
    return any(first.overlaps(second) for i, first in enumerate(boxes) for second in boxes[i + 1 :])


def test_files_are_pictures_with_something_on_them(tmp_path: Path) -> None:
    from matplotlib.image import imread

    history = [mixed(step=step) for step in (1, 2)]
    written = draw_plots(mixed(step=2), history, tmp_path)
    assert [path.name for path in written] == ["exposure_by_repetitions.png", "roc.png", "exposure_by_step.png"]
    for path in written:
        pixels = imread(path)
        assert pixels.shape[0] > 400
        assert pixels.shape[1] > 600
        assert len(np.unique((pixels[..., :3] * 255).astype(int).reshape(-1, 3), axis=0)) > 50


@pytest.mark.parametrize(
    ("steps", "of_report", "drawn"), [([], 5, False), ([5], 5, False), ([3], 5, True), ([3, 5], 5, True)]
)
def test_a_curve_needs_two_checkpoints(tmp_path: Path, steps: list[int], of_report: int, drawn: bool) -> None:
    draw_plots(mixed(step=of_report), [mixed(step=step) for step in steps], tmp_path)
    assert (tmp_path / "exposure_by_step.png").exists() == drawn


def test_every_canary_is_a_mark_at_its_exposure() -> None:
    axes = axes_of(by_repetitions(mixed()))
    marks = [y for line in axes.lines if line.get_marker() in MARKERS for y in line.get_ydata()]
    assert sorted(y for y in marks if math.isfinite(y)) == [1.0, 2.0, 3.0, 5.0, 9.0]
    labels = [tick.get_text() for tick in axes.get_xticklabels()]
    assert labels == ["controls\nn = 2", "1×\nn = 2\n1 undefined", "8×\nn = 2"]


def test_the_curve_goes_through_the_means() -> None:
    run = [report(estimate(2.0, 4), estimate(4.0, 4), step=10), report(estimate(6.0, 4), estimate(7.0, 4), step=30)]
    figure = by_step(run)
    axes = axes_of(figure)
    (curve,) = [line for line in axes.lines if line.get_label() == "4×"]
    assert (list(curve.get_xdata()), list(curve.get_ydata())) == ([10, 30], [3.0, 6.5])


def dosed(sample: ExposureReport, epochs: float = 12.5) -> ExposureReport:
    return sample.with_doses({one.canary_id: float(one.repetitions) for one in sample.estimates}, epochs)


def test_the_dose_is_named_where_it_is_known() -> None:
    axes = axes_of(by_repetitions(dosed(report(estimate(1.0, 0), estimate(2.0, 1), estimate(9.0, 8)))))
    labels = [tick.get_text() for tick in axes.get_xticklabels()]
    assert labels == ["controls\ntrained\n0\nn = 1", "1×\ntrained\n12.5\nn = 1", "8×\ntrained\n100\nn = 1"]
    assert "trained: times trained on so far" in axes.get_xlabel()


SAMPLES = {"many": many_counts(), "mixed": mixed(), "one": report(estimate(3.0, 8)), "doses": dosed(many_counts())}


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES.keys())
def test_tick_labels_do_not_overlap(sample: ExposureReport) -> None:
    axes = axes_of(by_repetitions(sample))
    assert not boxes_overlap([tick.get_window_extent() for tick in axes.get_xticklabels()])


def test_legend_and_notes_stay_off_the_data() -> None:
    run = [dataclasses.replace(many_counts(), step=step) for step in (100, 200)]
    figure = by_step(run)
    axes = axes_of(figure)
    data = axes.get_window_extent()
    assert not figure.legends[0].get_window_extent().overlaps(data)
    assert len(axes.texts) == 2
    assert not any(text.get_window_extent().overlaps(data) for text in axes.texts)
    page = figure.bbox
    for artist in (figure.legends[0], *axes.texts):
        box = artist.get_window_extent()
        assert box.x0 >= page.x0
        assert box.x1 <= page.x1
        assert box.y0 >= page.y0


def test_no_two_groups_look_alike() -> None:
    run = [dataclasses.replace(many_counts(), step=step) for step in (100, 200)]
    axes = axes_of(by_step(run))
    curves = [line for line in axes.lines if line.get_marker() in MARKERS]
    assert len(curves) == 9
    assert len({(line.get_color(), line.get_marker()) for line in curves}) == 9


def test_a_figure_above_the_space_is_shown() -> None:
    axes = axes_of(by_repetitions(report(estimate(31.0, 8), estimate(30.0, 8))))
    assert axes.get_ylim()[1] > 31.0


@pytest.mark.filterwarnings("error")
def test_undefined_figures_are_said_to_be() -> None:
    nothing = [report(estimate(math.nan, 4, low_bits=math.nan, high_bits=math.nan), step=step) for step in (1, 2)]
    axes_of(by_repetitions(nothing[0]))
    figure = by_step(nothing)
    axes_of(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["4× (undefined)"]


def test_a_history_of_other_counts_is_drawn_where_it_has_them() -> None:
    run = [report(estimate(2.0, 4), step=10), report(estimate(6.0, 4), estimate(3.0, 8), step=30)]
    axes = axes_of(by_step(run))
    (curve,) = [line for line in axes.lines if line.get_label() == "8×"]
    assert math.isnan(curve.get_ydata()[0])
    assert curve.get_ydata()[1] == 3.0


def test_without_matplotlib_the_report_is_still_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "matplotlib" else find_spec(name, *more)
    )
    written = mixed().save(tmp_path, [mixed(step=1), mixed(step=2)])
    assert (tmp_path / "report.json").exists()
    assert not any(path.suffix == ".png" for path in written)
    assert not list(tmp_path.glob("*.png"))
    with pytest.raises(MissingDependencyError, match=r'^plots need matplotlib: pip install "hf-exposure\[plots\]"$'):
        draw_plots(mixed(), [], tmp_path)


def with_references(method: str = "skew_normal") -> ExposureReport:
    costs = np.random.default_rng(0).normal(50.0, 3.0, 2000)
    rows = [
        estimate(20.0, 8, log_perplexity_bits=31.0, method=method),
        estimate(1.0, 0, log_perplexity_bits=49.0, method="sample"),
    ]
    return report(*rows, references=ReferenceCosts.of(costs), step=20)


def test_the_histogram_counts_every_reference_and_marks_every_canary() -> None:
    above, below = of_references(with_references()).axes
    (steps,) = above.patches
    values, edges, _ = steps.get_data()
    assert values.sum() == 2000
    assert len(values) < 128  # bins joined until they show a shape
    marks = {tuple(line.get_xdata()) for line in below.lines}
    assert marks == {(31.0,), (49.0,)}
    assert [tick.get_text() for tick in below.get_yticklabels()] == ["controls", "8\u00d7"]
    # The area under the fitted curve is the number of references, and it peaks where they do.
    (curve,) = above.lines
    costs, expected = curve.get_xdata(), curve.get_ydata()
    assert np.trapezoid(expected, costs) / (edges[1] - edges[0]) == pytest.approx(2000, rel=0.02)
    assert costs[np.argmax(expected)] == pytest.approx(50.0, abs=1.0)


def test_a_fit_that_no_figure_rests_on_is_not_drawn() -> None:
    above, _ = of_references(with_references("sample")).axes
    assert not above.lines


def test_chance_is_shaded_where_unseen_canaries_are_and_each_interval_is_drawn() -> None:
    drawn = [estimate(2.0, 1), estimate(5.0, 8, low_bits=5.0, high_bits=5.0), estimate(1.0, 0)]
    (axes,) = by_repetitions(report(*drawn, estimate(math.nan, 1, low_bits=math.nan, high_bits=math.nan))).axes
    # A share 2^-x of unseen canaries exceeds x bits: a half exceed 1 bit, a tenth 3.32, a hundredth 6.64.
    extents = [band.get_patch_transform().transform_path(band.get_path()).get_extents() for band in axes.patches]
    tops = sorted(extent.y1 for extent in extents)
    assert [2.0**-top for top in tops] == pytest.approx([0.5, 0.1, 0.01])
    segments = [tuple(line[:, 1]) for lines in axes.collections for line in getattr(lines, "get_segments", list)()]
    assert {(1.5, 2.5), (0.5, 1.5)} <= set(segments)
    assert (5.0, 5.0) not in segments


def test_the_density_is_scipys() -> None:
    law = SkewNormalFit(shape=-2.5, loc=40.0, scale=6.0, log_likelihood=0.0)
    costs = np.linspace(20.0, 60.0, 9)
    assert skew_normal_density(costs, law) == pytest.approx(stats.skewnorm(-2.5, 40.0, 6.0).pdf(costs))


def test_losses_are_drawn_over_the_same_steps() -> None:
    run = [mixed(step=10), mixed(step=20)]
    log = [
        {"step": 5, "loss": 3.0}, {"step": 10, "eval_loss": 2.5}, {"step": 15, "loss": 2.0},
        {"step": 20, "loss": None}, {"step": 20, "eval_loss": 2.25}, {"loss": 9.0},
    ]  # fmt: skip
    above, below = beside_losses(run, log).axes
    curves = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in above.lines}
    assert curves == {"training loss": ([5, 15], [3.0, 2.0]), "validation loss": ([10, 20], [2.5, 2.25])}
    assert above.get_xlim() == below.get_xlim()
    (curve,) = [line for line in below.lines if line.get_label() == "8\u00d7"]
    assert list(curve.get_ydata()) == [7.0, 7.0]


def test_all_plots_of_a_run_are_written(tmp_path: Path) -> None:
    history = [dataclasses.replace(with_references(), step=10)]
    names = [path.name for path in draw_plots(with_references(), history, tmp_path, [{"step": 10, "loss": 2.0}])]
    assert names == [
        "exposure_by_repetitions.png", "roc.png", "references.png", "exposure_by_step.png", "exposure_and_loss.png",
    ]  # fmt: skip
    assert [path.name for path in draw_plots(mixed(step=1), [], tmp_path, [{"step": 1, "loss": 2.0}])] == names[:2]


def test_runs_are_drawn_at_their_utility_and_exposure() -> None:
    runs = [
        Run(
            name=f"$run {i}_{'x' * 40 * i}",
            report=report(estimate(bits, 8, canary_id="a")),
            results={"eval_loss": loss},
        )
        for i, (bits, loss) in enumerate([(9.0, 2.0), (4.0, 2.5), (8.0, 3.0)])
    ]
    figure = against_utility(compare_runs(runs))
    axes = axes_of(figure)
    marks = [bar.lines[0] for bar in axes.containers]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in marks] == [(2.0, 9.0), (2.5, 4.0), (3.0, 8.0)]
    assert [line.get_markerfacecolor() == "white" for line in marks] == [False, False, True]
    (front,) = [line for line in axes.lines if line.get_label() == "Pareto front"]
    assert list(front.get_xdata()) == [2.0, 2.5]
    assert axes.get_xlabel() == "eval_loss (left is better)"
    page = figure.bbox
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= page.x0
    assert box.x1 <= page.x1


def test_small_groups_are_dots_and_large_ones_have_a_band() -> None:
    rows = [estimate(float(i), 4, canary_id=str(i)) for i in range(3)] + [estimate(i / 8, 0) for i in range(16)]
    run = [report(*rows, step=step) for step in range(1, 201)]
    axes = axes_of(by_step(run))
    (dots,) = [line for line in axes.lines if line.get_linestyle() == "None" and len(line.get_xdata()) == 600]
    assert sorted(set(dots.get_ydata())) == [0.0, 1.0, 2.0]
    bands = [band for band in axes.collections if band.get_paths()]
    (controls,) = bands
    vertices = controls.get_paths()[0].vertices
    low, high = run[0].groups[0].interval_bits
    assert (vertices[:, 1].min(), vertices[:, 1].max()) == (pytest.approx(low), pytest.approx(high))
    # The band reaches the last step, but has few steps, since an interval takes time.
    assert vertices[:, 0].max() == 200
    assert len(set(vertices[:, 0])) <= 51


def test_the_curve_of_rates_is_that_of_the_scores() -> None:
    from hf_exposure.estimators import roc_curve

    curves = {"loss $x$": roc_curve([3.0, 2.0, 0.5], [1.0, 0.0, 0.2, 0.1]), "chance like": roc_curve([1.0], [1.0])}
    figure = of_rates(curves)
    axes = axes_of(figure)
    lines = {str(line.get_label()): line for line in axes.lines}
    (drawn,) = [line for label, line in lines.items() if label.startswith("loss")]
    # At first no control passes; the curve starts where one of four would.
    assert list(drawn.get_xdata()) == [0.25, 0.25, 0.25, 0.25, 0.25, 0.5, 0.75, 1.0]
    assert list(drawn.get_ydata()) == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1, 1, 1, 1])
    assert "AUC 0.92" in drawn.get_label()
    assert axes.get_xscale() == "log"
    assert not figure.legends[0].get_window_extent().overlaps(axes.get_window_extent())
