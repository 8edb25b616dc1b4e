"""A cost plan as text for a terminal: the tokens, passes and time of each part of a measurement, and its memory."""

from __future__ import annotations

import math

from hf_exposure.records import CostPlan, Spent
from hf_exposure.records.cost_plan import PartName
from hf_exposure.report.table import Table

_NAMES: dict[PartName, str] = {
    "probe": "check of the scoring mode",
    "texts": "canaries and texts to compare with",
    "references": "all weighted draws",
    "search": "search to the end of its budget",
}


def plan_text(plan: CostPlan) -> str:
    """The text that `print(plan)` shows: a table of the parts, then what the cost depends on, and the memory."""
    lines = [f"{plan.canaries:,} canaries among {plan.space_size:,} candidate secrets by {plan.method}"]
    if plan.choice:
        lines.append(plan.choice)
    is_timed = not math.isnan(plan.tokens_per_second)
    spent = {_NAMES[name]: part for name, part in plan.parts.items()} | {"total": plan.full}
    if plan.unmemorized is not None:
        spent["total if nothing is memorized"] = plan.unmemorized
    table = Table(
        caption="Cost of a measurement",
        heads=("", "tokens", "passes", *(["time"] if is_timed else [])),
        rows=[
            [name, f"{part.tokens:,}", f"{part.passes:,}", *([_time(plan, part)] if is_timed else [])]
            for name, part in spent.items()
        ],
        kinds=("text", "", "", ""),
    )
    lines += ["", str(table), ""]
    if plan.unmemorized is not None:
        lines.append(
            "Drawing stops once most intervals are narrow enough; a search runs only if a canary may rank high."
        )
    lines.append(
        f"Memory: {_size(plan.weight_bytes)} of weights ({plan.parameters:,} in {plan.dtype}), and tensors of up to "
        f"{_size(plan.peak_bytes)}{_unmemorized(plan)}, {_size(plan.cache_bytes)} of them key-value caches."
    )
    lines.append(f"Assumed: the model is scored in mode {plan.scoring_mode!r}{_rate(plan) if is_timed else ''}.")
    return "\n".join(lines)


def _unmemorized(plan: CostPlan) -> str:
    peak = plan.unmemorized_peak_bytes
    return "" if peak is None else f" ({_size(peak)} if nothing is memorized)"


def _rate(plan: CostPlan) -> str:
    per_pass = f" and {plan.seconds_per_pass:g} s a pass" if plan.seconds_per_pass else ""
    return (
        f", at {plan.tokens_per_second:,.0f} tokens a second{per_pass}; {plan.full.own_seconds:.1f} s of them are "
        "this package's own"
    )


def _time(plan: CostPlan, spent: Spent) -> str:
    seconds = plan.seconds(spent)
    return f"{seconds:.1f} s" if seconds < 600 else f"{seconds / 60:,.0f} min"


def _size(count: int) -> str:
    """Bytes with three significant digits.

    Example:
        >>> _size(497_759_232), _size(1_250_000), _size(36)
        ('498 MB', '1.25 MB', '36 B')
    """
    unit, power = next(
        ((unit, power) for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)) if count >= 10**power), ("B", 0)
    )
    return f"{count / 10**power:.3g} {unit}"
