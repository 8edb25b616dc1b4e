"""Several models taken together, two checkpoints of one, and Pearson's r over runs: expected figures by hand."""

from __future__ import annotations

import html
import json
import math
from pathlib import Path

import numpy as np
import pytest
from cli.cli_runs import one_line, run
from report_samples import estimate, report

from hf_exposure import ExposureReport, exposure_change, pool_reports
from hf_exposure.errors import InputError
from hf_exposure.estimators import mean_interval
from hf_exposure.records.run_log import EXPOSURE_LOG
from hf_exposure.report.comparison import compare_runs
from hf_exposure.report.comparison_page import comparison_page, comparison_values, correlation_text
from hf_exposure.report.pooled import pooled_table, save_pooled
from hf_exposure.report.run import Run


def exact(bits: float, repetitions: int, **changes: object) -> object:
    return estimate(bits, repetitions, low_bits=bits, high_bits=bits, method="enumerate", **changes)


def model(*by_count: tuple[int, float]) -> ExposureReport:
    return report(*(exact(bits, count) for count, bits in by_count))  # type: ignore[arg-type]


def test_each_model_counts_once_whatever_its_canaries() -> None:
    pooled = pool_reports([model((1, 2.0), (1, 4.0), (0, 1.0)), model((1, 9.0), (0, 2.0))])
    controls, once = pooled.groups
    assert (once.models, once.canaries) == (2, 3)
    assert once.mean_bits == pytest.approx((3.0 + 9.0) / 2), "not the mean of three canaries"
    assert once.sd_bits == pytest.approx(6.0 / math.sqrt(2))
    assert (once.low_bits, once.high_bits) == mean_interval([3.0, 9.0], [3.0, 9.0], math.log2(1000), 0.95)
    assert controls.mean_bits == pytest.approx(1.5)


def test_models_of_one_count_each_make_a_curve() -> None:
    pooled = pool_reports([model((1, 2.0)), model((4, 5.0)), model((4, 7.0))])
    assert [(group.repetitions, group.models, group.mean_bits) for group in pooled.groups] == [
        (1, 1, 2.0),
        (4, 2, 6.0),
    ]
    assert math.isnan(pooled.groups[0].low_bits), "one model says nothing of others"


def test_an_extrapolated_figure_has_a_mean_and_a_spread_and_no_interval() -> None:
    one = report(estimate(31.0, 1, method="skew_normal", low_bits=math.nan, high_bits=math.nan))
    pooled = pool_reports([one, one])
    assert pooled.groups[0].bound == "extrapolated" and pooled.groups[0].mean_bits == 31.0
    assert math.isnan(pooled.groups[0].low_bits)


def test_the_p_value_is_twice_the_median() -> None:
    def tested(costs: list[float]) -> ExposureReport:
        inserted = [exact(5.0 + n, 1, canary_id=f"i{n}", log_perplexity_bits=cost) for n, cost in enumerate(costs)]
        held_out = [exact(1.0, 0, canary_id=f"c{n}", log_perplexity_bits=30.0 + n) for n in range(4)]
        return report(*inserted, *held_out)  # type: ignore[arg-type]

    reports = [tested([1.0, 2.0, 3.0, 4.0]), tested([1.0, 2.0, 3.0, 50.0]), tested([40.0, 50.0, 60.0, 70.0])]
    own = sorted(one.memorization_p_value for one in reports)
    assert own[0] < own[1] < own[2]
    assert pool_reports(reports).p_value == pytest.approx(min(1.0, 2 * own[1]))


def test_only_alike_and_valid_reports_are_pooled() -> None:
    with pytest.raises(InputError, match="template"):
        pool_reports([model((1, 2.0)), report(exact(2.0, 1), template="other {pin}")])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least two"):
        pool_reports([model((1, 2.0))])


def test_a_pool_is_shown_and_saved(tmp_path: Path) -> None:
    pooled = pool_reports([model((1, 2.0), (4, 6.0)), model((1, 4.0), (4, 8.0))])
    assert "3.0" in str(pooled) and "7.0" in str(pooled_table(pooled))
    written = save_pooled(pooled, tmp_path)
    values = json.loads(written[0].read_text())
    assert values["models"] == 2 and values["groups"][1]["mean_bits"] == 7.0 and values["p_value"] is None
    assert written[1].read_bytes().startswith(b"\x89PNG")
    assert len(pooled.to_pandas()) == 2


def change(before: list[float], after: list[float], **options: object) -> object:
    def at(step: int, bits: list[float]) -> ExposureReport:
        return report(*(exact(b, 1, canary_id=str(n)) for n, b in enumerate(bits)), step=step)  # type: ignore[arg-type]

    return exposure_change(at(10, before), at(40, after), **options)  # type: ignore[arg-type]


def test_a_fall_between_two_checkpoints_has_a_p_value() -> None:
    found = change([9, 8, 7, 9, 8, 6], [7, 7, 6, 5, 7, 5], alternative="less")
    assert found.mean_bits == pytest.approx(-10 / 6) and found.canaries == 6  # type: ignore[attr-defined]
    assert found.p_value == pytest.approx(1 / 64), "one swap of 2^6 falls as far"  # type: ignore[attr-defined]
    assert found.low_bits <= found.mean_bits <= found.high_bits < 0  # type: ignore[attr-defined]
    assert "from step 10 to step 40" in str(found)


def test_other_canaries_are_no_pairs() -> None:
    with pytest.raises(InputError, match="canaries of the earlier report"):
        exposure_change(model((1, 2.0)), report(exact(2.0, 1), manifest_hash="1f"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="repetitions"):
        change([9.0], [8.0], repetitions=7)


def runs() -> list[Run]:
    figures = [(2.0, 9.0), (2.1, 7.5), (2.3, 8.0), (2.6, 3.0), (3.0, 2.0)]
    return [
        Run(name=f"run{n}", report=model((1, bits), (1, bits - 0.5)), results={"eval_loss": loss})
        for n, (loss, bits) in enumerate(figures)
    ]


def test_a_comparison_says_how_utility_and_exposure_correlate() -> None:
    comparison = compare_runs(runs())
    losses, bits = [2.0, 2.1, 2.3, 2.6, 3.0], [8.75, 7.25, 7.75, 2.75, 1.75]
    assert comparison.correlation.r == pytest.approx(np.corrcoef(losses, bits)[0, 1])
    assert comparison_values(comparison)["correlation"]["pairs"] == 5
    assert f"{comparison.correlation.r:.2f}" in correlation_text(comparison)
    assert correlation_text(comparison) in html.unescape(comparison_page(comparison, {}))


def test_a_correlation_of_two_runs_is_not_printed() -> None:
    assert compare_runs(runs()[:2]).correlation.r == pytest.approx(-1.0)  # whatever the two figures are
    assert correlation_text(compare_runs(runs()[:2])) == ""
    assert "over 3 runs" in correlation_text(compare_runs(runs()[:3]))


def test_runs_without_utility_have_no_correlation() -> None:
    bare = [Run(name=one.name, report=one.report) for one in runs()]
    comparison = compare_runs(bare)
    assert math.isnan(comparison.correlation.r) and correlation_text(comparison) == ""
    assert comparison_values(comparison)["correlation"]["r"] is None


def test_the_command_pools_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, one in enumerate([model((1, 2.0)), model((1, 4.0))]):
        one.save(tmp_path / f"seed{seed}")
    done = run(capsys, "report", tmp_path / "seed0", tmp_path / "seed1", "--pool", "--out", tmp_path / "all")
    assert done.status == 0 and "2 models" in done.out and "3.0" in done.out
    assert (tmp_path / "all" / "pooled.json").exists()
    one_line(run(capsys, "report", tmp_path / "seed0", "--pool", "--out", tmp_path / "one"), "--pool", "at least two")


def test_the_command_compares_two_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = [
        report(*(exact(b, 1, canary_id=str(n)) for n, b in enumerate(bits)), step=step)  # type: ignore[arg-type]
        for step, bits in ((10, [9, 8, 7]), (40, [7, 7, 6]))
    ]
    (tmp_path / "run").mkdir()
    for one in history:
        EXPOSURE_LOG.append(tmp_path / "run", one)
    history[-1].save(tmp_path / "run")
    command = ["report", tmp_path / "run", "--out", tmp_path / "page", "--overwrite", "--json", "--between"]
    done = run(capsys, *command, "10:40")
    [found] = json.loads(done.out)["changes"]
    assert found["mean_bits"] == pytest.approx(-4 / 3) and found["p_value"] == pytest.approx(0.25)
    one_line(run(capsys, *command, "10:41"), "between", "[10, 40]")
    one_line(run(capsys, *command, "ten"), "--between")
