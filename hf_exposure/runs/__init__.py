"""Complete training runs: the cost of measuring, training on many random subsets, changing layers afterwards."""

from hf_exposure.runs.canary_subsets import CanaryRuns, run_canary_subsets
from hf_exposure.runs.co_teaching import CoTeachingTrainer, TwoNetworks, co_teaching_loss, keep_share
from hf_exposure.runs.cost_planner import plan_cost
from hf_exposure.runs.critical_updates import CriticalUpdates, keep_critical_gradients
from hf_exposure.runs.early_learning import EarlyLearningTrainer, early_learning_loss
from hf_exposure.runs.example_tied import ExampleTied
from hf_exposure.runs.layers import LayerScores, retrain_layers, rewind_layers
from hf_exposure.runs.subset_store import SubsetRuns
from hf_exposure.runs.subsets import RunFailedError, draw_subsets, load_subset_runs, run_subsets, seed_of_run
from hf_exposure.runs.text_score import TextScore
from hf_exposure.runs.trainer_recipe import TrainerRecipe

__all__ = [
    "CanaryRuns",
    "CoTeachingTrainer",
    "CriticalUpdates",
    "EarlyLearningTrainer",
    "ExampleTied",
    "LayerScores",
    "RunFailedError",
    "SubsetRuns",
    "TextScore",
    "TrainerRecipe",
    "TwoNetworks",
    "co_teaching_loss",
    "draw_subsets",
    "early_learning_loss",
    "keep_critical_gradients",
    "keep_share",
    "load_subset_runs",
    "plan_cost",
    "retrain_layers",
    "rewind_layers",
    "run_canary_subsets",
    "run_subsets",
    "seed_of_run",
]
