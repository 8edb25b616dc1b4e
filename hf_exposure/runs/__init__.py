"""What concerns whole measurements and trainings before they run: the cost planner."""

from hf_exposure.runs.cost_planner import plan_cost

__all__ = ["plan_cost"]
