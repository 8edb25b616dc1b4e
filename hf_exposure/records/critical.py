"""The critical sample ratios of one training, as a record that can be shown, saved and published."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hf_exposure.presenting import Presented
from hf_exposure.records.run_log import PlainRecord


@dataclass(frozen=True)
class CriticalRun(Presented):
    """All measurements of one training by a `CriticalSampleRatio`.

    `print` shows them as a table; `to_pandas` returns it.

    Attributes:
        records: the measurements, oldest first; at least one has a ratio.
        name: the name of the measure.

    Example:
        >>> from hf_exposure.records.run_log import PlainRecord
        >>> figures = {"eval_critical_ratio": 0.5, "eval_critical_low": 0.25, "eval_critical_high": 0.75}
        >>> run = CriticalRun([PlainRecord(figures=figures, step=3)])
        >>> run.figure(run.records[0], "low")
        0.25
    """

    records: Sequence[PlainRecord]
    name: str = "critical"
    kind: ClassVar[str] = "critical"

    def figure(self, record: PlainRecord, which: str) -> float:
        """The "ratio", "low" or "high" of one measurement; NaN if it failed."""
        return float(record.figures.get(f"eval_{self.name}_{which}", math.nan))

    def save(self, folder: str | Path) -> list[Path]:
        """Writes `critical_samples.html` and, if matplotlib is installed, its plot."""
        written: list[Path] = self.presented("save", folder)
        return written

    def push_to_hub(self, repo_id: str, **arguments: Any) -> str:
        """Writes the last ratio and a section with the measurements into the card of a model on the Hub.

        Args:
            repo_id: "user/model".
            **arguments: the arguments of `hf_exposure.hub.push_card`: create_pr, token, revision, private.

        Returns:
            The address of the commit, or of the pull request.
        """
        return str(self.presented("push", repo_id, **arguments))
