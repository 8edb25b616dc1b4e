"""What concerns whole trainings: what measuring costs in them, many on random subsets, layers changed afterwards."""

from hf_exposure.runs.canary_subsets import CanaryRuns, run_canary_subsets
from hf_exposure.runs.cost_planner import plan_cost
from hf_exposure.runs.example_tied import ExampleTied
from hf_exposure.runs.layers import LayerScores, retrain_layers, rewind_layers
from hf_exposure.runs.subset_store import SubsetRuns
from hf_exposure.runs.subsets import RunFailedError, draw_subsets, load_subset_runs, run_subsets, seed_of_run
from hf_exposure.runs.text_score import TextScore
from hf_exposure.runs.trainer_recipe import TrainerRecipe

__all__ = [
    "CanaryRuns",
    "ExampleTied",
    "LayerScores",
    "RunFailedError",
    "SubsetRuns",
    "TextScore",
    "TrainerRecipe",
    "draw_subsets",
    "load_subset_runs",
    "plan_cost",
    "retrain_layers",
    "rewind_layers",
    "run_canary_subsets",
    "run_subsets",
    "seed_of_run",
]
