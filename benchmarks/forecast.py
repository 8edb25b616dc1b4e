"""Fits the forecast of exposure on small training runs, and tests it on others.

`python -m benchmarks.forecast fit` writes `hf_exposure/estimators/forecast.json` from the part "fit" of
`results/forecast_trainings.jsonl`; `python -m benchmarks.forecast test` writes `results/forecast.json` from the parts
"test" and "transfer". The rules by which the test is judged are in `docs/design/0031-forecast.md`.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linprog

from benchmarks.record import write_result
from hf_exposure.estimators.forecast import (
    FEWEST_MEASUREMENTS,
    ExposureForecast,
    Silence,
    features,
    forecast_exposure,
    why_silent,
)

STORE = Path(__file__).parent / "results" / "forecast_trainings.jsonl"
OVERFITTING = Path(__file__).parents[1] / "examples" / "secret_sharer" / "results" / "figure9_overfitting.json"
FITTED = Path(__file__).parents[1] / "hf_exposure" / "estimators" / "forecast.json"
LEVEL, FOLDS = 0.9, 5
LEAST_COVERAGE, WIDEST_SHARE, LEAST_SPOKEN = 0.85, 0.4, 0.5
FORGOTTEN_BITS = 4.0


@dataclass(frozen=True)
class Case:
    """One repetition count of one training run at one measurement, and its final result.

    Attributes:
        training: part and number.
        fractions, bits: fractions of the training and exposures of the measurements up to then.
    """

    training: tuple[str, int]
    repetitions: int
    fractions: np.ndarray
    bits: np.ndarray
    end_bits: float
    top_bits: float
    canaries: int


def trainings_of(*parts: str) -> list[dict[str, Any]]:
    """The stored training runs of the given parts."""
    lines = STORE.read_text(encoding="utf-8").splitlines()
    return [one for one in map(json.loads, lines) if one["part"] in parts]


def cases_of(training: dict[str, Any]) -> Iterator[Case]:
    """Every measurement of a training but the last, for each repetition count."""
    measured, steps = training["measured"], training["steps"]
    fractions = np.array([one["step"] / steps for one in measured])
    for repetitions in measured[0]["exposure_bits"]:
        bits = np.array([np.mean(one["exposure_bits"][repetitions]) for one in measured])
        canaries = len(measured[0]["exposure_bits"][repetitions])
        for last in range(1, len(measured)):
            yield Case(
                (training["part"], training["number"]), int(repetitions), fractions[:last], bits[:last],
                float(bits[-1]), training["log2_space_size"], canaries,
            )  # fmt: skip


def fit(trainings: list[dict[str, Any]]) -> dict[str, Any]:
    """Fits the lines, and the margin needed for training runs that were not used for fitting."""
    cases = [case for training in trainings for case in cases_of(training)]
    cases = [case for case in cases if why_silent(case.bits, case.top_bits, case.canaries) is None]
    rows = np.array([features(case.fractions, case.bits / case.top_bits) for case in cases])
    rises = np.array([(case.end_bits - case.bits[-1]) / case.top_bits for case in cases])
    left = np.array([1 - case.fractions[-1] for case in cases])
    names = sorted({case.training for case in cases})
    of_training = np.array([names.index(case.training) for case in cases])
    counts = np.bincount(of_training)
    weights = 1.0 / counts[of_training]
    levels = ((1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2)
    misses = np.empty(len(cases))
    for fold in range(FOLDS):
        held = of_training % FOLDS == fold
        low, _, high = np.sort(
            [_line(rows[~held], rises[~held], weights[~held], q) @ rows[held].T for q in levels], axis=0
        )
        misses[held] = np.maximum(low - rises[held], rises[held] - high) / np.sqrt(left[held])
    order = np.argsort(misses)
    covered = np.cumsum(weights[order]) / len(names)
    place = min(int(np.searchsorted(covered, LEVEL * (1 + 1 / len(names)))), len(order) - 1)
    return {
        "confidence_level": LEVEL,
        "coefficients": [np.round(_line(rows, rises, weights, q), 6).tolist() for q in levels],
        "margin": round(max(0.0, float(misses[order[place]])), 6),
        "trainings": len(names),
        "cases": len(cases),
        "covered_without_margin": round(float((weights * (misses <= 0)).sum() / len(names)), 4),
    }


def _line(rows: np.ndarray, values: np.ndarray, weights: np.ndarray, quantile: float) -> np.ndarray:
    """Quantile regression through the origin, as a linear program."""
    cases, size = rows.shape
    costs = np.concatenate([np.zeros(size), quantile * weights, (1 - quantile) * weights])
    equal = np.hstack([rows, np.eye(cases), -np.eye(cases)])
    bounds = [(None, None)] * size + [(0, None)] * (2 * cases)
    found = linprog(costs, A_eq=equal, b_eq=values, bounds=bounds, method="highs")
    return found.x[:size]


@dataclass(frozen=True)
class Told:
    """A case and its forecast."""

    case: Case
    forecast: ExposureForecast

    @property
    def is_covered(self) -> bool:
        return self.forecast.low_bits <= self.case.end_bits <= self.forecast.high_bits


def tested(trainings: list[dict[str, Any]]) -> dict[str, Any]:
    """Evaluates the forecast on training runs: coverage, widths and missing forecasts."""
    told = [
        Told(case, forecast_exposure(case.fractions, case.bits, case.top_bits, case.canaries))
        for training in trainings
        for case in cases_of(training)
    ]
    spoken = [one for one in told if one.forecast.silence is None]
    enough = [one for one in told if len(one.case.bits) >= FEWEST_MEASUREMENTS]
    halfway = [one for one in enough if 0.45 < one.case.fractions[-1] < 0.55]
    to_tell = [
        one for one in halfway if one.case.end_bits > FORGOTTEN_BITS and one.forecast.silence is not Silence.AT_TOP
    ]
    wide = [
        (one.forecast.high_bits - one.forecast.low_bits) / one.case.top_bits
        for one in halfway
        if one.forecast.silence is None
    ]
    errors = [abs(one.forecast.expected_bits - one.case.end_bits) for one in spoken]
    same = [abs(one.case.bits[-1] - one.case.end_bits) for one in spoken]
    quarters = {
        f"{low} to {high}": _coverage([one for one in spoken if low <= one.case.fractions[-1] < high])
        for low, high in ((0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.0))
    }
    return {
        "trainings": len(trainings),
        "forecasts": len(spoken),
        "coverage": _coverage(spoken),
        "coverage_interval_95": _bootstrap(spoken),
        "coverage_by_share_done": quarters,
        "coverage_by_repetitions": {
            str(count): _coverage([one for one in spoken if one.case.repetitions == count])
            for count in sorted({one.case.repetitions for one in spoken})
        },
        "trainings_all_covered": _share([all(o.is_covered for o in group) for group in _by_training(spoken)]),
        "median_width_halfway_share": float(np.median(wide)),
        "spoken_halfway_of_those_that_rise": _share([one.forecast.silence is None for one in to_tell]),
        "mean_error_bits": float(np.mean(errors)),
        "mean_error_of_no_change_bits": float(np.mean(same)),
        "silences": dict(Counter(str(one.forecast.silence.value) for one in told if one.forecast.silence)),
        "silent_at_chance_that_ended_above_4_bits": _share(
            [one.case.end_bits > FORGOTTEN_BITS for one in enough if one.forecast.silence is Silence.AT_CHANCE]
        ),
    }


def of_an_lstm() -> dict[str, Any]:
    """A different kind of training: the mean of four runs of an LSTM with nine digits and canaries inserted once."""
    drawn = json.loads(OVERFITTING.read_text(encoding="utf-8"))
    series = drawn["plots"][0]["series"][0]
    fractions, bits = np.array(series["x"]) / series["x"][-1], np.array(series["y"])
    rows = []
    for last in range(FEWEST_MEASUREMENTS, len(bits)):
        found = forecast_exposure(fractions[:last], bits[:last], math.log2(10**9), drawn["settings"]["canaries"])
        if found.silence is None:
            told = {"low": found.low_bits, "expected": found.expected_bits, "high": found.high_bits}
            covers = bool(found.low_bits <= bits[-1] <= found.high_bits + 1e-3)
            rows.append({"done": float(fractions[last - 1]), "bits": float(bits[last - 1]), **told, "covers": covers})
    return {"end_bits": float(bits[-1]), "forecasts": rows}


def _by_training(told: list[Told]) -> list[list[Told]]:
    groups: dict[tuple[str, int], list[Told]] = {}
    for one in told:
        groups.setdefault(one.case.training, []).append(one)
    return list(groups.values())


def _coverage(told: list[Told]) -> float | None:
    """Returns the share of intervals that contain the final value, with each training run counted once."""
    shares = [_share([one.is_covered for one in group]) for group in _by_training(told)]
    return float(np.mean(shares)) if shares else None


def _bootstrap(told: list[Told]) -> list[float]:
    shares = np.array([_share([one.is_covered for one in group]) for group in _by_training(told)])
    draws = np.random.default_rng(0).choice(shares, (10_000, len(shares))).mean(axis=1)
    return np.quantile(draws, [0.025, 0.975]).tolist()


def _share(flags: list[bool]) -> float:
    return float(np.mean(flags)) if flags else float("nan")


def main() -> None:
    if sys.argv[1:] == ["fit"]:
        found = fit(trainings_of("fit"))
        FITTED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(found, indent=1))
    elif sys.argv[1:] == ["test"]:
        result: dict[str, Any] = {part: tested(trainings_of(part)) for part in ("test", "transfer")}
        own, other = result["test"], result["transfer"]
        result["rules"] = {
            "coverage at least 85 %": own["coverage"] >= LEAST_COVERAGE,
            "half-way narrower than 0.4 log2|R|": own["median_width_halfway_share"] < WIDEST_SHARE,
            "speaks for at least half": own["spoken_halfway_of_those_that_rise"] >= LEAST_SPOKEN,
            "coverage of another architecture at least 85 %": other["coverage"] >= LEAST_COVERAGE,
        }
        result["an LSTM, nine digits"] = of_an_lstm()
        print(json.dumps(result, indent=1))
        print(write_result("forecast", result))
    else:
        sys.exit("usage: python -m benchmarks.forecast fit|test")


if __name__ == "__main__":
    main()
