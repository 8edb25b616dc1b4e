"""The forecast: when there is none, the content of its lines, and their agreement with the stored training runs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from benchmarks import forecast as fitting
from hf_exposure.errors import InputError
from hf_exposure.estimators.forecast import Silence, features, fitted, forecast_exposure, why_silent

FRACTIONS = [0.2, 0.4, 0.6]


@pytest.mark.parametrize(
    ("bits", "silence"),
    [
        ([4.0, 5.0], Silence.TOO_FEW),
        ([math.nan, 4.0, 5.0], Silence.TOO_FEW),
        ([4.0, 5.0, 6.0, math.nan], Silence.UNDEFINED),
        ([1.0, 2.0, 2.3], Silence.AT_CHANCE),
        ([1.0, 2.0, 2.5], None),
        ([8.0, 12.0, 13.1], Silence.AT_TOP),
        ([8.0, 12.0, 12.9], None),
        ([math.nan, 4.0, 5.0, 6.0], None),
    ],
)
def test_when_there_is_no_forecast(bits: list[float], silence: Silence | None) -> None:
    found = forecast_exposure(np.arange(1, len(bits) + 1) / 10, bits, 13.29, canaries=8)
    assert found.silence == silence
    told = [found.expected_bits, found.low_bits, found.high_bits, found.confidence_level]
    assert all(map(math.isnan, told)) if silence else all(map(math.isfinite, told))


def test_chance_is_the_law_of_the_mean_of_canaries_that_were_never_seen() -> None:
    """At chance level, one training run in twenty looks like a rise; with more canaries a smaller rise is detected."""
    draw = np.random.default_rng(0)
    for canaries in (1, 4, 16):
        means = draw.exponential(1 / math.log(2), (4000, canaries)).mean(axis=1)
        told = [why_silent(np.array([1.0, 1.0, mean]), 30.0, canaries) is None for mean in means]
        low, high = stats.binom.interval(0.9999, 4000, 0.05)
        assert low <= sum(told) <= high


def test_features_by_hand() -> None:
    """Half is done, with 0.1 and 0.3 at 0.25 and 0.5: a line in time adds 0.4, one in log time 0.2 per doubling."""
    found = features(np.array([0.1, 0.25, 0.5]), np.array([0.0, 0.1, 0.3]))
    np.testing.assert_allclose(found, [0.4, 0.2, 0.5 * 0.7, 0.5 * 0.7 * 0.3, math.sqrt(0.5) * 0.7], rtol=1e-12)
    # A rise is clipped at the top of the space, and a fall at the bottom.
    assert features(np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.5, 0.9]))[0] == pytest.approx(0.1)
    assert features(np.array([0.1, 0.2, 0.3]), np.array([0.9, 0.5, 0.1]))[0] == pytest.approx(-0.1)


def test_an_interval_shrinks_towards_the_end_and_stays_within_the_space() -> None:
    widths = []
    for done in (0.3, 0.6, 0.9, 0.99):
        found = forecast_exposure(np.linspace(0.1, 1.0, 4) * done, [6.0, 6.2, 6.4, 6.5], 13.29, canaries=4)
        assert 0 <= found.low_bits <= found.expected_bits <= found.high_bits <= 13.29
        widths.append(found.high_bits - found.low_bits)
    assert widths == sorted(widths, reverse=True) and widths[-1] < 2
    # The forecast works in shares of the space: doubling all bits doubles the forecast.
    double = forecast_exposure(np.linspace(0.1, 1.0, 4) * 0.3, [12.0, 12.4, 12.8, 13.0], 26.58, canaries=4)
    assert double.high_bits - double.low_bits == pytest.approx(2 * widths[0])


def test_the_lines_are_fitted_on_the_stored_trainings() -> None:
    again, shipped = fitting.fit(fitting.trainings_of("fit")), fitted()
    assert {key: again[key] for key in ("trainings", "cases")} == {key: shipped[key] for key in ("trainings", "cases")}
    np.testing.assert_allclose(again["coefficients"], shipped["coefficients"], atol=1e-3)
    assert again["margin"] == pytest.approx(shipped["margin"], abs=1e-3)


def test_fitted_and_tested_trainings_differ_in_learning_rate_and_data() -> None:
    seen = {
        part: {(one["learning_rate"], one["text_rows"]) for one in fitting.trainings_of(part)}
        for part in ("fit", "test")
    }
    for place in (0, 1):
        assert not {one[place] for one in seen["fit"]} & {one[place] for one in seen["test"]}
    assert sum(len(fitting.trainings_of(part)) for part in seen) >= 50


def test_what_the_result_says_is_what_the_stored_trainings_give() -> None:
    result = json.loads((fitting.STORE.parent / "forecast.json").read_text())
    again = fitting.tested(fitting.trainings_of("test"))
    assert result["test"]["forecasts"] == again["forecasts"]
    assert result["test"]["coverage"] == pytest.approx(again["coverage"], abs=1e-6)
    assert result["rules"]["coverage at least 85 %"] == (again["coverage"] >= 0.85)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fractions": [0.2, 0.4]}, "mean_bits: must have a mean for each of fractions"),
        ({"fractions": [0.2, 0.4, 1.0]}, "fractions: must ascend, above 0 and below 1"),
        ({"fractions": [0.4, 0.2, 0.6]}, "fractions: must ascend"),
        ({"log2_space_size": 0.0}, "log2_space_size: must be above 0"),
        ({"canaries": 0}, "canaries: must be a whole number of at least 1"),
    ],
)
def test_bad_input(arguments: dict[str, object], message: str) -> None:
    given = {
        "fractions": FRACTIONS,
        "mean_bits": [3.0, 4.0, 5.0],
        "log2_space_size": 13.29,
        "canaries": 4,
        **arguments,
    }
    with pytest.raises(InputError, match=message):
        forecast_exposure(**given)  # type: ignore[arg-type]
