"""How much is exposed: plain arrays of costs in, one record per cost out. numpy and scipy only."""

from __future__ import annotations

from hf_exposure.estimators.control_test import ControlTest, control_test
from hf_exposure.estimators.correlation import Correlation, pearson_correlation
from hf_exposure.estimators.difference import difference_interval
from hf_exposure.estimators.epsilon import EpsilonBound, epsilon_lower_bound, one_run_p_value
from hf_exposure.estimators.estimate import CostEstimate
from hf_exposure.estimators.importance import WeightCheck, check_weights, importance_exposure
from hf_exposure.estimators.intervals import clopper_pearson, clopper_pearson_low, mean_interval
from hf_exposure.estimators.lead import lead_over_runner_up
from hf_exposure.estimators.paired_test import paired_p_value
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
    "Correlation",
    "CostEstimate",
    "EpsilonBound",
    "FitJudgement",
    "SkewNormalFit",
    "WeightCheck",
    "check_weights",
    "clopper_pearson",
    "clopper_pearson_low",
    "control_test",
    "difference_interval",
    "enumeration_exposure",
    "epsilon_lower_bound",
    "exposure_from_rank",
    "fit_skew_normal",
    "importance_exposure",
    "judge_fit",
    "lead_over_runner_up",
    "log_cdf",
    "mean_interval",
    "one_run_p_value",
    "paired_p_value",
    "pearson_correlation",
    "ranks",
    "sampling_exposure",
    "skew_normal_exposure",
]
