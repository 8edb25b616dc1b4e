"""What concerns whole trainings: the cost planner before they run, their layers changed afterwards, tied dropout."""

from hf_exposure.runs.cost_planner import plan_cost
from hf_exposure.runs.example_tied import ExampleTied
from hf_exposure.runs.layers import LayerScores, retrain_layers, rewind_layers

__all__ = ["ExampleTied", "LayerScores", "plan_cost", "retrain_layers", "rewind_layers"]
