"""What concerns whole trainings: the cost planner before they run, and many of them on random subsets."""

from hf_exposure.runs.cost_planner import plan_cost
from hf_exposure.runs.subset_store import SubsetRuns
from hf_exposure.runs.subsets import RunFailedError, draw_subsets, load_subset_runs, run_subsets, seed_of_run
from hf_exposure.runs.trainer_recipe import TrainerRecipe

__all__ = [
    "RunFailedError",
    "SubsetRuns",
    "TrainerRecipe",
    "draw_subsets",
    "load_subset_runs",
    "plan_cost",
    "run_subsets",
    "seed_of_run",
]
