"""Sampling: hand-made fixtures, its two conventions, its interval, and the result without hits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from hf_exposure.errors import InputError
from hf_exposure.estimators import sampling_exposure

REFERENCES = [1, 2, 3, 3, 4, 5, 6, 7]


def test_points_by_hand_in_input_order() -> None:
    bits = [e.exposure_bits for e in sampling_exposure([3.0, 0.0, 9.0, 3.0], REFERENCES)]
    assert bits == pytest.approx([math.log2(9 / 5), math.log2(9), 0.0, math.log2(9 / 5)])
    assert math.copysign(1.0, bits[2]) == 1.0


def test_tensorflow_privacy_convention() -> None:
    theirs = sampling_exposure([0.0, 3.0], REFERENCES, convention="tensorflow_privacy")
    assert [e.exposure_bits for e in theirs] == pytest.approx([3.0, 0.67807191], abs=1e-8)
    # From that library's own test: references 1..16, perplexities 0, 0.1, 20 and 3.5.
    theirs = sampling_exposure([0.0, 0.1, 20.0, 3.5], range(1, 17), convention="tensorflow_privacy")
    assert [e.exposure_bits for e in theirs] == pytest.approx([4.0, 4.0, 4.0 - math.log2(17), 2.0])


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_interval_is_clopper_pearson_in_bits(level: float) -> None:
    costs = np.arange(0.0, 51.0) + 0.5
    for m, e in enumerate(sampling_exposure(costs, np.arange(1.0, 51.0), confidence_level=level)):
        share = binomtest(m, 50).proportion_ci(level, method="exact")
        assert e.low_bits == pytest.approx(-math.log2(share.high), rel=1e-9, abs=1e-12)
        assert e.high_bits == pytest.approx(-math.log2(share.low) if m else math.inf, rel=1e-9, abs=1e-12)
        assert e.effective_hits == pytest.approx(m, abs=1e-9)
        assert e.low_bits <= e.exposure_bits <= e.high_bits
        assert e.method == "sample"


def test_no_hit_is_a_lower_bound_and_says_so() -> None:
    (open_ended,) = sampling_exposure([0.0], REFERENCES)
    assert open_ended.high_bits == math.inf
    assert open_ended.note == (
        "a lower bound: none of 8 references is at or below its cost; no upper end without space_size"
    )
    (bounded,) = sampling_exposure([0.0], REFERENCES, space_size=10**9)
    assert bounded.high_bits == math.log2(10**9)
    assert bounded.exposure_bits == pytest.approx(math.log2(9))
    assert bounded.note == "a lower bound: none of 8 references is at or below its cost"


def test_no_figure_exceeds_the_space() -> None:
    (e,) = sampling_exposure([0.0], np.arange(1.0, 1000.0), space_size=10)
    assert (e.exposure_bits, e.high_bits) == (math.log2(10), math.log2(10))
    assert e.low_bits <= e.exposure_bits


def test_an_infinite_cost_ties_with_infinite_references() -> None:
    assert sampling_exposure([math.inf], [1.0, math.inf])[0].exposure_bits == 0.0


def test_empty_costs_give_an_empty_list_and_empty_references_an_error() -> None:
    assert sampling_exposure([], REFERENCES) == []
    with pytest.raises(InputError, match="references: must hold at least 1 cost, got 0. Score more texts."):
        sampling_exposure([1.0], [])
    with pytest.raises(InputError, match="references: .*nan at position 2"):
        sampling_exposure([1.0], [1.0, 2.0, math.nan])
    with pytest.raises(InputError, match="convention: must be one of"):
        sampling_exposure([1.0], REFERENCES, convention="tf")  # type: ignore[arg-type]
