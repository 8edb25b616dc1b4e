"""`hf-exposure subsets`: trains many models on random subsets of a data set, in one call or in one call per run."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_exposure.cli.config import ConfigOption
from hf_exposure.errors import InputError

if TYPE_CHECKING:
    from hf_exposure.runs import SubsetRuns

_MODULE = "hf_exposure_recipe"
_SHOWN = 5


def subsets(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE.py",
            help="Python file that defines dataset, train and score, and optionally test or masks.",
        ),
    ],
    store: Annotated[Path, typer.Option(help="Folder of the runs, which only you may read.")],
    models: Annotated[int, typer.Option(help="Number of models in all.")] = 64,
    share: Annotated[float, typer.Option(help="Share of the rows in each subset.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Seed of the subsets and training runs.")] = 0,
    index: Annotated[
        list[int], typer.Option(help="Index of the run to do now, from 0: one task of a job array. Default: all.")
    ] = [],  # noqa: B006
    jobs: Annotated[int, typer.Option(help="Number of parallel runs; -1 for all cores.")] = 1,
    backend: Annotated[
        str | None, typer.Option(help="Backend of joblib: loky or threading; ray or dask if the recipe sets them up.")
    ] = None,
    data_id: Annotated[
        str | None, typer.Option(help="Name of the data, which replaces its hash if hashing takes too long.")
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Train nothing; list what the store contains.")] = False,
    top: Annotated[int, typer.Option(help="Number of the most memorized rows to list.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Train many models on random subsets; report which rows are memorized, and whether there are enough models.

    RECIPE.py is executed as Python code. After a kill, the same command goes on: it keeps the finished runs and
    repeats the others.
    """
    if top < 0:
        raise InputError("--top", "must be 0 or more", top, "Leave it out for 10.")
    from hf_exposure.runs import draw_subsets, load_subset_runs, run_subsets
    from hf_exposure.runs.subset_data import count_rows

    if status:
        runs = load_subset_runs(store)
    else:
        parts = _parts_of(recipe)
        masks = parts["masks"]
        if masks is None:
            masks = draw_subsets(count_rows("dataset", parts["dataset"]), models, share, seed)
        runs = run_subsets(
            parts["train"],
            parts["dataset"],
            masks,
            store=store,
            score=parts["score"],
            test=parts["test"],
            index=index or None,
            n_jobs=jobs,
            backend=backend,
            seed=seed,
            data_id=data_id,
        )
    found = _summary(runs, top)
    typer.echo(json.dumps(found, indent=1, allow_nan=False) if as_json else _shown(found, store))


def _parts_of(path: Path) -> dict[str, Any]:
    """The definitions of a recipe. `dataset`, `test` and `masks` may be functions without arguments that load them."""
    if not path.is_file():
        raise InputError("RECIPE.py", "must be a Python file that exists", str(path), "Give another path.")
    module = _imported(path)
    names = ("dataset", "train", "score", "test", "masks")
    parts: dict[str, Any] = {name: getattr(module, name, None) for name in names}
    for name in ("dataset", "train", "score"):
        if parts[name] is None:
            rule, remedy = f"must define {name}", "Define dataset, train(subset) and score(model, rows)."
            raise InputError("RECIPE.py", rule, str(path), remedy)
    for name in ("dataset", "test", "masks"):
        if callable(parts[name]) and not hasattr(parts[name], "__len__"):
            parts[name] = parts[name]()
    return parts


def _imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    if spec is None or spec.loader is None:
        raise InputError("RECIPE.py", "must be a Python file", str(path), "Name it something.py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module
    sys.path.insert(0, str(path.resolve().parent))  # a recipe may import its neighbors, as a script may
    spec.loader.exec_module(module)
    # Worker processes could not import the recipe by name, so it is pickled by value. A recipe that uses ray has
    # loaded ray's own copy of cloudpickle.
    picklers = ["cloudpickle"] if importlib.util.find_spec("cloudpickle") else []
    for pickler in [*picklers, *({"ray.cloudpickle"} & {*sys.modules})]:
        importlib.import_module(pickler).register_pickle_by_value(module)
    return module


def _summary(runs: SubsetRuns, top: int) -> dict[str, Any]:
    """Summarizes a store, finished or not; undefined values are None."""
    import numpy as np

    from hf_exposure.estimators import models_for_reliability

    found: dict[str, Any] = {
        "models": runs.planned,
        "finished": len(runs.runs_M),
        "missing": len(runs.missing),
        "diverged": {str(run): reason for run, reason in runs.diverged.items()},
        "seconds_a_run": float(np.median(runs.seconds_M)) if len(runs.seconds_M) else None,
        "undefined_rows": len(runs.undefined),
        "reliability": None,
        "models_for_reliability_0.8": None,
        "rows": [],
    }
    if not len(runs.runs_M):
        return found
    reliability, memorization = runs.reliability(), runs.memorization()
    found["reliability"] = None if reliability.reason else reliability.halves
    found["reliability_undefined"] = reliability.reason
    found["models_for_reliability_0.8"] = models_for_reliability(reliability)
    order = np.argsort(-np.nan_to_num(memorization.memorization_N, nan=-np.inf), kind="stable")
    for row in order[:top].tolist():
        if np.isnan(memorization.memorization_N[row]):
            break
        values = (memorization.memorization_N, memorization.low_N, memorization.high_N)
        low_high = [None if np.isnan(value[row]) else float(value[row]) for value in values]
        found["rows"].append(dict(zip(("memorization", "low", "high"), low_high, strict=True)) | {"row": row})
    return found


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _shown(found: dict[str, Any], store: Path) -> str:
    from hf_exposure.report.table import aligned

    lines = [f"{found['finished']} of {found['models']} runs are finished in {store}."]
    if found["diverged"]:
        reasons = ", ".join(f"{run} ({reason})" for run, reason in list(found["diverged"].items())[:_SHOWN])
        more = f" and {len(found['diverged']) - _SHOWN} more" if len(found["diverged"]) > _SHOWN else ""
        lines.append(f"{_runs(len(found['diverged']))} diverged and count in no figure: {reasons}{more}.")
    if found["missing"] and found["seconds_a_run"] is not None:
        minutes = found["missing"] * found["seconds_a_run"] / 60
        lines.append(f"Still missing: {_runs(found['missing'])}, about {minutes:.1f} minutes one after the other.")
    if found["undefined_rows"]:
        lines.append(
            f"{found['undefined_rows']} rows have fewer than two models trained with them, or fewer than two without."
        )
    if found["reliability"] is not None:
        lines.append(f"Two random halves of the models agree on the rows' scores: r = {found['reliability']:.2f}.")
        if (needed := found["models_for_reliability_0.8"]) is not None:
            lines.append(f"About {needed} models are needed for r = 0.8.")
        else:
            lines.append(
                "They agree no better than chance, so the necessary number of models cannot be estimated yet."
            )
    elif found.get("reliability_undefined"):
        lines.append(f"Whether there are enough models is undefined: {found['reliability_undefined']}.")
    if found["rows"]:
        heads = ["row", "memorization", "95 % limits"]
        table = [
            [
                str(one["row"]),
                f"{one['memorization']:.3f}",
                "undefined" if one["low"] is None else f"{one['low']:.3f} to {one['high']:.3f}",
            ]
            for one in found["rows"]
        ]
        lines += ["", "The most memorized rows, by the score of the recipe:", "", aligned([heads, *table])]
    return "\n".join(lines)
