"""Claims as data: a sentence and a rule on stored numbers, so that anyone can check them without running an
experiment.

    [[claims]]
    source = "paper"                      # or "ours"; only claims of the paper decide a verdict
    sentence = "The canary is the likeliest of all 10^9 numbers."
    rule = "all_at_most"
    numbers = "runs.*.rank_high"          # a path into the figures
    than = 1

A claim from the paper names its `section`, a claim from another paper also its `work`. A claim that an experiment
cannot test has `untested = "the reason"` instead of a rule.

A path has keys and indices, separated by dots. `*` stands for all items of a list or object, `[key=value,...]` for the
items of a list with these values. With `minus`, a second path, the numbers are paired differences, up to the length of
the shorter list: the models of a cell are in the order of their seeds. `of` names the result whose numbers are used.
With `defined_only = true`, undefined numbers (null) are left out if at least one is defined.

The rules:

- mean_above, mean_below: the 95 % t-interval of the mean lies above, below `than`;
- mean_holds: the 95 % t-interval of the mean contains `than`;
- all_at_least, all_at_most: every number is at least, at most `than`;
- share_at_least, share_at_most: of all numbers a `share` or more is at least, at most `than`;
- interval_holds: two numbers, the ends of an interval, which contains `than`.

The power of a rule is the smallest effect that a number of models can show. It is computed before any run, from the
scatter of single models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from scipy.optimize import brentq

__all__ = [
    "RULES",
    "Checked",
    "check_claim",
    "detectable_difference",
    "interval",
    "numbers_at",
    "share_power",
    "verdict",
]

RULES = {
    "mean_above": "95 % interval of the mean above {}",
    "mean_below": "95 % interval of the mean below {}",
    "mean_holds": "95 % interval of the mean contains {}",
    "all_at_least": "every one at least {}",
    "all_at_most": "every one at most {}",
    "share_at_least": "{share:.0%} or more at least {}",
    "share_at_most": "{share:.0%} or more at most {}",
    "interval_holds": "interval contains {}",
}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A claim, and the result of checking it on figures.

    Attributes:
        words: the claim as written.
        values: the numbers that it is about; empty if the figures lack them, or if it is not tested.
        spread: (mean, low, high): the interval for rules on the mean, otherwise the smallest and the largest number.
        holds: None if it is not tested.
    """

    words: Mapping[str, Any]
    values: tuple[float, ...]
    spread: tuple[float, float, float]
    holds: bool | None

    @property
    def is_the_papers(self) -> bool:
        return bool(self.words["source"] == "paper")


def numbers_at(figures: Any, path: str) -> list[float]:
    """All numbers at `path`, in order; NaN for null.

    Raises:
        KeyError, IndexError: the figures have nothing at this path.

    Example:
        >>> numbers_at({"runs": [{"bits": 1.0, "width": 8}, {"bits": 2.0, "width": 16}]}, "runs.*.bits")
        [1.0, 2.0]
        >>> numbers_at({"runs": [{"bits": 1.0, "width": 8}, {"bits": 2.0, "width": 16}]}, "runs.[width=16].bits")
        [2.0]
    """
    found = [figures]
    for part in path.split("."):
        if part == "*":
            found = [item for value in found for item in (value.values() if isinstance(value, dict) else value)]
        elif part.startswith("["):
            wanted = [pair.split("=") for pair in part.strip("[]").split(",")]
            found = [
                item for value in found for item in value if all(str(item[key]).lower() == one for key, one in wanted)
            ]
        else:
            found = [value[int(part)] if isinstance(value, list) else value[part] for value in found]
    return [math.nan if value is None else float(value) for value in found]


def interval(numbers: Any) -> tuple[float, float, float]:
    """(mean, low, high): the 95 % t-interval of the mean of independent numbers; NaN if there are too few."""
    values_N = np.asarray(numbers, dtype=np.float64)
    if not values_N.size:
        return math.nan, math.nan, math.nan
    mean = float(values_N.mean())
    if len(values_N) < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(0.975, len(values_N) - 1) * values_N.std(ddof=1) / math.sqrt(len(values_N)))
    return mean, mean - half, mean + half


def check_claim(words: Mapping[str, Any], figures: Mapping[str, Any]) -> Checked:
    """Checks the claim on these figures. A claim without numbers, or with a NaN, does not hold.

    Example:
        >>> words = {"source": "ours", "sentence": "", "rule": "all_at_most", "numbers": "ranks.*", "than": 1}
        >>> check_claim(words, {"ranks": [1, 1]}).holds, check_claim(words, {"ranks": [1, 5]}).holds
        (True, False)
    """
    if "untested" in words:
        return Checked(words=words, values=(), spread=(math.nan,) * 3, holds=None)
    try:
        values = numbers_at(figures, words["numbers"])
        if "minus" in words:
            less = numbers_at(figures, words["minus"])
            values = [one - other for one, other in zip(values, less, strict=False)]
    except (KeyError, IndexError):  # the smallest size measures less
        values = []
    if words.get("defined_only"):
        values = [value for value in values if not math.isnan(value)]
    than, rule = float(words["than"]), words["rule"]
    whole = bool(values) and not np.isnan(values).any()
    mean, low, high = interval(values)
    least, greatest = (min(values), max(values)) if whole else (math.nan, math.nan)
    share = float(words.get("share", 1.0))
    holds = {
        "mean_above": low > than,
        "mean_below": high < than,
        "mean_holds": low <= than <= high,
        "all_at_least": least >= than,
        "all_at_most": greatest <= than,
        "share_at_least": whole and np.mean(np.asarray(values) >= than) >= share,
        "share_at_most": whole and np.mean(np.asarray(values) <= than) >= share,
        "interval_holds": least <= than <= greatest,
    }[rule]
    spread = (mean, low, high) if rule.startswith("mean") else (mean, least, greatest)
    return Checked(words=words, values=tuple(values), spread=spread, holds=bool(holds))


def verdict(checked: Sequence[Checked]) -> str:
    """The verdict on the paper's claims; our claims do not affect it.

    "holds": all of them were tested and hold. "holds in part": all that were tested hold. "differs": one does not.
    "not tested": none was tested. "ours alone": the paper has no claim here.
    """
    found = [one.holds for one in checked if one.is_the_papers]
    if not found:
        return "ours alone"
    tested = [holds for holds in found if holds is not None]
    if not tested:
        return "not tested"
    if not all(tested):
        return "differs"
    return "holds" if len(tested) == len(found) else "holds in part"


def detectable_difference(sd: float, models: int, power: float = 0.8, level: float = 0.95) -> float:
    """The mean difference that a two-sided t-test of `models` independent differences detects with this power.

    Args:
        sd: standard deviation of one difference, in any unit; the result has the same unit.

    Example:
        >>> round(detectable_difference(1.0, 10), 2)
        1.0
    """
    degrees = models - 1
    limit = float(stats.t.ppf((1 + level) / 2, degrees))

    def shortfall(difference: float) -> float:
        # The square of a noncentral t is a noncentral F, which SciPy computes more stably.
        return float(stats.ncf.sf(limit**2, 1, degrees, models * difference**2)) - power

    return sd * float(brentq(shortfall, 0.0, (2.0 * limit + 5.0) / math.sqrt(models)))


def share_power(models: int, share: float, true_share: float) -> float:
    """The probability that "a `share` or more of `models`" holds if each model meets it with chance `true_share`.

    Example:
        >>> round(share_power(10, 0.8, 0.95), 3), round(share_power(10, 0.8, 0.5), 3)
        (0.988, 0.055)
    """
    fewest = math.ceil(share * models - 1e-9)
    return float(stats.binom.sf(fewest - 1, models, true_share))
