"""When one run suffices: canaries with low counts, assigned to many runs by `run_canary_subsets`.

python -m examples.many_trainings.one_run --data TEXT_FILE --store FOLDER

Below the maximum exposure (log2 of the space), canaries with equal counts may differ consistently: some codes are
easier than others. The consistent share of their variance is the information that one run has about a canary beyond
its count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from scipy import stats
from torch import nn

from examples.many_trainings.canaries import TEMPLATE, Train, scores
from examples.many_trainings.study import Options, draw_lines, parse_options, write_result
from examples.secret_sharer.claims import interval
from examples.secret_sharer.results import Stopwatch
from hf_exposure import CanarySet, draw_canaries, run_canary_subsets
from hf_exposure.estimators import runs_for_reliability


@dataclass(frozen=True, kw_only=True)
class Size:
    lines: int
    each: int
    controls: int
    models: int
    epochs: int
    counts: tuple[int, ...] = (1, 2, 4)


SIZES = {
    "smallest": Size(lines=30, each=2, controls=2, models=4, epochs=1),
    "small": Size(lines=200, each=12, controls=12, models=40, epochs=3),
}


@dataclass(frozen=True)
class TrainOnTexts:
    epochs: int

    def __call__(self, rows: Dataset) -> nn.Module:
        return Train(self.epochs)([(text, 1) for text in rows["text"][:]])


def exposures(model: nn.Module, canaries: CanarySet) -> npt.NDArray[np.float64]:
    return scores(model, [(canary.text, 1) for canary in canaries])


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    lines, name = draw_lines(options.data, size.lines)
    # The set is drawn once: if it were drawn again, even with the same seed, it would have other ids, so the store
    # would treat it as another set.
    file = options.store / "canaries.json"
    if not file.exists():
        options.store.mkdir(parents=True, exist_ok=True)
        draw_canaries(TEMPLATE, dict.fromkeys(size.counts, size.each), controls=size.controls, seed=0).save(file)
    canaries = CanarySet.load(file)
    runs = run_canary_subsets(
        TrainOnTexts(size.epochs), Dataset.from_dict({"text": lines}), canaries, size.models,
        store=options.store, exposures=exposures, n_jobs=options.jobs,
    )  # fmt: skip
    if runs.runs.missing or runs.runs.diverged:
        raise SystemExit(f"missing runs {runs.runs.missing[:5]}, diverged {dict(runs.runs.diverged)}")
    found = runs.counterfactual()
    caused, counts = found.caused.memorization_N, runs.repetitions_C
    whole = runs.reliability()
    # For each run: what inclusion caused according to its own controls, minus what it caused according to all runs.
    by_controls = []
    for run_number in range(len(runs.exposures_MC)):
        had = runs.included_MC[run_number]
        chance = runs.control_exposures_MK[run_number].mean()
        by_controls.append(float(runs.exposures_MC[run_number, had].mean() - chance - caused[had].mean()))
    figures: dict[str, Any] = {
        "reliability": _shown(whole),
        "correlation": [value for value in runs.agreement().correlation_M.tolist() if value == value],
        "count_correlation": float(stats.spearmanr(counts, caused).statistic),
        "one_run_by_controls_minus_caused": by_controls,
        "control_bits": runs.control_exposures_MK.mean(0).tolist(),
        "without_bits": found.without_C.tolist(),
        "by_count": [
            {
                "count": count,
                "with_bits": float(found.with_C[counts == count].mean()),
                "caused_bits": float(caused[counts == count].mean()),
                "caused_interval": list(interval(caused[counts == count])[1:]),
                "reliability": _shown(runs.reliability(count)),
                "runs_for_0.8": runs_for_reliability(runs.reliability(count)),
            }
            for count in size.counts
        ],
        "seconds_a_run": float(np.median(runs.runs.seconds_M)),
    }
    settings = {"lines": size.lines, "canaries_each": size.each, "controls": size.controls, "models": size.models}
    settings |= {"epochs": size.epochs, "counts": list(size.counts), "space": TEMPLATE.space_size}
    write_result(options, "one_run", data=name, settings=settings, figures=figures, cost=watch.read())


def _shown(found: Any) -> dict[str, Any]:
    names = ("reliability", "low", "high", "between_bits", "within_bits", "reason")
    return {name: getattr(found, name) for name in names}


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
