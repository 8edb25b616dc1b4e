"""How much is exposed, learned and forgotten: plain arrays in, plain records out. numpy and scipy only."""

from __future__ import annotations

from hf_exposure.estimators.control_test import ControlTest, control_test
from hf_exposure.estimators.correlation import Correlation, pearson_correlation
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
from hf_exposure.estimators.epsilon import EpsilonBound, default_guesses, epsilon_lower_bound, one_run_p_value
from hf_exposure.estimators.estimate import CostEstimate
from hf_exposure.estimators.gaussian_epsilon import gaussian_delta, gaussian_epsilon, gaussian_mu
from hf_exposure.estimators.importance import WeightCheck, check_weights, importance_exposure
from hf_exposure.estimators.intervals import clopper_pearson, clopper_pearson_low, mean_interval
from hf_exposure.estimators.lead import lead_over_runner_up
from hf_exposure.estimators.membership import (
    Separation,
    TokenSignals,
    base_calibrated,
    error_zone,
    exact_memorization,
    extraction_strength,
    loss,
    min_k,
    min_k_plus_plus,
    separation,
    zlib_ratio,
)
from hf_exposure.estimators.paired_test import paired_p_value
from hf_exposure.estimators.rank import enumeration_exposure, exposure_from_rank, ranks, sampling_exposure
from hf_exposure.estimators.rank_epsilon import RankEpsilon, epsilon_from_ranks, rank_p_value
from hf_exposure.estimators.rates import RocCurve, TruePositiveRate, roc_curve, tpr_at_fpr
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
    "Correlation",
    "CostEstimate",
    "DataMap",
    "Difficulty",
    "EpsilonBound",
    "FitJudgement",
    "ForgettingEvents",
    "ForgettingOverSteps",
    "MomentumLosses",
    "NoiseCurves",
    "RankEpsilon",
    "RocCurve",
    "Separation",
    "SkewNormalFit",
    "TokenSignals",
    "TruePositiveRate",
    "WeightCheck",
    "alpha_k_forgetting",
    "area_under_margin",
    "base_calibrated",
    "by_example",
    "check_weights",
    "clopper_pearson",
    "clopper_pearson_low",
    "control_test",
    "data_map",
    "default_guesses",
    "difference_interval",
    "difficulty",
    "enumeration_exposure",
    "epsilon_from_ranks",
    "epsilon_lower_bound",
    "error_zone",
    "exact_memorization",
    "exact_memorization_curve",
    "exposure_from_rank",
    "extraction_strength",
    "first_split_learning_time",
    "fit_skew_normal",
    "forgetting_events",
    "gaussian_delta",
    "gaussian_epsilon",
    "gaussian_mu",
    "gini",
    "importance_exposure",
    "judge_fit",
    "lead_over_runner_up",
    "log_cdf",
    "loss",
    "mean_interval",
    "min_k",
    "min_k_plus_plus",
    "momentum_losses",
    "noise_curves",
    "one_run_p_value",
    "paired_p_value",
    "pearson_correlation",
    "rank_p_value",
    "ranks",
    "roc_curve",
    "sampling_exposure",
    "second_split_forgetting_time",
    "separation",
    "skew_normal_exposure",
    "time_to_fit",
    "tpr_at_fpr",
    "variance_of_gradients",
    "zlib_ratio",
]
