"""How much is exposed, learned and forgotten: plain arrays in, plain records out. numpy and scipy only."""

from __future__ import annotations

from hf_exposure.estimators.control_test import ControlTest, control_test
from hf_exposure.estimators.difference import difference_interval
from hf_exposure.estimators.dynamics import (
    DataMap,
    Difficulty,
    ForgettingEvents,
    ForgettingOverSteps,
    MomentumLosses,
    NoiseCurves,
    alpha_k_forgetting,
    area_under_margin,
    by_example,
    data_map,
    difficulty,
    exact_memorization_curve,
    first_split_learning_time,
    forgetting_events,
    gini,
    momentum_losses,
    noise_curves,
    second_split_forgetting_time,
    time_to_fit,
    variance_of_gradients,
)
from hf_exposure.estimators.epsilon import EpsilonBound, epsilon_lower_bound, one_run_p_value
from hf_exposure.estimators.estimate import CostEstimate
from hf_exposure.estimators.importance import WeightCheck, check_weights, importance_exposure
from hf_exposure.estimators.intervals import clopper_pearson, clopper_pearson_low, mean_interval
from hf_exposure.estimators.rank import enumeration_exposure, exposure_from_rank, ranks, sampling_exposure
from hf_exposure.estimators.skew_normal import (
    FitJudgement,
    SkewNormalFit,
    fit_skew_normal,
    judge_fit,
    log_cdf,
    skew_normal_exposure,
)

__all__ = [
    "ControlTest",
    "CostEstimate",
    "DataMap",
    "Difficulty",
    "EpsilonBound",
    "FitJudgement",
    "ForgettingEvents",
    "ForgettingOverSteps",
    "MomentumLosses",
    "NoiseCurves",
    "SkewNormalFit",
    "WeightCheck",
    "alpha_k_forgetting",
    "area_under_margin",
    "by_example",
    "check_weights",
    "clopper_pearson",
    "clopper_pearson_low",
    "control_test",
    "data_map",
    "difference_interval",
    "difficulty",
    "enumeration_exposure",
    "epsilon_lower_bound",
    "exact_memorization_curve",
    "exposure_from_rank",
    "first_split_learning_time",
    "fit_skew_normal",
    "forgetting_events",
    "gini",
    "importance_exposure",
    "judge_fit",
    "log_cdf",
    "mean_interval",
    "momentum_losses",
    "noise_curves",
    "one_run_p_value",
    "ranks",
    "sampling_exposure",
    "second_split_forgetting_time",
    "skew_normal_exposure",
    "time_to_fit",
    "variance_of_gradients",
]
