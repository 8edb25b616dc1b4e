"""The forecast of a training that is not finished: from reports, in the callback's line, on the page."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from report_samples import estimate, report

from hf_exposure import ExposureReport
from hf_exposure.errors import InputError
from hf_exposure.estimators.forecast import Silence, forecast_exposure
from hf_exposure.records import Delivery, RunFacts
from hf_exposure.report.forecast import forecast_exposures, forecast_table, forecast_words


def at(step: int, bits: float, **changes: object) -> ExposureReport:
    """Two canaries inserted 8 times, one inserted once that nobody learned, and a control."""
    rows = [
        estimate(bits - 1, 8, bound="exact"),
        estimate(bits + 1, 8, bound="exact"),
        estimate(1.0, 1, bound="exact"),
    ]
    return report(*rows, estimate(1.5, 0, bound="exact"), step=step, epoch=step / 100, **changes)


RUN = [at(0, 1.0), at(100, 4.0), at(200, 5.0), at(300, 5.5)]


def test_it_is_the_forecast_of_the_means_at_the_shares_of_the_training() -> None:
    found = forecast_exposures(RUN, total_steps=400)
    assert list(found) == [1, 8]
    # The measurement before the first step is passed over.
    assert found[8] == forecast_exposure([0.25, 0.5, 0.75], [4.0, 5.0, 5.5], math.log2(1000), 2)
    assert found[1].silence is Silence.AT_CHANCE
    assert forecast_exposures(RUN, total_epochs=4) == found
    assert forecast_words(found) == (
        f"8x {found[8].expected_bits:.1f} ({found[8].low_bits:.1f} to {found[8].high_bits:.1f})"
    )


def test_the_length_of_the_training_is_what_the_reports_say() -> None:
    by_steps = [one.with_run(arguments={"max_steps": 400, "num_train_epochs": 3.0}) for one in RUN]
    by_epochs = [one.with_run(arguments={"max_steps": -1, "num_train_epochs": 4.0}) for one in RUN]
    expected = forecast_exposures(RUN, total_steps=400)
    assert forecast_exposures(by_steps) == forecast_exposures(by_epochs) == expected
    assert forecast_exposures(RUN) == {}  # unknown
    assert forecast_exposures([*by_steps, at(400, 6.0, run=RunFacts(arguments={"max_steps": 400}))]) == {}  # the end


def test_a_step_that_a_resumed_run_measured_again_counts_once() -> None:
    again = [*RUN, at(200, 5.0), at(300, 5.5)]
    assert forecast_exposures(again, total_steps=400) == forecast_exposures(RUN, total_steps=400)


def test_bounds_and_invalid_runs_tell_nothing() -> None:
    lower = report(estimate(5.0, 8, bound="lower"), step=300)
    assert forecast_exposures([*RUN[:3], lower], total_steps=400)[8].silence is Silence.TOO_FEW
    assert forecast_exposures([*RUN, report(estimate(5.0, 8, bound="lower"), step=350)], total_steps=400)[
        8
    ].silence is (Silence.UNDEFINED)
    invalid = at(300, 5.5, delivery=Delivery(inserted=3, found=0, trained=0))
    assert forecast_exposures([*RUN[:3], invalid], total_steps=400) == {}


def test_the_table_says_what_is_expected_or_why_not() -> None:
    found = forecast_exposures(RUN, total_steps=400)
    table = forecast_table(found, RUN[-1])
    assert table is not None and table.heads[-1] == "90 % interval"
    assert [row[0] for row in table.rows] == ["once", "8 times"]
    assert table.rows[0][2:] == ["", "none: no rise above chance yet"]
    assert table.rows[1][1:3] == ["5.5", f"{found[8].expected_bits:.1f}"]
    assert forecast_table({}, RUN[-1]) is None


def test_the_page_of_a_training_that_is_not_finished_has_it(tmp_path: Path) -> None:
    run = [one.with_run(arguments={"max_steps": 400}) for one in RUN]
    run[-1].save(tmp_path / "under way", run)
    assert "At the end of training" in (tmp_path / "under way" / "report.html").read_text()
    end = at(400, 6.0, run=RunFacts(arguments={"max_steps": 400}))
    end.save(tmp_path / "over", [*run, end])
    run[1].save(tmp_path / "earlier", [*run, end])  # the training went on
    for name in ("over", "earlier"):
        assert "At the end of training" not in (tmp_path / name / "report.html").read_text()


def test_bad_input() -> None:
    with pytest.raises(InputError, match="reports: must be a list of reports"):
        forecast_exposures(RUN[0])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="total_epochs: goes without total_steps"):
        forecast_exposures(RUN, total_steps=4, total_epochs=4)
    with pytest.raises(InputError, match="total_steps: must be above 0"):
        forecast_exposures(RUN, total_steps=0)
