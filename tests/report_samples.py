"""Hand-made reports, for the tests that use reports."""

from __future__ import annotations

import math
from typing import Any

from hf_exposure.records import ExposureEstimate, ExposureReport


def estimate(bits: float, repetitions: int = 1, **changes: Any) -> ExposureEstimate:
    values = {
        "canary_id": f"id-{repetitions}-{bits}", "repetitions": repetitions, "log_perplexity_bits": 20.5,
        "exposure_bits": bits, "low_bits": bits - 0.5, "high_bits": bits + 0.5, "method": "sample",
    }  # fmt: skip
    return ExposureEstimate(**{**values, **changes})


def report(*estimates: ExposureEstimate, **changes: Any) -> ExposureReport:
    values = {
        "estimates": estimates, "template": "pin {pin}", "spaces": {"pin": "Digits(length=3)"}, "space_size": 1000,
        "manifest_hash": "0f" * 32, "settings": {"method": "sample", "seed": 3, "confidence_level": 0.95},
        "p_value": 0.25, "seconds": 1.5, "model": {"class": "GPT2LMHeadModel", "parameters": 12},
        "versions": {"numpy": "2"},
    }  # fmt: skip
    return ExposureReport(**{**values, **changes})


def mixed(**changes: Any) -> ExposureReport:
    """Two repetition counts and controls; the figures of one canary are undefined."""
    return report(
        estimate(9.0, 8, rank_low=1, rank_high=1, method="bounded"),
        estimate(5.0, 8, rank_low=30, rank_high=32, bound="lower", note="stopped"),
        estimate(math.nan, 1, low_bits=math.nan, high_bits=math.nan, note="NaN because"),
        estimate(2.0, 1),
        estimate(1.0, 0),
        estimate(3.0, 0),
        **changes,
    )
