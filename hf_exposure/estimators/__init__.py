"""How much is exposed: plain arrays of costs in, one record per cost out. numpy and scipy only."""

from __future__ import annotations

from hf_exposure.estimators.control_test import ControlTest, control_test
from hf_exposure.estimators.correlation import Correlation, pearson_correlation
from hf_exposure.estimators.counterfactual import (
    CounterfactualMemorization,
    Reliability,
    Undefined,
    consistency_score,
    counterfactual_influence,
    counterfactual_memorization,
    influence_standard_errors,
    label_memorization,
    memorization_intervals,
    models_for_reliability,
    models_for_standard_error,
    split_half_reliability,
    undefined_rows,
)
from hf_exposure.estimators.counterfactual_exposure import (
    CounterfactualExposure,
    counterfactual_exposure,
    one_run_agreement,
)
from hf_exposure.estimators.difference import difference_interval
from hf_exposure.estimators.epsilon import EpsilonBound, default_guesses, epsilon_lower_bound, one_run_p_value
from hf_exposure.estimators.estimate import CostEstimate
from hf_exposure.estimators.gaussian_epsilon import gaussian_delta, gaussian_epsilon, gaussian_mu
from hf_exposure.estimators.importance import WeightCheck, check_weights, importance_exposure
from hf_exposure.estimators.intervals import clopper_pearson, clopper_pearson_low, mean_interval
from hf_exposure.estimators.lead import lead_over_runner_up
from hf_exposure.estimators.likelihood_ratio import lira, lira_leave_one_out, logit_confidence, rmia
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
    "CounterfactualExposure",
    "CounterfactualMemorization",
    "EpsilonBound",
    "FitJudgement",
    "RankEpsilon",
    "Reliability",
    "RocCurve",
    "Separation",
    "SkewNormalFit",
    "TokenSignals",
    "TruePositiveRate",
    "Undefined",
    "WeightCheck",
    "base_calibrated",
    "check_weights",
    "clopper_pearson",
    "clopper_pearson_low",
    "consistency_score",
    "control_test",
    "counterfactual_exposure",
    "counterfactual_influence",
    "counterfactual_memorization",
    "default_guesses",
    "difference_interval",
    "enumeration_exposure",
    "epsilon_from_ranks",
    "epsilon_lower_bound",
    "error_zone",
    "exact_memorization",
    "exposure_from_rank",
    "extraction_strength",
    "fit_skew_normal",
    "gaussian_delta",
    "gaussian_epsilon",
    "gaussian_mu",
    "importance_exposure",
    "influence_standard_errors",
    "judge_fit",
    "label_memorization",
    "lead_over_runner_up",
    "lira",
    "lira_leave_one_out",
    "log_cdf",
    "logit_confidence",
    "loss",
    "mean_interval",
    "memorization_intervals",
    "min_k",
    "min_k_plus_plus",
    "models_for_reliability",
    "models_for_standard_error",
    "one_run_agreement",
    "one_run_p_value",
    "paired_p_value",
    "pearson_correlation",
    "rank_p_value",
    "ranks",
    "rmia",
    "roc_curve",
    "sampling_exposure",
    "separation",
    "skew_normal_exposure",
    "split_half_reliability",
    "tpr_at_fpr",
    "undefined_rows",
    "zlib_ratio",
]
